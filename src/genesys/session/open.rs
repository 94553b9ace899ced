//! The life of an open socket: pings both ways, updates, silence, its end.

use std::time::Duration;

use bytes::Bytes;

use super::{Effect, Input, Now, Phase, Session, Timer, audit};
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::presence::connection::{GapCause, MalformedReason, RotateCause};
use crate::genesys::protocol::{ErrorKind, Frame, Standing};

/// A socket must be open this long before the count of attempts starts anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// Another connection is made when this part of the present one's life is over, and up to so much more by chance: all
/// connections of a source begin at about the same time.
const ROTATE_AFTER: f64 = 0.75;
const ROTATE_SPREAD: f64 = 0.15;

impl Session {
    /// The handshake is done.
    pub(super) fn opened(&mut self, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        self.phase = Phase::Open;
        self.reason = None;
        self.opened_at = Some(now.at);
        self.heard = Some(now);
        self.certain_at = Some(now.at);
        self.whole_at = Some(now.at);
        self.ping = None;
        self.end_announced = false;
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

    /// Nothing was heard for too long.
    fn silent(&mut self, silent: Duration, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
        let entry = Entry::new(now.at, Kind::HeartbeatMissed).level(Level::Warn).data("silent_ms", silent_ms);
        out.extend([audit(entry), Effect::Drop]);
        self.lost(GapCause::Silence, now, jitter, out);
    }

    /// What another program did to the connection.
    fn displaced(&self, now: Now) -> Entry {
        Entry::new(now.at, Kind::ChannelDisplaced)
            .data("connectionId", self.upstream_id.clone())
            .data("remedy", "another program uses this OAuth client: give each program a client of its own")
    }

    /// The connection exists and does not listen to all its agents any more. Another one is made.
    fn taken(&mut self, agents: usize, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let entry = self.displaced(now).level(Level::Error).data("subscriptions_taken", agents);
        out.extend([audit(entry), Effect::Close(1000, "its subscriptions were taken away")]);
        self.lost_since(self.whole_at.unwrap_or(now.at), GapCause::SubscriptionsTaken, now, jitter, out);
    }

    /// Upstream has ended the connection, whatever becomes of the socket.
    fn dead(&mut self, cause: GapCause, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        let entry = if cause == GapCause::Displaced {
            self.displaced(now)
        } else {
            Entry::new(now.at, Kind::WsClose).data("reason", cause.as_str())
        };
        out.extend([audit(entry.level(Level::Error)), Effect::Close(1000, "the channel is gone")]);
        if cause == GapCause::TokenRevoked {
            self.avoid = self.token;
        }
        // The socket may have said that it lives long after the channel was gone.
        self.lost_since(self.certain_at.unwrap_or(now.at), cause, now, jitter, out);
    }

    /// What happens while the socket is open.
    pub(super) fn heard(&mut self, input: Input, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        match input {
            Input::Timer(Timer::Watchdog) => {
                let silent =
                    self.heard.map_or(Duration::MAX, |heard| now.tick.saturating_duration_since(heard.tick));
                if silent < self.keepalive.silence {
                    out.push(Effect::SetTimer(Timer::Watchdog, self.keepalive.silence - silent));
                    return;
                }
                self.silent(silent, now, jitter, out);
            }
            Input::Timer(Timer::Ping) => {
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
                            self.silent(unanswered, now, jitter, out);
                            return;
                        }
                    }
                    (Some(_), None) => {}
                }
                out.push(Effect::SetTimer(Timer::Ping, self.keepalive.ping_every));
            }
            Input::Timer(Timer::Probe) => {
                self.probed_at = Some(now.at);
                out.push(Effect::Probe);
            }
            Input::Probed(answer) => {
                match answer {
                    Ok(Standing::Gone) => {
                        self.dead(GapCause::Displaced, now, jitter, out);
                        return;
                    }
                    Ok(Standing::Taken { agents }) => {
                        self.taken(agents, now, jitter, out);
                        return;
                    }
                    // The answer is as old as the question.
                    Ok(Standing::Whole) => {
                        self.certain_at = self.certain_at.max(self.probed_at);
                        self.whole_at = self.whole_at.max(self.probed_at);
                    }
                    Ok(Standing::Changing) => self.certain_at = self.certain_at.max(self.probed_at),
                    // A channel dies with the token that made it.
                    Err(error) if error.kind == ErrorKind::Unauthorized => {
                        self.dead(GapCause::TokenRevoked, now, jitter, out);
                        return;
                    }
                    Err(_) => {}
                }
                out.extend(self.keepalive.probe_every.map(|every| Effect::SetTimer(Timer::Probe, every)));
            }
            Input::Unproven => {
                let silent = self.heard.map(|heard| now.tick.saturating_duration_since(heard.tick));
                self.silent(silent.unwrap_or_default(), now, jitter, out);
            }
            Input::Timer(Timer::Rotate) => out.push(Effect::Rotate { cause: RotateCause::Expiry }),
            Input::Timer(Timer::Healthy) => {
                self.backoff.reset();
                out.push(Effect::Save);
            }
            Input::QueueFull => {
                out.push(audit(Entry::new(now.at, Kind::Backpressure).level(Level::Error)));
                out.push(Effect::Close(1000, "no room for more updates"));
                self.lost(GapCause::Backpressure, now, jitter, out);
            }
            Input::Closed(closed) => {
                let (kind, level) = if closed.violation {
                    (Kind::WsError, Level::Error)
                } else {
                    (Kind::WsClose, Level::Warn)
                };
                let mut entry = Entry::new(now.at, kind).level(level).data("reason", closed.reason.clone());
                entry.status = Some(i32::from(closed.code));
                out.push(audit(entry));
                let cause =
                    if closed.violation { GapCause::ProtocolViolation } else { GapCause::SocketClosed };
                self.lost(cause, now, jitter, out);
                self.reason =
                    Some(format!("closed with {} {}", closed.code, closed.reason).trim_end().to_owned());
            }
            Input::Text(text, frame) => {
                self.heard = Some(now);
                match frame {
                    Frame::Ping { answer } => out.push(Effect::SendText(answer)),
                    Frame::Pong => self.answered(|ping| ping == 0, now, out),
                    Frame::Heartbeat => {}
                    Frame::Closing => {
                        if !std::mem::replace(&mut self.end_announced, true) {
                            out.push(audit(Entry::new(now.at, Kind::MaintenanceAnnounced)));
                        }
                        out.push(Effect::Rotate { cause: RotateCause::Maintenance });
                    }
                    Frame::Dead { cause } => self.dead(cause, now, jitter, out),
                    Frame::Update(update) => {
                        self.certain_at = Some(now.at);
                        out.push(Effect::Record(update, text));
                    }
                    Frame::Malformed { reason } => malformed(reason, text.as_bytes(), now, out),
                }
            }
            Input::Binary(bytes) => {
                self.heard = Some(now);
                malformed(MalformedReason::Binary, &bytes, now, out);
            }
            Input::Pinged => self.heard = Some(now),
            Input::Ponged(payload) => {
                self.heard = Some(now);
                self.answered(|ping| ping != 0 && payload.as_ref() == ping.to_be_bytes(), now, out);
            }
            _ => {}
        }
    }

    /// A pong came; it measures a round trip if it answers the ping under way.
    fn answered(&mut self, answers: impl Fn(u64) -> bool, now: Now, out: &mut Vec<Effect>) {
        if let Some((number, sent)) = self.ping
            && answers(number)
        {
            self.ping = None;
            let round_trip = now.tick.saturating_duration_since(sent);
            self.latency.record(round_trip);
            out.push(Effect::CountRoundTrip(round_trip));
        }
    }
}

/// Keeps the bytes of a frame that is nothing we know.
fn malformed(reason: MalformedReason, bytes: &[u8], now: Now, out: &mut Vec<Effect>) {
    out.extend([Effect::CountMalformed(reason), audit(Entry::malformed(now.at, reason.as_str(), bytes))]);
}
