//! The life of an open socket: its timers, probes, and every way in which it is lost.

use std::time::Duration;

use bytes::Bytes;

use super::{Effect, Input, Now, Phase, Session, Timer, audit};
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::presence::connection::{GapCause, ROTATE_AFTER, RotateCause};
use crate::genesys::protocol::{ErrorKind, Standing, UpstreamError};
use crate::genesys::socket::Closed;

/// A socket must be open this long before the count of attempts starts again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// Added by chance to [`ROTATE_AFTER`], since all connections of a source begin at about the same time.
const ROTATE_SPREAD: f64 = 0.15;

impl Session {
    /// The handshake is done.
    pub(super) fn opened(&mut self, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        self.phase = Phase::Open;
        self.reason = None;
        self.opened_at = Some(now.at);
        self.last_frame = Some(now);
        self.certain_at = Some(now.at);
        self.whole_at = Some(now.at);
        self.ping = None;
        self.end_announced = false;
        self.unreadable_time_noted = false;
        let entry = Entry::new(now.at, Kind::WsOpen).data("connectionId", self.upstream_id.clone());
        out.extend([
            Effect::GapClosed,
            audit(entry),
            Effect::SetTimer(Timer::Watchdog, self.keepalive.silence),
            Effect::SetTimer(Timer::Ping, self.keepalive.ping_every),
            Effect::SetTimer(Timer::Healthy, HEALTHY_AFTER),
        ]);
        if let Some(every) = self.keepalive.probe_every {
            out.push(Effect::SetTimer(Timer::Probe, every));
        }
        if let Some(lifetime) = self.lifetime {
            let after = lifetime.mul_f64(ROTATE_AFTER + ROTATE_SPREAD * jitter);
            out.push(Effect::SetTimer(Timer::Rotate, after));
        }
        if self.keepalive.resync {
            out.push(Effect::Resync);
        }
    }

    /// No frame arrived for too long.
    fn silent(&mut self, silent: Duration, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
        let entry = Entry::new(now.at, Kind::HeartbeatMissed).level(Level::Warn).data("silent_ms", silent_ms);
        out.extend([audit(entry), Effect::Drop]);
        self.lost(GapCause::Silence, now, jitter, out);
    }

    /// Entry about another program that uses the OAuth client.
    fn displaced(&self, now: Now) -> Entry {
        Entry::new(now.at, Kind::ChannelDisplaced)
            .data("connectionId", self.upstream_id.clone())
            .data("remedy", "another program uses this OAuth client: give each program a client of its own")
    }

    /// The connection exists and does not listen to all its agents any more: it is replaced.
    fn taken(&mut self, agents: usize, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let entry = self.displaced(now).level(Level::Error).data("subscriptions_taken", agents);
        out.extend([audit(entry), Effect::Close(1000, "its subscriptions were taken away")]);
        self.lost_since(self.whole_at.unwrap_or(now.at), GapCause::SubscriptionsTaken, now, jitter, out);
    }

    /// Upstream has ended the connection, whatever becomes of the socket.
    pub(super) fn dead(&mut self, cause: GapCause, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let entry = if cause == GapCause::Displaced {
            self.displaced(now)
        } else {
            Entry::new(now.at, Kind::WsClose).data("reason", cause.as_str())
        };
        out.extend([audit(entry.level(Level::Error)), Effect::Close(1000, "the channel is gone")]);
        if cause == GapCause::TokenRevoked {
            self.avoid = self.token;
        }
        // The socket may have sent signs of life long after the channel was gone.
        self.lost_since(self.certain_at.unwrap_or(now.at), cause, now, jitter, out);
    }

