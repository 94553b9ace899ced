//! Frames on an open socket: updates, signs of life, announcements, and what cannot be read.

use super::{Effect, Now, Session, audit};
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::AgentId;
use crate::domain::presence::connection::{MalformedReason, RotateCause};
use crate::genesys::protocol::{Frame, Update};

impl Session {
    pub(super) fn on_text(
        &mut self,
        text: String,
        frame: Frame,
        now: Now,
        jitter: f64,
        out: &mut Vec<Effect>,
    ) {
        self.last_frame = Some(now);
        match frame {
            Frame::Ping { answer } => out.push(Effect::SendText(answer)),
            Frame::Pong => self.answered(|ping| ping == 0, now, out),
            Frame::Heartbeat => {}
            Frame::Closing => self.on_end_announced(now, out),
            Frame::Dead { cause } => self.dead(cause, now, jitter, out),
            Frame::Update(update) => {
                self.certain_at = Some(now.at);
                self.note_unreadable_times(&update, now, out);
                out.push(Effect::Record(update, text));
            }
            Frame::Malformed { reason } => malformed(reason, text.as_bytes(), now, out),
        }
    }

    pub(super) fn on_binary(&mut self, bytes: &[u8], now: Now, out: &mut Vec<Effect>) {
        self.last_frame = Some(now);
        malformed(MalformedReason::Binary, bytes, now, out);
    }

    pub(super) fn on_pong(&mut self, payload: &[u8], now: Now, out: &mut Vec<Effect>) {
        self.last_frame = Some(now);
        self.answered(|ping| ping != 0 && payload == ping.to_be_bytes(), now, out);
    }

    /// Counts them all and writes down the first of each socket: a platform that writes a time in another way
    /// does so in every frame.
    fn note_unreadable_times(&mut self, update: &Update, now: Now, out: &mut Vec<Effect>) {
        let Some(first) = update.unreadable_times.first() else { return };
        out.push(Effect::CountUnreadableTimes(update.unreadable_times.len()));
        if !std::mem::replace(&mut self.unreadable_time_noted, true) {
            let mut entry = Entry::new(now.at, Kind::TimeRejected)
                .level(Level::Warn)
                .data("reason", "unreadable")
                .data("part", first.part.as_str())
                .data("time", first.text.clone())
                .data("topic", update.topic.clone());
            entry.agent_id = update.agent_id.clone().map(AgentId);
            out.push(audit(entry));
        }
    }

    /// Upstream may announce the end of a socket several times.
    fn on_end_announced(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.end_announced, true) {
            out.push(audit(Entry::new(now.at, Kind::MaintenanceAnnounced)));
        }
        out.push(Effect::Rotate { cause: RotateCause::Maintenance });
    }

    /// Measures a round trip if a pong answers the ping under way.
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

/// Keeps the bytes of a frame that the protocol does not know.
fn malformed(reason: MalformedReason, bytes: &[u8], now: Now, out: &mut Vec<Effect>) {
    out.extend([Effect::CountMalformed(reason), audit(Entry::malformed(now.at, reason.as_str(), bytes))]);
}
