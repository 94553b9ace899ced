//! Floor 1: what is true right now and is not worth a row. Actors write it, the API reads it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::domain::ids::{ConnectionId, SourceId, TenantId};
use crate::domain::presence::connection::GapCause;

/// A part that must be alive for the bridge to do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Keeps one actor for each connection that is wanted.
    Supervisor,
    /// Stores what the sockets bring.
    Recorder,
    /// Sends deliveries.
    Dispatcher,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 3] = [Self::Supervisor, Self::Recorder, Self::Dispatcher];

    /// As `/readyz` names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Recorder => "recorder",
            Self::Dispatcher => "dispatcher",
        }
    }
}

/// A part that has not given a sign of life for this long counts as dead.
const SIGN_OF_LIFE_WITHIN: Duration = Duration::from_secs(15);

/// `getMetrics` of one connection by the original specification, and its number of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConnectionMetrics {
    /// Mean round trip of the last 100 pings, in milliseconds; 0 without samples.
    pub average_latency_ms: f64,
    /// Share of round trips of at most 200 ms, in percent; 0 below 10 samples.
    pub stability_rate: f64,
    /// Round trips behind the two figures, at most 100.
    pub samples: usize,
    /// Reconnect attempts since the last healthy minute.
    pub attempt_count: u32,
    /// Last moment that a frame proved its socket live; `None` before the first.
    pub proven_at: Option<OffsetDateTime>,
    /// Its socket is open.
    pub open: bool,
    /// Agents that it watches.
    pub agents: usize,
}

/// What happened to the sockets of a source since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketNews {
    /// Sockets that were open and were lost.
    pub lost: u64,
    /// Why the last of them was; `None` if there is none.
    pub lost_by: Option<GapCause>,
    /// Sockets that another one has replaced while they were open.
    pub handed_over: u64,
}

/// What one minute brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Presence changes stored.
    pub changes: u64,
    /// Deliveries that their receivers took.
    pub deliveries: u64,
}

/// Minutes that are kept: the running one and the hour before it.
pub const MINUTES: usize = 61;

/// The last minutes by their number since 1970, without those that brought nothing, and the totals so far.
#[derive(Debug, Default)]
struct Throughput {
    minutes: VecDeque<(i64, Minute)>,
    total: Minute,
}

/// Webhooks of one tenant in one state, and their open deliveries.
#[derive(Clone, Debug)]
pub struct Backlog {
    pub tenant: TenantId,
    /// State of the webhooks, with two words that `store/views/backlog.rs` adds.
    pub webhook_state: String,
    pub webhooks: i64,
    pub open: i64,
    /// When the oldest of them was inserted.
    pub oldest: Option<OffsetDateTime>,
}

/// Live figures of this process. Cheap to lock: nothing is held while waiting.
#[derive(Debug, Default)]
pub struct Status {
    connections: Mutex<HashMap<ConnectionId, ConnectionMetrics>>,
    signs_of_life: Mutex<HashMap<Part, Instant>>,
    not_storing: Mutex<Option<String>>,
    socket_news: Mutex<HashMap<SourceId, SocketNews>>,
    throughput: Mutex<Throughput>,
    /// Backlogs of all tenants, and when they were counted; `None` before.
    backlogs: Mutex<Option<(OffsetDateTime, Vec<Backlog>)>>,
    not_sealing: Mutex<Option<String>>,
}

impl Status {
    /// Notes the figures of a connection.
    pub fn set_connection(&self, id: ConnectionId, metrics: ConnectionMetrics) {
        lock(&self.connections).insert(id, metrics);
    }

    /// Forgets a connection that is no longer held.
    pub fn remove_connection(&self, id: ConnectionId) {
        lock(&self.connections).remove(&id);
    }

