//! Floor 1: what is true right now and is not worth a row. Actors write it, the API reads it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::domain::ids::{ConnectionId, SourceId};
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

/// Live figures of this process. Cheap to lock: nothing is held while waiting.
#[derive(Debug, Default)]
pub struct Status {
    connections: Mutex<HashMap<ConnectionId, ConnectionMetrics>>,
    signs_of_life: Mutex<HashMap<Part, Instant>>,
    not_storing: Mutex<Option<String>>,
    socket_news: Mutex<HashMap<SourceId, SocketNews>>,
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

/// A poisoned lock still holds usable figures: a panic elsewhere must not spread through the status.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
