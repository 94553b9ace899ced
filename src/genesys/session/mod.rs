//! The life of one connection as a state machine. Pure: it takes an input and the time, and returns effects.
//!
//! ```text
//!            ┌──────────────────────────── backing off ◀────────────── anything fails ──────────┐
//!            ▼                                                                                   │
//!  idle ─▶ token ─▶ verify ─▶ clean ─▶ provision ─▶ dial ─▶ open ─▶ (closed, silent, full) ──────┤
//!            ▲       (new      (what we   │ 403 ─▶ refused: a restart or 15 minutes              │
//!            │       tokens)   left       │ 409, 422 ─▶ list, delete our own leftovers ──────────┘
//!            └── 401: one new token ◀─────┘ 401
//!  before its end, or when upstream announces one: rotate, which is another session's life from the start
//!  terminate, from anywhere: close 1000, delete upstream ─▶ terminated
//! ```
//!
//! Each attempt has an epoch. Results of an older one are ignored, except that a connection made too late is
//! deleted again: nothing leaks, and no timer brings a terminated connection back.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::latency::LatencyTracker;
use super::protocol::{ErrorKind, KeepaliveConfig, Provisioned, UpstreamError};
use super::reconnect::ReconnectBackoff;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::presence::connection::GapCause;

mod end;
mod events;
mod frames;
mod open;

pub use events::{Effect, Input, Listing, Now, Phase, Timer, TokenSerial};

/// A refused connection asks again this rarely, should somebody have granted the permission.
const REFUSED_RETRY: Duration = Duration::from_secs(15 * 60);
/// Leftovers upstream that are remembered; the oldest are forgotten first. No client may have that many
/// connections: a platform that lets us make more and never deletes one ends them by itself.
const LEFTOVERS_MAX: usize = 100;
/// How long a frame may have been under way, to us and within us. It proves coverage at the moment when it
/// was sent, and the platform may have given the connection up since; so a gap begins this much before the
/// last frame.
const UNDER_WAY_MAX: Duration = Duration::from_secs(1);
/// Reason of the close frame when we end a connection.
const SHUTDOWN_REASON: &str = "Client initiated shutdown";

/// One connection's life.
#[derive(Debug)]
pub struct Session {
    keepalive: KeepaliveConfig,
    phase: Phase,
    epoch: u64,
    reason: Option<String>,
    backoff: ReconnectBackoff,
    /// The token of this attempt.
    token: Option<TokenSerial>,
    /// A token that the next attempt must not use.
    avoid: Option<TokenSerial>,
    /// The token that the platform accepted.
    verified: Option<TokenSerial>,
    /// A 401 of this attempt was answered with a new token already.
    refreshed: bool,
    upstream_id: Option<String>,
    /// Made by us upstream and not yet seen deleted.
    stale: Vec<String>,
    /// The end waits for the answer to a provisioning asked for in this epoch.
    awaited: Option<u64>,
    /// How long the present connection lives upstream, from when it was made.
    lifetime: Option<Duration>,
    expires_at: Option<OffsetDateTime>,
    opened_at: Option<OffsetDateTime>,
    /// Last frame on an open socket.
    last_frame: Option<Now>,
    /// Last moment that the connection surely existed upstream. A socket may live on without it.
    certain_at: Option<OffsetDateTime>,
    /// Last moment that it surely listened to all its agents: an update proves that of one agent alone.
    whole_at: Option<OffsetDateTime>,
    probed_at: Option<OffsetDateTime>,
    ping: Option<(u64, Instant)>,
    pings: u64,
    latency: LatencyTracker,
    /// The end of the present socket was announced, and an audit entry says so.
    end_announced: bool,
    /// A time of this socket that cannot be read was written down.
    unreadable_time_noted: bool,
}

impl Session {
    /// A session that has not started. `leftovers` are connections of ours that a former process may have
    /// left upstream.
    #[must_use]
    pub fn new(keepalive: KeepaliveConfig, leftovers: Vec<String>) -> Self {
        Self {
            keepalive,
            phase: Phase::Idle,
            epoch: 0,
            reason: None,
            backoff: ReconnectBackoff::default(),
            token: None,
            avoid: None,
            verified: None,
            refreshed: false,
            upstream_id: None,
            stale: leftovers,
            awaited: None,
            lifetime: None,
            expires_at: None,
            opened_at: None,
            last_frame: None,
            certain_at: None,
            whole_at: None,
            probed_at: None,
            ping: None,
            pings: 0,
            latency: LatencyTracker::default(),
            end_announced: false,
            unreadable_time_noted: false,
        }
    }

