//! When the dispatch loop polls, runs its maintenance and checks its leases.

use std::time::{Duration, Instant};

/// How often the loop claims without being asked: for retries, events of other processes, and lost wake-ups.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How often maintenance runs: sign of life, dead dispatchers, probes, recoveries, snapshots.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(2);
/// Shortest sleep while a run of maintenance is overdue.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// Timers of the dispatch loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers {
    poll_at: Instant,
    maintenance_at: Instant,
    maintenance_under_way: bool,
    /// When leases and lanes are looked through. A wake-up brings a run of maintenance forward, but not this.
    lease_check_at: Instant,
}

impl Timers {
    /// Timers that are all due at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { poll_at: now, maintenance_at: now, maintenance_under_way: false, lease_check_at: now }
    }

    /// Whether to poll at `now`; if so, the next poll is due a second later.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        let is_due = now >= self.poll_at;
        if is_due {
            self.poll_at = now + POLL_EVERY;
        }
        is_due
    }

    /// Whether a run of maintenance begins at `now`; if so, says whether it checks leases and lanes.
    pub(super) fn begin_maintenance(&mut self, now: Instant) -> Option<bool> {
        if self.maintenance_under_way || now < self.maintenance_at {
            return None;
        }
        self.maintenance_under_way = true;
        // A wake-up meanwhile brings the next run forward again.
        self.maintenance_at = now + MAINTENANCE_EVERY;
        let checks_leases = now >= self.lease_check_at;
        if checks_leases {
            self.lease_check_at = now + MAINTENANCE_EVERY;
        }
        Some(checks_leases)
    }

    /// The run of maintenance under way ended.
    pub(super) fn end_maintenance(&mut self) {
        self.maintenance_under_way = false;
    }

    /// Makes the next run of maintenance due at `now`.
    pub(super) fn bring_maintenance_forward(&mut self, now: Instant) {
        self.maintenance_at = now;
    }

    pub(super) fn is_maintenance_under_way(&self) -> bool {
        self.maintenance_under_way
    }

    /// When the next of them is due.
    pub(super) fn next_at(&self, now: Instant) -> Instant {
        if self.maintenance_under_way {
            return self.poll_at;
        }
        self.poll_at.min(self.maintenance_at.max(now + SLEEP_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_is_due_a_second_after_the_one_before() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        assert!(timers.poll(start));
        assert!(!timers.poll(start + POLL_EVERY / 2));
        assert!(timers.poll(start + POLL_EVERY));
    }

    #[test]
    fn one_run_of_maintenance_is_under_way_at_a_time() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        assert_eq!(timers.begin_maintenance(start), Some(true));
        timers.bring_maintenance_forward(start);
        assert_eq!(timers.begin_maintenance(start), None);
        assert_eq!(timers.next_at(start), start, "the poll is due");
        timers.end_maintenance();
        assert_eq!(
            timers.begin_maintenance(start),
            Some(false),
            "brought forward, and leases are checked when it is time"
        );
        timers.end_maintenance();
        assert_eq!(timers.begin_maintenance(start + MAINTENANCE_EVERY), Some(true));
    }

    #[test]
    fn the_loop_sleeps_until_the_next_timer() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        timers.poll(start);
        assert_eq!(timers.next_at(start), start + SLEEP_MIN, "maintenance is overdue");
        timers.begin_maintenance(start);
        assert_eq!(timers.next_at(start), start + POLL_EVERY);
        timers.end_maintenance();
        assert_eq!(timers.next_at(start), start + POLL_EVERY);
        timers.poll(start + MAINTENANCE_EVERY);
        assert_eq!(timers.next_at(start), start + MAINTENANCE_EVERY);
    }
}
