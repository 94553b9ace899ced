//! Treatment of the client's messages.

use super::super::frame::{self, Incoming, Opcode};
use super::super::snapshot::CloseSeen;
use super::{AwaitedPong, End, Socket};

impl Socket {
    /// Reads every whole message off the buffer.
    pub(super) fn understand(&mut self) -> Option<End> {
        loop {
            match self.reader.message() {
                Ok(Some(incoming)) => self.receive(incoming),
                Ok(None) => return None,
                Err(violation) => {
                    self.surprise(format!("broken frame: {violation:?}"));
                    if self.closing.is_some() {
                        return Some(End::Quiet);
                    }
                    self.close(Some(violation.close_code()), "protocol violation");
                    // The rest cannot be read as frames any more; the client's FIN or the deadline ends us.
                    self.reader = frame::Reader::default();
                    return None;
                }
            }
        }
    }

    fn receive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Text(text) => self.receive_text(&text),
            Incoming::Binary(bytes) => self.surprise(format!("binary message of {} bytes", bytes.len())),
            Incoming::Ping(payload) => {
                self.shared.change(|world| world.tally.rfc_pings += 1);
                self.answer(Opcode::Pong, &payload);
            }
            Incoming::Pong(payload) => {
                let ours = payload.as_ref().try_into().map(u64::from_be_bytes).ok();
                // An unsolicited pong is legal and means nothing (RFC 6455 5.5.3).
                if ours.is_some_and(|number| number >= 1 && number <= self.pings) {
                    self.shared.change(|world| world.tally.rfc_pongs += 1);
                    self.settle(|awaited| awaited.rfc = false);
                } else {
                    self.shared.change(|world| world.tally.other_pongs += 1);
                }
            }
            Incoming::Close { code, reason } => {
                let close = CloseSeen {
                    connection_id: self.identity.connection_id.clone(),
                    user_id: self.identity.user_id.clone(),
                    code,
                    reason,
                };
                self.shared.change(|world| world.tally.close(close));
                if self.silent {
                    return;
                }
                if self.closing.is_none() {
                    self.close(code, "");
                }
                self.finished = true;
            }
        }
    }

    fn receive_text(&mut self, text: &str) {
        let message: Option<serde_json::Value> = serde_json::from_str(text).ok();
        match message.as_ref().and_then(|message| message.get("type")).and_then(|kind| kind.as_str()) {
            Some("pong") => {
                self.shared.change(|world| world.tally.json_pongs += 1);
                self.settle(|awaited| awaited.json = false);
            }
            Some("ping") => {
                self.shared.change(|world| world.tally.json_pings += 1);
                self.answer(Opcode::Text, br#"{"type":"pong"}"#);
            }
            _ => self.surprise(format!("message {text:?}")),
        }
    }

    /// Crosses one answer off; with the last one the ping is settled.
    fn settle(&mut self, cross_off: impl FnOnce(&mut AwaitedPong)) {
        if let Some(awaited) = &mut self.awaited {
            cross_off(awaited);
            if !awaited.json && !awaited.rfc {
                self.awaited = None;
            }
        }
    }

    fn answer(&mut self, opcode: Opcode, payload: &[u8]) {
        if !self.silent && self.closing.is_none() {
            self.outbox.push(&frame::encode(opcode, payload));
        }
    }

    fn surprise(&self, what: String) {
        self.shared.change(|world| world.tally.surprise(what));
    }
}
