//! The life of an open socket: pings both ways, updates, silence, its end.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use super::{Effect, Input, Now, Phase, Session, Timer, audit};
use crate::domain::audit::{Entry, Kind, Level};
use crate::genesys::protocol::Frame;

/// A socket must be open this long before the count of attempts starts anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// Silence is two heartbeats and this.
const SILENCE_MARGIN: Duration = Duration::from_secs(5);
/// Part of an odd frame that is kept in the audit log.
const ODD_BYTES_MAX: usize = 4096;

impl Session {
    /// The handshake is done.
    pub(super) fn opened(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.phase = Phase::Open;
        self.reason = None;
        self.opened_at = Some(now.at);
        self.heard = Some(now);
        self.ping = None;
        let entry = Entry::new(now.at, Kind::WsOpen).data("connectionId", self.upstream_id.clone());
        out.extend([
            Effect::GapClosed,
            audit(entry),
            Effect::SetTimer(Timer::Watchdog, self.silence()),
            Effect::SetTimer(Timer::Ping, self.heartbeat / 2),
            Effect::SetTimer(Timer::Healthy, HEALTHY_AFTER),
        ]);
    }

    /// Silence that counts as death.
    fn silence(&self) -> Duration {
        self.heartbeat * 2 + SILENCE_MARGIN
    }

    /// What happens while the socket is open.
    pub(super) fn heard(&mut self, input: Input, now: Now, jitter: f64, out: &mut Vec<Effect>) {
        match input {
            Input::Timer(Timer::Watchdog) => {
                let silent =
                    self.heard.map_or(Duration::MAX, |heard| now.tick.saturating_duration_since(heard.tick));
                if silent < self.silence() {
                    out.push(Effect::SetTimer(Timer::Watchdog, self.silence() - silent));
                    return;
                }
                let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
                let entry =
                    Entry::new(now.at, Kind::HeartbeatMissed).level(Level::Warn).data("silent_ms", silent_ms);
                out.extend([audit(entry), Effect::Drop]);
                self.lost("silence", now, jitter, out);
            }
            Input::Timer(Timer::Ping) => {
                if self.ping.is_none() {
                    self.pings += 1;
                    self.ping = Some((self.pings, now.tick));
                    out.push(Effect::Ping(Bytes::copy_from_slice(&self.pings.to_be_bytes())));
                }
                out.push(Effect::SetTimer(Timer::Ping, self.heartbeat / 2));
            }
            Input::Timer(Timer::Healthy) => {
                self.backoff.reset();
                out.push(Effect::Save);
            }
            Input::QueueFull => {
                out.push(audit(Entry::new(now.at, Kind::Backpressure).level(Level::Error)));
                out.push(Effect::Close(1000, "no room for more updates"));
                self.lost("backpressure", now, jitter, out);
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
                let cause = if closed.violation { "protocol_violation" } else { "socket_closed" };
                self.lost(cause, now, jitter, out);
                self.reason =
                    Some(format!("closed with {} {}", closed.code, closed.reason).trim_end().to_owned());
            }
            Input::Text(text, frame) => {
                self.heard = Some(now);
                match frame {
                    Frame::Ping { answer } => out.push(Effect::Say(answer)),
                    // We never ask in this way, so it measures nothing.
                    Frame::Pong => {}
                    Frame::Update(update) => out.push(Effect::Record(update, text)),
                    Frame::Odd { reason } => odd(reason, text.as_bytes(), now, out),
                }
            }
            Input::Binary(bytes) => {
                self.heard = Some(now);
                odd("binary", &bytes, now, out);
            }
            Input::Pinged => self.heard = Some(now),
            Input::Ponged(payload) => {
                self.heard = Some(now);
                if let Some((number, sent)) = self.ping
                    && payload.as_ref() == number.to_be_bytes()
                {
                    self.ping = None;
                    let round_trip = now.tick.saturating_duration_since(sent);
                    self.latency.record(round_trip);
                    out.push(Effect::CountRoundTrip(round_trip));
                }
            }
            _ => {}
        }
    }
}

/// Keeps the bytes of a frame that is nothing we know.
fn odd(reason: &'static str, bytes: &[u8], now: Now, out: &mut Vec<Effect>) {
    let kept = bytes.get(..ODD_BYTES_MAX).unwrap_or(bytes);
    let entry = Entry::new(now.at, Kind::FrameRejected)
        .level(Level::Warn)
        .data("reason", reason)
        .data("bytes", bytes.len());
    let entry = match std::str::from_utf8(kept) {
        Ok(text) => entry.data("text", text),
        Err(_) => entry.data("base64", BASE64.encode(kept)),
    };
    out.extend([Effect::CountOdd(reason), audit(entry)]);
}
