//! Treatments of a POST once the CRM has read it: the proper answer, or one of the ways to hurt a sender.

use std::time::Duration;

use bytes::Bytes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Wait before the first byte.
    pub delay: Duration,
}

/// One way to treat a POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers, sooner or later, and keeps the connection.
    Answer(Answer),
    /// Never answers and keeps TCP open.
    Hang,
    /// Closes TCP after reading, without an answer.
    CloseUnanswered,
    /// Resets TCP after reading, without an answer.
    ResetUnanswered,
    /// Sends the head of an answer, then one byte of the body at a time, for ever.
    Drip { status: u16, every: Duration },
    /// Sends the head itself one byte at a time.
    DripHead { every: Duration },
    /// Sends header lines for ever.
    EndlessHead,
    /// Sends a chunked body for ever, as fast as it is taken.
    EndlessBody { status: u16 },
    /// Ends the body and then sends trailers for ever.
    EndlessTrailers { status: u16 },
    /// Sends an interim answer (100, 103), waits, then sends the final one.
    Interim { interim: u16, wait: Duration, status: u16 },
    /// Sends this many interim answers one after the other, then the final one.
    Interims { interim: u16, count: usize, status: u16 },
    /// Sends interim answers for ever.
    EndlessInterims { interim: u16 },
    /// Begins a chunk and then lengthens its extension for ever.
    EndlessExtension { status: u16 },
    /// Sends a chunked body of one byte a chunk, for ever.
    DripChunks { status: u16, every: Duration },
    /// Declares a body of this length and sends one of that, then keeps the connection.
    Length { status: u16, declared: u64, sent: usize },
    /// Answers, keeps the connection as one that may be used again, and closes it after that time.
    CloseAfter { answer: Answer, wait: Duration },
    /// Answers with the body of the POST.
    Echo { status: u16 },
    /// Answers with a page that repeats all of the request, its headers first, and then once more as base64.
    EchoRequest { status: u16 },
    /// Sends a gzip body that inflates to 256 MiB.
    Bomb { status: u16 },
    /// Sends these bytes as they are, then closes.
    Raw(Bytes),
    /// Sends these bytes as they are and keeps the connection: what is too much lies before the next answer.
    Spill(Bytes),
    /// Sends these bytes as they are, then resets TCP.
    ResetAfter(Bytes),
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::status(204)
    }
}

impl Behaviour {
    /// Answers with a status at once.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Answer(Answer { status, headers: Vec::new(), body: Bytes::new(), delay: Duration::ZERO })
    }

    /// Refuses with a `Retry-After`, verbatim.
    #[must_use]
    pub fn retry_after(status: u16, value: &str) -> Self {
        Self::status(status).header("retry-after", value)
    }

    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("location", location)
    }

    /// Adds a header; only a complete answer has any.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer(answer) = &mut self {
            answer.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the body; only a complete answer has one.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        if let Self::Answer(answer) = &mut self {
            answer.body = body.into();
        }
        self
    }

    /// Waits before answering; only a complete answer can be late.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        if let Self::Answer(answer) = &mut self {
            answer.delay = delay;
        }
        self
    }

    /// Whether the sender is told, in the end, that the POST was accepted.
    #[must_use]
    pub fn accepts(&self) -> bool {
        match self {
            Self::Answer(Answer { status, .. })
            | Self::CloseAfter { answer: Answer { status, .. }, .. }
            | Self::Interim { status, .. }
            | Self::Interims { status, .. }
            | Self::Echo { status }
            | Self::EchoRequest { status }
            | Self::Bomb { status }
            | Self::Drip { status, .. }
            | Self::DripChunks { status, .. }
            | Self::EndlessBody { status }
            | Self::EndlessExtension { status }
            | Self::EndlessTrailers { status }
            | Self::Length { status, .. } => *status >= 200 && *status < 300,
            // The head says it, whatever becomes of the rest.
            Self::Raw(bytes) | Self::Spill(bytes) => {
                bytes.starts_with(b"HTTP/1.1 2") && bytes.windows(4).any(|end| end == b"\r\n\r\n")
            }
            _ => false,
        }
    }
}

/// Writes a gzip file of `copies` times 258 zeros, without a compressor.
///
/// One deflate block with fixed codes: the literal 0, then over and over "copy 258 bytes from 1 byte back",
/// which takes 13 bits. The checksum is left wrong: whoever gets that far has inflated everything already.
pub(super) fn gzip_bomb(copies: usize) -> Bytes {
    let mut file = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut bits = Bits { file: &mut file, byte: 0, filled: 0 };
    bits.push("1 10".chars());
    bits.push("00110000".chars());
    for _ in 0..copies {
        bits.push("11000101 00000".chars());
    }
    bits.push("0000000".chars());
    bits.flush();
    file.extend_from_slice(&[0; 8]);
    file.into()
}

/// Bits on their way into bytes, the lowest first.
struct Bits<'a> {
    file: &'a mut Vec<u8>,
    byte: u8,
    filled: u8,
}

impl Bits<'_> {
    fn push(&mut self, bits: impl Iterator<Item = char>) {
        for bit in bits.filter(|bit| *bit != ' ') {
            if bit == '1' {
                self.byte |= 1 << self.filled;
            }
            self.filled += 1;
            if self.filled == 8 {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.filled > 0 {
            self.file.push(self.byte);
            (self.byte, self.filled) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_bomb_that_gunzip_reads() {
        // `printf` of these bytes through `gzip -dc` gives 1 + 2 * 258 zeros (and a complaint about the
        // checksum).
        let bomb = gzip_bomb(2);
        assert_eq!(&bomb[10..bomb.len() - 8], [0x63, 0x18, 0x05, 0xA3, 0x00, 0x00]);
        assert!(gzip_bomb(1_000_000).len() < 1_700_000);
    }

    #[test]
    fn knows_what_counts_as_accepted() {
        assert!(Behaviour::default().accepts());
        assert!(!Behaviour::retry_after(429, "5").accepts());
        assert!(!Behaviour::Hang.accepts());
        assert!(Behaviour::Interim { interim: 103, wait: Duration::ZERO, status: 200 }.accepts());
        assert!(!Behaviour::Raw("HTTP/1.1 204".into()).accepts());
        assert!(Behaviour::Spill("HTTP/1.1 204 No Content\r\n\r\nmore".into()).accepts());
        assert!(!Behaviour::Spill("HTTP/1.1 500 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".into()).accepts());
    }
}
