//! Where a request ends and the next one begins, told by one reading only. What a proxy in front of us could
//! read in another way is refused, so that nobody's request can hide in somebody else's (request smuggling).
//! Fed by `api/http/connection.rs` with every byte before actix sees it: actix itself takes bare line feeds,
//! whole URLs as targets, `Upgrade: websocket` together with a length, and trailers and chunk extensions
//! without end.

/// Longest head, and longest trailers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest chunk extension: nobody needs any.
const EXTENSION_BYTES_MAX: usize = 256;
/// Longest body in any form; what a path takes is less (`api/http/body_reader.rs`). What nobody reads is read
/// off up to this.
const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why a connection ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How many bytes before it are fine.
    pub after: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first byte of a request.
    Between,
    /// The rest of its head.
    Head,
    /// Its body.
    Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    RequestLine,
    Header,
    Body,
    ChunkSize,
    Chunk,
    ChunkEnd,
    Trailer,
}

/// One connection's reading.
#[derive(Debug)]
pub struct Framing {
    state: State,
    /// The line that is being read.
    line: Vec<u8>,
    /// Bytes of this head, or of these trailers.
    held: usize,
    /// Bytes of this body.
    body: u64,
    /// Bytes still to come of this body, or of this chunk.
    left: u64,
    length: Option<u64>,
    chunked: bool,
    requests: u64,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            state: State::RequestLine,
            line: Vec::new(),
            held: 0,
            body: 0,
            left: 0,
            length: None,
            chunked: false,
            requests: 0,
        }
    }
}

impl Framing {
    /// What is being waited for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::RequestLine if self.held == 0 => Phase::Between,
            State::RequestLine | State::Header => Phase::Head,
            _ => Phase::Body,
        }
    }

    /// Which request of the connection it is, from 0.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Reads on.
    ///
    /// # Errors
    /// If it can be read in two ways, or is too long. Nothing may be read after that.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut rest = bytes;
        while let Some((first, behind)) = rest.split_first() {
            if matches!(self.state, State::Body | State::Chunk) {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                self.left = self.left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                rest = rest.get(here..).unwrap_or_default();
                if self.left == 0 && self.state == State::Chunk {
                    self.state = State::ChunkEnd;
                } else if self.left == 0 {
                    self.state = State::RequestLine;
                    self.requests = self.requests.wrapping_add(1);
                }
                continue;
            }
            let refuse = |why| Refused { after: bytes.len() - rest.len(), why };
            self.one(*first).map_err(refuse)?;
            rest = behind;
        }
        Ok(())
    }

    /// Reads one byte of a line.
    fn one(&mut self, byte: u8) -> Result<(), &'static str> {
        self.held += 1;
        let most = if self.state == State::ChunkSize { EXTENSION_BYTES_MAX } else { HEAD_BYTES_MAX };
        if self.held > most {
            return Err("it is too long");
        }
        if self.line.last() == Some(&b'\r') && byte != b'\n' {
            return Err("a carriage return stands alone");
        }
        if byte != b'\n' {
            // At once, not at the end of the line: actix ends a connection without an answer if it finds this
            // itself.
            match self.state {
                State::ChunkSize if !self.may_follow_in_chunk_size(byte) => {
                    return Err("a chunk's size is no number");
                }
                State::ChunkEnd if byte != b'\r' => return Err("a chunk is longer than it says"),
                _ => {}
            }
            self.line.push(byte);
            return Ok(());
        }
        if self.line.pop() != Some(b'\r') {
            return Err("a line feed stands alone");
        }
        let line = std::mem::take(&mut self.line);
        let next = match self.state {
            State::RequestLine => self.request_line(&line),
            State::Header => self.header(&line),
            State::ChunkSize => self.chunk_size(&line),
            State::ChunkEnd => Ok(State::ChunkSize),
            // Nothing of a trailer is used; what ends it is an empty line.
            State::Trailer if line.is_empty() => Ok(State::RequestLine),
            _ => Ok(self.state),
        };
        let before = self.state;
        self.state = next?;
        if self.state == State::RequestLine && before != State::RequestLine {
            self.requests = self.requests.wrapping_add(1);
        }
        let starts_request =
            self.state != before && !(before == State::RequestLine && self.state == State::Header);
        if starts_request {
            self.held = 0;
        }
        self.line = line;
        self.line.clear();
        Ok(())
    }

    fn request_line(&mut self, line: &[u8]) -> Result<State, &'static str> {
        // An empty line before a request is passed over, as everybody does.
        if line.is_empty() {
            return Ok(State::RequestLine);
        }
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        if !target.unwrap_or_default().starts_with(b"/") || method == Some(b"CONNECT") {
            return Err("the target is no path");
        }
        if words.next().is_some() || !matches!(version, Some(b"HTTP/1.1" | b"HTTP/1.0")) {
            return Err("the request line is not method, path and version");
        }
        (self.length, self.chunked, self.body) = (None, false, 0);
        Ok(State::Header)
    }

    fn header(&mut self, line: &[u8]) -> Result<State, &'static str> {
        if line.is_empty() {
            return self.end_of_head();
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a header has no colon")?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.is_empty() || name.iter().any(|byte| !byte.is_ascii_graphic()) {
            return Err("a header's name has blanks in it");
        }
        // Some read an underscore as a hyphen.
        let named = |wanted: &[u8]| {
            name.len() == wanted.len()
                && name
                    .iter()
                    .zip(wanted)
                    .all(|(a, b)| (if *a == b'_' { b'-' } else { a.to_ascii_lowercase() }) == *b)
        };
        if named(b"content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let length =
                std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
            let length = length.ok_or("the length is no number")?;
            if self.length.replace(length).is_some() || self.chunked || name.contains(&b'_') {
                return Err("the length is told twice");
            }
        } else if named(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") || name.contains(&b'_') {
                return Err("the transfer encoding is not chunked alone");
            }
            if std::mem::replace(&mut self.chunked, true) || self.length.is_some() {
                return Err("the length is told twice");
            }
        } else if named(b"upgrade") && contains_word(value, b"websocket") {
            // The rest of the connection would count as its body.
            return Err("there is no websocket here");
        }
        Ok(State::Header)
    }

    fn end_of_head(&mut self) -> Result<State, &'static str> {
        if self.chunked {
            return Ok(State::ChunkSize);
        }
        self.left = self.length.unwrap_or(0);
        Ok(if self.left == 0 { State::RequestLine } else { State::Body })
    }

    /// Digits, then perhaps blanks, then perhaps an extension.
    fn may_follow_in_chunk_size(&self, byte: u8) -> bool {
        let digits = self.line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let in_digits = digits == self.line.len();
        match byte {
            _ if self.line.contains(&b';') => byte == b'\r' || byte == b'\t' || !byte.is_ascii_control(),
            b'\r' | b';' | b' ' | b'\t' => digits > 0,
            _ => in_digits && digits < 16 && byte.is_ascii_hexdigit(),
        }
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<State, &'static str> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = line.get(..digits).unwrap_or_default();
        let size = std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        self.left = size.ok_or("a chunk's size is no number")?;
        self.body = self.body.saturating_add(self.left);
        if self.body > BODY_BYTES_MAX {
            return Err("the body is too long");
        }
        Ok(if self.left == 0 { State::Trailer } else { State::Chunk })
    }
}

