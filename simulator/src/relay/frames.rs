//! Messages of the protocol, and what of the client's belongs together.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};

/// Longer messages are no protocol of ours.
const LONGEST: usize = 1 << 30;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;

/// First packets of a connection, which have no type.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// Asks for encryption: to be answered with `N`.
    Encryption,
    /// Asks for the end of another connection's statement.
    Cancel(Bytes),
    /// Begins the session.
    Startup(Bytes),
}

/// Takes a first packet from what has come, if it is there; `Err` if it is none.
pub fn opening(from: &mut BytesMut) -> Result<Option<Opening>, NotPostgres> {
    let Some(head) = from.first_chunk::<8>() else { return Ok(None) };
    let [a, b, c, d, e, f, g, h] = *head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| NotPostgres)?;
    if !(8..=LONGEST).contains(&length) {
        return Err(NotPostgres);
    }
    if from.len() < length {
        return Ok(None);
    }
    let packet = from.split_to(length).freeze();
    Ok(Some(match u32::from_be_bytes([e, f, g, h]) {
        SSL | GSS => Opening::Encryption,
        CANCEL => Opening::Cancel(packet),
        _ => Opening::Startup(packet),
    }))
}

/// One message: its type, and all its bytes with type and length.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    pub bytes: Bytes,
}

impl Message {
    /// Bytes after type and length.
    fn body(&self) -> Bytes {
        self.bytes.slice(5.min(self.bytes.len())..)
    }
}

/// Bytes that are not the protocol of Postgres.
#[derive(Debug, PartialEq, Eq)]
pub struct NotPostgres;

/// Takes a message from what has come, if a whole one is there.
pub fn message(from: &mut BytesMut) -> Result<Option<Message>, NotPostgres> {
    let Some(head) = from.first_chunk::<5>() else { return Ok(None) };
    let [kind, a, b, c, d] = *head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| NotPostgres)?;
    if !(4..=LONGEST).contains(&length) {
        return Err(NotPostgres);
    }
    if from.len() < length + 1 {
        return Ok(None);
    }
    Ok(Some(Message { kind, bytes: from.split_to(length + 1).freeze() }))
}

/// Messages of a client that belong together.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Ends with one `ReadyForQuery`.
    Request(Unit),
    /// Is answered by nothing of its own: a password, rows of a COPY, a flush, the end.
    Aside(Bytes),
}

/// A request: a simple query, or everything up to a Sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub bytes: Bytes,
    /// The SQL text with single spaces; of a request without any, what it is, as an SQL comment.
    pub statement: Arc<str>,
    /// Whether something is run; a statement may also be prepared only.
    pub runs: bool,
}

/// Gathers a client's messages into requests, and remembers what each prepared statement says.
#[derive(Debug, Default)]
pub struct Gather {
    bytes: BytesMut,
    prepared: HashMap<Bytes, Arc<str>>,
    statement: Option<Arc<str>>,
    runs: bool,
}

impl Gather {
    /// Takes one more message; gives what is complete with it.
    pub fn take(&mut self, message: &Message) -> Option<Part> {
        let mut body = message.body();
        match message.kind {
            b'Q' => {
                let unit =
                    Unit { bytes: message.bytes.clone(), statement: text(&cstring(&mut body)), runs: true };
                return Some(Part::Request(unit));
            }
            b'P' => {
                let name = cstring(&mut body);
                let statement = text(&cstring(&mut body));
                self.prepared.insert(name, statement.clone());
                self.statement = Some(statement);
            }
            b'B' => {
                let _portal = cstring(&mut body);
                self.statement = self.prepared.get(&cstring(&mut body)).cloned().or(self.statement.take());
            }
            b'E' => self.runs = true,
            b'D' | b'C' | b'S' => {}
            _ => return Some(Part::Aside(message.bytes.clone())),
        }
        self.bytes.extend_from_slice(&message.bytes);
        if message.kind != b'S' {
            return None;
        }
        let statement = self.statement.take().unwrap_or_else(|| "-- no statement".into());
        let unit =
            Unit { bytes: self.bytes.split().freeze(), statement, runs: std::mem::take(&mut self.runs) };
        Some(Part::Request(unit))
    }
}

/// Text up to a zero byte, which is taken too.
fn cstring(from: &mut Bytes) -> Bytes {
    let end = from.iter().position(|byte| *byte == 0).unwrap_or(from.len());
    let text = from.split_to(end);
    from.advance(from.len().min(1));
    text
}

fn text(bytes: &[u8]) -> Arc<str> {
    let text = String::from_utf8_lossy(bytes);
    text.split_whitespace().collect::<Vec<_>>().join(" ").into()
}

/// A simple query.
pub fn query(sql: &str) -> Bytes {
    framed(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// The error after which a server closes a connection.
pub fn fatal(sqlstate: &str, text: &str) -> Bytes {
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0");
    framed(b'E', fields.as_bytes())
}

fn framed(kind: u8, body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[kind][..], &length.to_be_bytes(), body].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(bytes: &[u8]) -> Vec<Message> {
        let mut from = BytesMut::from(bytes);
        std::iter::from_fn(|| message(&mut from).unwrap()).collect()
    }

    fn sent() -> Vec<u8> {
        [
            framed(b'P', b"s1\0select\n  1\0\0\0"),
            framed(b'D', b"Ss1\0"),
            framed(b'S', b""),
            framed(b'B', b"\0s1\0\0\0\0\0\0\0"),
            framed(b'E', b"\0\0\0\0\0"),
            framed(b'S', b""),
            query("COMMIT"),
            framed(b'S', b""),
            framed(b'X', b""),
        ]
        .concat()
    }

    #[test]
    fn requests_are_told_apart_and_named_by_their_statement() {
        let mut gather = Gather::default();
        let parts: Vec<_> = messages(&sent()).iter().filter_map(|message| gather.take(message)).collect();
        let told: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Request(unit) => (unit.statement.to_string(), unit.runs),
                Part::Aside(bytes) => (format!("aside of {}", bytes.len()), false),
            })
            .collect();
        let told: Vec<_> = told.iter().map(|(text, runs)| (text.as_str(), *runs)).collect();
        let wanted = [
            ("select 1", false),
            ("select 1", true),
            ("COMMIT", true),
            ("-- no statement", false),
            ("aside of 5", false),
        ];
        assert_eq!(told, wanted);
        let bytes = |part: &Part| match part {
            Part::Request(unit) => unit.bytes.clone(),
            Part::Aside(bytes) => bytes.clone(),
        };
        assert_eq!(parts.iter().map(bytes).collect::<Vec<_>>().concat(), sent(), "nothing is lost or added");
    }

    #[test]
    fn a_message_is_taken_only_when_it_is_whole() {
        let whole = query("select 1");
        for length in 0..whole.len() {
            assert_eq!(message(&mut BytesMut::from(&whole[..length])), Ok(None), "{length}");
        }
        assert_eq!(message(&mut BytesMut::from(&b"Q\0\0\0\x01"[..])), Err(NotPostgres));
        assert_eq!(message(&mut BytesMut::from(&b"Q\xff\xff\xff\xff"[..])), Err(NotPostgres));
    }
}