    /// Handles an input while the socket is open.
    pub(super) fn while_open(&mut self, input: Input, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        match input {
            Input::Text(text, frame) => self.on_text(text, frame, now, jitter, out),
            Input::Binary(bytes) => self.on_binary(&bytes, now, out),
            Input::Pinged => self.last_frame = Some(now),
            Input::Ponged(payload) => self.on_pong(&payload, now, out),
            Input::Timer(Timer::Watchdog) => self.on_watchdog(now, jitter, out),
            Input::Timer(Timer::Ping) => self.on_ping_due(now, jitter, out),
            Input::Timer(Timer::Probe) => {
                self.probed_at = Some(now.at);
                out.push(Effect::Probe);
            }
            Input::Timer(Timer::Rotate) => out.push(Effect::Rotate { cause: RotateCause::Expiry }),
            Input::Timer(Timer::Healthy) => {
                self.backoff.reset();
                out.push(Effect::Save);
            }
            Input::Probed(answer) => self.on_probed(answer, now, jitter, out),
            Input::Unproven => self.silent(self.silence(now).unwrap_or_default(), now, jitter, out),
            Input::QueueFull => {
                out.push(audit(Entry::new(now.at, Kind::Backpressure).level(Level::Error)));
                out.push(Effect::Close(1000, "no room for more updates"));
                self.lost(GapCause::Backpressure, now, jitter, out);
            }
            Input::Closed(closed) => self.on_closed(&closed, now, jitter, out),
            _ => {}
        }
    }

    /// Time since the last frame; `None` before the first.
    fn silence(&self, now: Now) -> Option<Duration> {
        self.last_frame.map(|frame| now.tick.saturating_duration_since(frame.tick))
    }

    fn on_watchdog(&mut self, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let silence = self.silence(now).unwrap_or(Duration::MAX);
        if silence < self.keepalive.silence {
            out.push(Effect::SetTimer(Timer::Watchdog, self.keepalive.silence - silence));
        } else {
            self.silent(silence, now, jitter, out);
        }
    }

    fn on_ping_due(&mut self, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        match (self.ping, self.keepalive.ping_text) {
            (None, None) => {
                self.pings += 1;
                self.ping = Some((self.pings, now.tick));
                out.push(Effect::Ping(Bytes::copy_from_slice(&self.pings.to_be_bytes())));
            }
            // The answer echoes nothing, so one is under way at a time.
            (None, Some(text)) => {
                self.ping = Some((0, now.tick));
                out.push(Effect::SendText(text.to_owned()));
            }
            (Some((_, sent)), Some(_)) => {
                let unanswered = now.tick.saturating_duration_since(sent);
                if unanswered >= self.keepalive.silence {
                    return self.silent(unanswered, now, jitter, out);
                }
            }
            (Some(_), None) => {}
        }
        out.push(Effect::SetTimer(Timer::Ping, self.keepalive.ping_every));
    }

    fn on_probed(
        &mut self,
        answer: Result<Standing, UpstreamError>,
        now: Now,
        jitter: f64,
        out: &mut Vec<Effect>,
    ) {
        match answer {
            Ok(Standing::Gone) => return self.dead(GapCause::Displaced, now, jitter, out),
            Ok(Standing::Taken { agents }) => return self.taken(agents, now, jitter, out),
            // The answer is as old as the question.
            Ok(Standing::Whole) => {
                self.certain_at = self.certain_at.max(self.probed_at);
                self.whole_at = self.whole_at.max(self.probed_at);
            }
            Ok(Standing::Changing) => self.certain_at = self.certain_at.max(self.probed_at),
            // A channel dies with the token that made it.
            Err(error) if error.kind == ErrorKind::Unauthorized => {
                return self.dead(GapCause::TokenRevoked, now, jitter, out);
            }
            Err(_) => {}
        }
        out.extend(self.keepalive.probe_every.map(|every| Effect::SetTimer(Timer::Probe, every)));
    }

    fn on_closed(&mut self, closed: &Closed, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let (kind, level, cause) = if closed.violation {
            (Kind::WsError, Level::Error, GapCause::ProtocolViolation)
        } else {
            (Kind::WsClose, Level::Warn, GapCause::SocketClosed)
        };
        let mut entry = Entry::new(now.at, kind).level(level).data("reason", closed.reason.clone());
        entry.status = Some(i32::from(closed.code));
        out.push(audit(entry));
        self.lost(cause, now, jitter, out);
        self.reason = Some(format!("closed with {} {}", closed.code, closed.reason).trim_end().to_owned());
    }
}
