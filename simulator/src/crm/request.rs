//! A strict reader of HTTP/1.1 POSTs, straight from the socket.
//!
//! By hand, because a receiver that is to misbehave needs the raw socket, and because a lenient server would
//! hide what another receiver stumbles over. Bodies must declare their length: so do many small CRMs.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD_LIMIT_BYTES: usize = 64 * 1024;
const BODY_LIMIT_BYTES: usize = 8 * 1024 * 1024;
const HEADERS_LIMIT: usize = 100;
/// Room for one read, so that a POST takes one; what is left of a larger block serves the next.
const READ_BYTES: usize = 4 * 1024;
const BLOCK_BYTES: usize = 16 * 1024;

/// A request that was read to its end.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    /// Whether the client wants to send another request on this connection.
    pub(super) keep_alive: bool,
}

/// Why no request came.
#[derive(Debug)]
pub(super) enum NoRequest {
    /// The client closed between two requests, as it may.
    Closed,
    /// The client closed or broke in the middle of one.
    Cut,
    /// The request is not one we take; with the status that says so.
    Refused(u16, String),
}

/// Head of a request, and how many bytes it took.
struct Head {
    bytes: usize,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    http_11: bool,
}

/// Reads the next request; `buffer` keeps what was read beyond it.
pub(super) async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Request, NoRequest> {
    let head = loop {
        if let Some(head) = parse(buffer)? {
            break head;
        }
        if buffer.len() > HEAD_LIMIT_BYTES {
            return Err(NoRequest::Refused(431, "the head is too long".into()));
        }
        let started = !buffer.is_empty();
        if buffer.capacity() - buffer.len() < READ_BYTES {
            buffer.reserve(BLOCK_BYTES);
        }
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => {
                return Err(if started { NoRequest::Cut } else { NoRequest::Closed });
            }
            Ok(_) => {}
        }
    };
    buffer.advance(head.bytes);
    let length = length(&head)?;
    if head.headers.iter().any(|(name, value)| name == "expect" && value.eq_ignore_ascii_case("100-continue"))
    {
        let going_on = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        going_on.map_err(|_| NoRequest::Cut)?;
    }
    buffer.reserve(length.saturating_sub(buffer.len()));
    while buffer.len() < length {
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return Err(NoRequest::Cut),
            Ok(_) => {}
        }
    }
    let body = buffer.split_to(length).freeze();
    let asked = |word: &str| {
        head.headers
            .iter()
            .any(|(name, value)| name == "connection" && value.to_ascii_lowercase().contains(word))
    };
    let keep_alive = if head.http_11 { !asked("close") } else { asked("keep-alive") };
    Ok(Request { method: head.method, target: head.target, headers: head.headers, body, keep_alive })
}

/// Reads the head once all of it is there.
fn parse(buffer: &[u8]) -> Result<Option<Head>, NoRequest> {
    let refuse = |why: String| NoRequest::Refused(400, why);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(bytes) =
        request.parse(buffer).map_err(|error| refuse(error.to_string()))?
    else {
        return Ok(None);
    };
    let mut read = Vec::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let value =
            std::str::from_utf8(header.value).map_err(|_| refuse(format!("{} is not text", header.name)))?;
        read.push((header.name.to_ascii_lowercase(), value.to_owned()));
    }
    let once = |wanted: &str| read.iter().filter(|(name, _)| name == wanted).count() == 1;
    if !once("host") {
        return Err(refuse("one Host header is required".into()));
    }
    Ok(Some(Head {
        bytes,
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        headers: read,
        http_11: request.version == Some(1),
    }))
}

/// Declared length of the body.
fn length(head: &Head) -> Result<usize, NoRequest> {
    if head.headers.iter().any(|(name, _)| name == "transfer-encoding") {
        return Err(NoRequest::Refused(411, "a body must declare its length".into()));
    }
    let mut lengths =
        head.headers.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| value);
    let Some(length) = lengths.next() else {
        return if head.method == "POST" {
            Err(NoRequest::Refused(411, "a POST must declare its length".into()))
        } else {
            Ok(0)
        };
    };
    if lengths.next().is_some() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoRequest::Refused(400, "Content-Length is not one number".into()));
    }
    match length.parse() {
        Ok(length) if length <= BODY_LIMIT_BYTES => Ok(length),
        _ => Err(NoRequest::Refused(413, "the body is too long".into())),
    }
}