    /// A session that is to take the place of this one, on another token.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self { avoid: self.token, ..Self::new(self.keepalive, Vec::new()) }
    }

    /// Takes over the leftovers of another session.
    pub fn adopt(&mut self, leftovers: &[String]) {
        leftovers.iter().for_each(|id| self.remember(id.clone()));
    }

    /// Remembers a leftover.
    fn remember(&mut self, id: String) {
        if self.stale.len() >= LEFTOVERS_MAX {
            self.stale.remove(0);
        }
        self.stale.push(id);
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The present attempt.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Why it is in this phase, in words.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Reconnect attempts since the last healthy minute.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.backoff.attempts()
    }

    /// Upstream's id of the present connection.
    #[must_use]
    pub fn upstream_id(&self) -> Option<&str> {
        self.upstream_id.as_deref()
    }

    /// Upstream ids of ours that are not yet seen deleted.
    #[must_use]
    pub fn stale(&self) -> &[String] {
        &self.stale
    }

    /// When upstream ends the present connection; `None` if it does not say.
    #[must_use]
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.expires_at
    }

    /// When the present socket opened.
    #[must_use]
    pub fn opened_at(&self) -> Option<OffsetDateTime> {
        self.opened_at
    }

    /// Last moment that a frame proved a socket of this session live.
    #[must_use]
    pub fn proven_at(&self) -> Option<OffsetDateTime> {
        self.last_frame.map(|now| now.at)
    }

    #[must_use]
    pub fn latency(&self) -> &LatencyTracker {
        &self.latency
    }

    /// Handles an input of `epoch`. `jitter` is random, at least 0 and below 1.
    #[must_use]
    pub fn on(&mut self, epoch: u64, input: Input, now: Now, jitter: f64) -> Vec<Effect> {
        let mut out = Vec::new();
        // These count whichever attempt they belong to.
        let input = match input {
            Input::Deleted(results) => {
                self.forget_deleted(&results, now, &mut out);
                Input::Deleted(results)
            }
            Input::Provisioned(late) if epoch != self.epoch || self.phase != Phase::Provision => {
                self.provisioned_late(epoch, late, &mut out);
                return out;
            }
            Input::Terminate(ending) => {
                self.terminate(ending, now, &mut out);
                return out;
            }
            other => other,
        };
        if epoch == self.epoch {
            self.step(input, now, jitter, &mut out);
        }
        out
    }

    fn step(&mut self, input: Input, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        match (self.phase, input) {
            (Phase::Idle, Input::Start) => {
                out.push(audit(Entry::new(now.at, Kind::InitStart)));
                self.begin(out);
            }
            (Phase::BackingOff | Phase::Refused, Input::Timer(Timer::Retry)) => self.begin(out),
            (Phase::Token, Input::Token(Ok(serial))) => self.got_token(serial, out),
            (Phase::Verify, Input::Verified(Ok(user))) => {
                self.verified = self.token;
                out.push(audit(Entry::new(now.at, Kind::AuthSuccess).data("userId", user)));
                self.clean(out);
            }
            (Phase::Clean, Input::Deleted(_)) => self.provision(out),
            (Phase::Provision, Input::Provisioned(Ok(made))) => self.provisioned(made, now, out),
            (Phase::Dial, Input::Dialled(Ok(()))) => self.opened(now, jitter, out),
            (Phase::Dial, Input::Dialled(Err(error))) => self.dial_failed(&error, now, jitter, out),
            (
                Phase::Token | Phase::Verify | Phase::Provision | Phase::AtLimit,
                Input::Token(Err(error))
                | Input::Verified(Err(error))
                | Input::Provisioned(Err(error))
                | Input::Listed(Err(error)),
            ) => self.refused_or_failed(error, now, jitter, out),
            (Phase::AtLimit, Input::Listed(Ok(listing))) => self.listed(listing, now, jitter, out),
            (Phase::AtLimit, Input::Deleted(_)) => self.limit_met(now, jitter, out),
            (Phase::Open, input) => self.while_open(input, now, jitter, out),
            (Phase::Closing(cause), Input::ShutDown) => {
                self.phase = Phase::Ended(cause);
                self.upstream_id = None;
                let entry = Entry::new(now.at, Kind::ConnectionTerminated).data("cause", cause.as_str());
                out.extend([audit(entry), Effect::Finished]);
            }
            // Everything else came too late to matter.
            _ => {}
        }
    }

    /// Starts an attempt.
    fn begin(&mut self, out: &mut Vec<Effect>) {
        self.epoch += 1;
        self.phase = Phase::Token;
        self.refreshed = false;
        out.extend([Effect::Save, Effect::GetToken { instead_of: self.avoid.take() }]);
    }

    /// A token that the platform accepted before needs no second look.
    fn got_token(&mut self, serial: TokenSerial, out: &mut Vec<Effect>) {
        self.token = Some(serial);
        if self.verified == Some(serial) {
            self.clean(out);
        } else {
            self.phase = Phase::Verify;
            out.push(Effect::Verify);
        }
    }

    /// Deletes our leftovers before asking for another connection: close, then open.
    fn clean(&mut self, out: &mut Vec<Effect>) {
        if self.stale.is_empty() {
            self.provision(out);
        } else {
            self.phase = Phase::Clean;
            out.push(Effect::Delete(self.stale.clone()));
        }
    }

    fn provision(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Provision;
        out.push(Effect::Provision);
    }

    fn provisioned(&mut self, made: Provisioned, now: Now, out: &mut Vec<Effect>) {
        self.phase = Phase::Dial;
        self.upstream_id = Some(made.upstream_id.clone());
        self.lifetime = made.lifetime;
        self.expires_at = made.lifetime.map(|lifetime| now.at + lifetime);
        let entry =
            Entry::new(now.at, Kind::ConnectionProvisioned).data("connectionId", made.upstream_id.clone());
        out.extend([audit(entry), Effect::Dial(made)]);
    }

    fn dial_failed(&mut self, error: &UpstreamError, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let entry =
            Entry::new(now.at, Kind::WsInitError).level(Level::Error).data("error", error.to_string());
        out.push(audit(entry));
        if error.kind == ErrorKind::Unauthorized {
            self.avoid = self.token;
        }
        self.leave_upstream();
        self.back_off(error, now, jitter, out);
    }

    /// The open socket is gone, and we did not close it.
    fn lost(&mut self, cause: GapCause, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let from = self.last_frame.map_or(now.at, |frame| frame.at);
        self.lost_since(from, cause, now, jitter, out);
    }

    /// The same, if coverage is uncertain since an earlier moment than the last frame.
    fn lost_since(
        &mut self,
        from: OffsetDateTime,
        cause: GapCause,
        now: Now,
        jitter: f64,
        out: &mut Vec<Effect>,
    ) {
        let from = (from - UNDER_WAY_MAX).max(self.opened_at.unwrap_or(from));
        out.push(Effect::GapOpened { from, cause });
        out.push(Effect::CountReconnect(cause));
        self.leave_upstream();
        self.schedule(cause.as_str().replace('_', " "), None, now, jitter, out);
    }

    /// The present connection exists upstream and is of no more use.
    fn leave_upstream(&mut self) {
        if let Some(id) = self.upstream_id.take() {
            self.remember(id);
        }
        self.opened_at = None;
        self.expires_at = None;
    }

    fn refused_or_failed(&mut self, error: UpstreamError, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        match error.kind {
            ErrorKind::Unauthorized if self.phase != Phase::Token && !self.refreshed => {
                self.refreshed = true;
                let instead_of = self.token;
                self.phase = Phase::Token;
                out.push(Effect::GetToken { instead_of });
            }
            ErrorKind::Forbidden if self.phase != Phase::Token => {
                self.phase = Phase::Refused;
                self.verified = None;
                self.reason = Some(error.to_string());
                let entry = Entry::new(now.at, Kind::ConnectionRefused)
                    .level(Level::Error)
                    .data("error", error.to_string())
                    .data("remedy", "grant the OAuth client what is missing, then restart the connection");
                out.extend([audit(entry), Effect::SetTimer(Timer::Retry, REFUSED_RETRY)]);
            }
            ErrorKind::Limit if self.phase == Phase::Provision => {
                self.phase = Phase::AtLimit;
                self.reason = Some(error.to_string());
                out.push(Effect::List);
            }
            _ => self.back_off(&error, now, jitter, out),
        }
    }

    /// The client is at its limit: deleting our own leftovers makes room, and other programs' connections
    /// stay.
    fn listed(&mut self, listing: Listing, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let Listing { existing, mut lost } = listing;
        // A leftover that is not in the list any more needs no deleting.
        self.stale.retain(|id| existing.contains(id));
        lost.retain(|id| !self.stale.contains(id));
        self.adopt(&lost);
        let leftovers = self.stale.clone();
        let entry = Entry::new(now.at, Kind::LimitMet)
            .level(Level::Warn)
            .data("held", existing.len())
            .data("our_leftovers", leftovers.clone());
        out.push(audit(entry));
        if leftovers.is_empty() {
            self.limit_met(now, jitter, out);
        } else {
            out.push(Effect::Delete(leftovers));
        }
    }

    fn limit_met(&mut self, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let why = self.reason.take().unwrap_or_default();
        self.schedule(why, None, now, jitter, out);
    }

    /// An attempt failed.
    fn back_off(&mut self, error: &UpstreamError, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let entry =
            Entry::new(now.at, Kind::ReconnectFailed).level(Level::Error).data("error", error.to_string());
        out.push(audit(entry));
        let at_least = match error.kind {
            // Some more by chance: all connections of a client get the same answer.
            ErrorKind::RateLimited(wait) => wait.map(|wait| wait.mul_f64(1.0 + 0.1 * jitter)),
            _ => None,
        };
        self.schedule(error.to_string(), at_least, now, jitter, out);
    }

    fn schedule(
        &mut self,
        why: String,
        at_least: Option<Duration>,
        now: Now,
        jitter: f64,
        out: &mut Vec<Effect>,
    ) {
        self.epoch += 1;
        self.phase = Phase::BackingOff;
        self.reason = Some(why);
        let delay = self.backoff.next(jitter).max(at_least.unwrap_or_default());
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let entry = Entry::new(now.at, Kind::ReconnectScheduled)
            .data("attempt", self.backoff.attempts())
            .data("delay", delay_ms);
        out.extend([audit(entry), Effect::SetTimer(Timer::Retry, delay)]);
    }
}

fn audit(entry: Entry) -> Effect {
    Effect::Audit(Box::new(entry))
}

#[cfg(test)]
mod channel_tests;
#[cfg(test)]
mod tests;