    /// Figures of a connection; zeros if nothing is known yet.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> ConnectionMetrics {
        lock(&self.connections).get(&id).copied().unwrap_or_default()
    }

    /// Connections with the last moment of proof that each was live.
    #[must_use]
    pub fn proofs(&self) -> Vec<(ConnectionId, OffsetDateTime)> {
        lock(&self.connections).iter().filter_map(|(id, metrics)| Some((*id, metrics.proven_at?))).collect()
    }

    /// A socket of a source was lost.
    pub fn socket_lost(&self, source: SourceId, cause: GapCause) {
        let mut news = lock(&self.socket_news);
        let news = news.entry(source).or_default();
        news.lost += 1;
        news.lost_by = Some(cause);
    }

    /// Another socket of a source has taken an open one's place.
    pub fn socket_handed_over(&self, source: SourceId) {
        lock(&self.socket_news).entry(source).or_default().handed_over += 1;
    }

    /// What happened to the sockets of a source since this was asked last.
    #[must_use]
    pub fn take_socket_news(&self, source: SourceId) -> SocketNews {
        lock(&self.socket_news).remove(&source).unwrap_or_default()
    }

    /// A part says that it is alive; call it at least every few seconds.
    pub fn alive(&self, part: Part) {
        lock(&self.signs_of_life).insert(part, Instant::now());
    }

    /// Notes why changes cannot be stored at present, or that they can be.
    pub fn set_not_storing(&self, why: Option<String>) {
        *lock(&self.not_storing) = why;
    }

    /// Why changes cannot be stored at present.
    #[must_use]
    pub fn not_storing(&self) -> Option<String> {
        lock(&self.not_storing).clone()
    }

    /// Adds to the running minute what was counted since this was called last; `total` has everything that this
    /// process has counted. Call it every few seconds.
    pub fn note_total(&self, now: OffsetDateTime, total: Minute) {
        let mut throughput = lock(&self.throughput);
        let before = std::mem::replace(&mut throughput.total, total);
        let new = Minute {
            changes: total.changes.saturating_sub(before.changes),
            deliveries: total.deliveries.saturating_sub(before.deliveries),
        };
        if new == Minute::default() {
            return;
        }
        let number = minute_of(now);
        match throughput.minutes.back_mut() {
            Some((last, minute)) if *last >= number => {
                minute.changes += new.changes;
                minute.deliveries += new.deliveries;
            }
            _ => throughput.minutes.push_back((number, new)),
        }
        while throughput.minutes.len() > MINUTES {
            throughput.minutes.pop_front();
        }
    }

    /// The last hour, oldest minute first, and the running minute at the end.
    #[must_use]
    pub fn minutes(&self, now: OffsetDateTime) -> Vec<Minute> {
        let throughput = lock(&self.throughput);
        let running = minute_of(now);
        let first = running - i64::try_from(MINUTES - 1).unwrap_or(0);
        let of = |number| throughput.minutes.iter().find(|(known, _)| *known == number);
        (first..=running).map(|number| of(number).map_or(Minute::default(), |(_, minute)| *minute)).collect()
    }

    /// Notes the backlogs of all tenants.
    pub fn set_backlogs(&self, counted_at: OffsetDateTime, backlogs: Vec<Backlog>) {
        *lock(&self.backlogs) = Some((counted_at, backlogs));
    }

    /// The backlogs of a tenant, and when they were counted; `None` if they never were.
    #[must_use]
    pub fn backlogs(&self, tenant: TenantId) -> Option<(OffsetDateTime, Vec<Backlog>)> {
        let backlogs = lock(&self.backlogs);
        let (counted_at, all) = backlogs.as_ref()?;
        Some((*counted_at, all.iter().filter(|backlog| backlog.tenant == tenant).cloned().collect()))
    }

    /// Notes why the audit log cannot be sealed, or that it can be.
    pub fn set_not_sealing(&self, why: Option<String>) {
        *lock(&self.not_sealing) = why;
    }

    /// Why the audit log cannot be sealed though the database answers.
    #[must_use]
    pub fn not_sealing(&self) -> Option<String> {
        lock(&self.not_sealing).clone()
    }

    /// Parts that have been silent for too long, or were never heard of.
    #[must_use]
    pub fn dead_parts(&self) -> Vec<Part> {
        let seen = lock(&self.signs_of_life);
        Part::ALL
            .into_iter()
            .filter(|part| seen.get(part).is_none_or(|at| at.elapsed() > SIGN_OF_LIFE_WITHIN))
            .collect()
    }
}

fn minute_of(time: OffsetDateTime) -> i64 {
    time.unix_timestamp().div_euclid(60)
}

/// A poisoned lock still holds usable figures: a panic elsewhere must not spread through the status.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn total(changes: u64) -> Minute {
        Minute { changes, deliveries: 2 * changes }
    }

    #[test]
    fn a_minute_has_what_was_counted_in_it_and_an_hour_is_kept() {
        let (status, noon) = (Status::default(), datetime!(2026-11-30 12:00:10 UTC));
        status.note_total(noon, total(5));
        status.note_total(noon + Duration::from_secs(40), total(7));
        status.note_total(noon + Duration::from_secs(120), total(17));
        let minutes = status.minutes(noon + Duration::from_secs(165));
        assert_eq!(minutes.len(), MINUTES);
        assert_eq!(minutes.iter().rev().take(4).map(|m| m.changes).collect::<Vec<_>>(), [10, 0, 7, 0]);
        assert_eq!(minutes.last().map(|minute| minute.deliveries), Some(20));
        assert!(status.minutes(noon + Duration::from_secs(2 * 3600)).iter().all(|m| *m == Minute::default()));
        for minute in 0..200 {
            status.note_total(noon + Duration::from_secs(minute * 60), total(20 + minute));
        }
        assert_eq!(lock(&status.throughput).minutes.len(), MINUTES);
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing() {
        let (status, noon) = (Status::default(), datetime!(2026-11-30 12:00 UTC));
        status.note_total(noon, total(5));
        status.note_total(noon - Duration::from_secs(90), total(9));
        assert_eq!(status.minutes(noon).last(), Some(&total(9)));
    }
}
