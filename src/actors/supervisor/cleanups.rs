//! Schedules attempts to delete what connections without an actor left upstream. Pure; called by the
//! supervisor.
//!
//! The platform may be unavailable, or the credentials revoked: each attempt leaves audit entries, so
//! attempts grow rare.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::domain::ids::ConnectionId;

/// First wait between two attempts; each next one is twice as long.
const APART_FIRST: Duration = Duration::from_secs(5);
/// Longest wait.
const APART_LONGEST: Duration = Duration::from_secs(15 * 60);

/// Next attempt and the wait before it, by connection.
#[derive(Debug, Default)]
pub struct CleanUps {
    next: HashMap<ConnectionId, (Instant, Duration)>,
}

impl CleanUps {
    /// Whether an attempt is due; if so it counts as made.
    pub fn due(&mut self, id: ConnectionId, now: Instant) -> bool {
        match self.next.get_mut(&id) {
            Some((at, _)) if now < *at => false,
            Some((at, apart)) => {
                *apart = (*apart * 2).min(APART_LONGEST);
                *at = now + *apart;
                true
            }
            None => {
                self.next.insert(id, (now + APART_FIRST, APART_FIRST));
                true
            }
        }
    }

    /// Forgets connections that need no cleaning any more.
    pub fn forget_all_but(&mut self, needed: impl Fn(ConnectionId) -> bool) {
        self.next.retain(|id, _| needed(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_grow_rare_but_never_end() {
        let (mut cleanups, id, start) = (CleanUps::default(), ConnectionId::generate(), Instant::now());
        let due: Vec<u64> =
            (0..3600).filter(|second| cleanups.due(id, start + Duration::from_secs(*second))).collect();
        assert_eq!(due, [0, 5, 15, 35, 75, 155, 315, 635, 1275, 2175, 3075]);
    }

    #[test]
    fn a_connection_that_was_cleaned_starts_from_the_first_wait() {
        let (mut cleanups, id, start) = (CleanUps::default(), ConnectionId::generate(), Instant::now());
        assert!(cleanups.due(id, start));
        assert!(!cleanups.due(id, start));
        cleanups.forget_all_but(|_| false);
        assert!(cleanups.due(id, start));
    }
}