fn contains_word(value: &[u8], word: &[u8]) -> bool {
    value.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FINE: &[&str] = &[
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "\r\nGET /a?b=c%20d HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\nA;x=y\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 0\r\nupgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ];

    const REFUSED: &[&str] = &[
        "GET / HTTP/1.1\nhost: x\n\n",
        "GET / HTTP/1.1\r\nhost: x\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n\n",
        "GET / HTTP/1.1\r\nhost: x\ry: z\r\n\r\n",
        "GET http://x/ HTTP/1.1\r\nhost: x\r\n\r\n",
        "CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nhost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.2\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n y\r\n\r\n",
        "GET / HTTP/1.1\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 1, 1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 0x1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length:\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent_length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: \"chunked\"\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding:\x0bchunked\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer_encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nupgrade: WebSocket\r\ncontent-length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3 3\r\nabc\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\n\r\n",
    ];

    /// Reads it in pieces of this size.
    fn read(text: &[u8], piece: usize) -> Result<Framing, Refused> {
        let mut framing = Framing::default();
        let mut before = 0;
        for piece in text.chunks(piece) {
            framing.pass(piece).map_err(|refused| Refused { after: before + refused.after, ..refused })?;
            before += piece.len();
        }
        Ok(framing)
    }

    #[test]
    fn what_can_be_read_in_one_way_passes() {
        for text in FINE {
            for piece in [1, 2, 7, 1000] {
                let framing = read(text.as_bytes(), piece);
                assert_eq!(framing.map(|framing| framing.phase()), Ok(Phase::Between), "{text:?}");
            }
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for text in REFUSED {
            let at_once = read(text.as_bytes(), 1000).map(|framing| framing.phase());
            assert!(at_once.is_err(), "{text:?}");
            for piece in [1, 2, 7] {
                assert_eq!(read(text.as_bytes(), piece).map(|framing| framing.phase()), at_once, "{text:?}");
            }
        }
    }

    #[test]
    fn nothing_goes_on_without_end() {
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = format!("{:x}\r\n{}\r\n", 0x10_0000, "x".repeat(0x10_0000));
        for endless in [
            "\r\n".repeat(20_000),
            format!("GET /{}", "x".repeat(20_000)),
            format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(4_000)),
            format!("{chunked}1;{}", "x".repeat(300)),
            format!("{chunked}{}1\r\n", "0".repeat(300)),
            format!("{chunked}0\r\n{}", "a: b\r\n".repeat(4_000)),
            format!("{chunked}{}", chunk.repeat(9)),
        ] {
            assert!(read(endless.as_bytes(), 4096).is_err());
        }
    }

    proptest! {
        /// Whatever comes, however it is cut, it is read in the same way, and little is kept of it.
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(
            parts in prop::collection::vec(
                prop_oneof![
                    prop::sample::select(vec![
                        &b"POST / HTTP/1.1\r\n"[..], b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n",
                        b"\r\n", b"\n", b"\r", b"5\r\nabcde\r\n", b"0\r\n\r\n", b"abcde", b"x: y\r\n", b" ",
                    ]).prop_map(<[u8]>::to_vec),
                    prop::collection::vec(any::<u8>(), 0..8),
                ],
                0..20,
            ),
            piece in 1_usize..9,
        ) {
            let text = parts.concat();
            let (whole, cut) = (read(&text, text.len().max(1)), read(&text, piece));
            match (whole, cut) {
                (Ok(whole), Ok(cut)) => prop_assert_eq!(format!("{whole:?}"), format!("{cut:?}")),
                (Err(whole), Err(cut)) => prop_assert_eq!(whole, cut),
                (whole, cut) => prop_assert!(false, "{whole:?} {cut:?}"),
            }
        }
    }
}
