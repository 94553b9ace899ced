//! RFC 6455 frames, the server's side: a writer of unmasked frames and a reader of masked ones.
//!
//! Written by hand and without I/O, because a simulator must be able to send what a library refuses to send,
//! and must judge what the client sends more strictly than a library that wants to get along.

use bytes::{Buf, Bytes, BytesMut};

/// Longest message accepted from the client; the protocol's own messages have some twenty bytes.
const MESSAGE_LIMIT_BYTES: usize = 64 * 1024;

/// Kind of a frame, by its four opcode bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xA => Some(Self::Pong),
            _ => None,
        }
    }

    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Writes one whole frame.
#[must_use]
pub fn encode(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    encode_part(true, opcode, payload)
}

/// Writes one frame of a message that may have more (`fin` false).
#[must_use]
pub fn encode_part(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(fin, opcode, u64::try_from(payload.len()).unwrap_or(u64::MAX));
    frame.extend_from_slice(payload);
    frame
}

/// Writes only a frame's header, with any declared length: the payload may follow or not.
#[must_use]
pub fn header(fin: bool, opcode: Opcode, length: u64) -> Vec<u8> {
    let first = opcode.bits() | if fin { 0x80 } else { 0 };
    if let Some(short) = u8::try_from(length).ok().filter(|short| *short < 126) {
        vec![first, short]
    } else if let Ok(medium) = u16::try_from(length) {
        let mut bytes = vec![first, 126];
        bytes.extend_from_slice(&medium.to_be_bytes());
        bytes
    } else {
        let mut bytes = vec![first, 127];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes
    }
}

/// Writes a close frame; without a code its body is empty.
#[must_use]
pub fn encode_close(code: Option<u16>, reason: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        // A control frame carries at most 125 bytes; a longer reason is cut, at a character's edge.
        for character in reason.chars() {
            if payload.len() + character.len_utf8() > 125 {
                break;
            }
            payload.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    encode(Opcode::Close, &payload)
}

/// One whole thing the client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    Close { code: Option<u16>, reason: String },
}

/// A rule of RFC 6455 that the client broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    Unmasked,
    ReservedBits,
    UnknownOpcode,
    FragmentedControl,
    LongControl,
    StrayContinuation,
    MissingContinuation,
    TooLong,
    InvalidUtf8,
    InvalidClose,
}

impl Violation {
    /// Close code that RFC 6455 section 7.4.1 asks for.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::TooLong => 1009,
            Self::InvalidUtf8 => 1007,
            _ => 1002,
        }
    }
}

/// Reader of masked client frames: bytes go in, whole messages come out.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes received and not yet read as frames.
    buffer: BytesMut,
    /// First opcode and the collected payload of a message whose last fragment has not come.
    collected: Option<(Opcode, Vec<u8>)>,
}

/// One frame as it stood on the wire.
struct Frame {
    fin: bool,
    opcode: Opcode,
    payload: Vec<u8>,
}

impl Reader {
    /// Buffer to read the socket into.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Next whole message; `None` until more bytes arrive.
    ///
    /// # Errors
    /// The rule that the client broke; the reader is of no use afterwards.
    pub fn message(&mut self) -> Result<Option<Incoming>, Violation> {
        while let Some(frame) = self.frame()? {
            if let Some(incoming) = self.absorb(frame)? {
                return Ok(Some(incoming));
            }
        }
        Ok(None)
    }

    /// Takes one frame off the buffer once all of it is there.
    fn frame(&mut self) -> Result<Option<Frame>, Violation> {
        let mut head = &self.buffer[..];
        let (Ok(first), Ok(second)) = (head.try_get_u8(), head.try_get_u8()) else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        let fin = first & 0x80 != 0;
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(Violation::UnknownOpcode)?;
        let short = second & 0x7F;
        if opcode.is_control() && !fin {
            return Err(Violation::FragmentedControl);
        }
        if opcode.is_control() && short > 125 {
            return Err(Violation::LongControl);
        }
        let declared = match short {
            126 => head.try_get_u16().map(u64::from),
            127 => head.try_get_u64(),
            short => Ok(u64::from(short)),
        };
        let Ok(declared) = declared else { return Ok(None) };
        // Checked by the header alone: waiting for the payload first would let the client fill our memory.
        let length = usize::try_from(declared).map_err(|_| Violation::TooLong)?;
        if length > MESSAGE_LIMIT_BYTES {
            return Err(Violation::TooLong);
        }
        let Ok(mask) = head.try_get_u32() else {
            return Ok(None);
        };
        let Some(masked) = head.get(..length) else {
            return Ok(None);
        };
        let payload: Vec<u8> =
            masked.iter().zip(mask.to_be_bytes().into_iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let consumed = self.buffer.len() - head.len() + length;
        self.buffer.advance(consumed);
        Ok(Some(Frame { fin, opcode, payload }))
    }

    /// Turns a frame into a message, or keeps it as a fragment of one.
    fn absorb(&mut self, frame: Frame) -> Result<Option<Incoming>, Violation> {
        match frame.opcode {
            Opcode::Ping => return Ok(Some(Incoming::Ping(frame.payload.into()))),
            Opcode::Pong => return Ok(Some(Incoming::Pong(frame.payload.into()))),
            Opcode::Close => return close(&frame.payload).map(Some),
            Opcode::Continuation => {
                let (_, collected) = self.collected.as_mut().ok_or(Violation::StrayContinuation)?;
                collected.extend_from_slice(&frame.payload);
                if collected.len() > MESSAGE_LIMIT_BYTES {
                    return Err(Violation::TooLong);
                }
            }
            Opcode::Text | Opcode::Binary => {
                if self.collected.is_some() {
                    return Err(Violation::MissingContinuation);
                }
                self.collected = Some((frame.opcode, frame.payload));
            }
        }
        if !frame.fin {
            return Ok(None);
        }
        match self.collected.take() {
            Some((Opcode::Text, payload)) => {
                String::from_utf8(payload).map(Incoming::Text).map(Some).map_err(|_| Violation::InvalidUtf8)
            }
            Some((_, payload)) => Ok(Some(Incoming::Binary(payload.into()))),
            None => Ok(None),
        }
    }
}

/// Reads a close frame's body: nothing, or a legal code and a UTF-8 reason.
fn close(payload: &[u8]) -> Result<Incoming, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(Incoming::Close { code: None, reason: String::new() })
        } else {
            Err(Violation::InvalidClose)
        };
    };
    let code = u16::from_be_bytes(*code);
    // RFC 6455 7.4: 1004-1006 and 1015 may never stand on the wire, below 1000 nothing is defined.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::InvalidClose);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
    Ok(Incoming::Close { code: Some(code), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests;
