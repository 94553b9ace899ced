//! Floor 1: a way through a proxy: `CONNECT` (RFC 9110, section 9.3.6), then a connection like any other.
//! TLS is spoken with the other end, inside of it.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use crate::config::EgressProxy;
use crate::dial::first_of;

/// Longest head of its answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// What the proxy did instead of opening a connection; inside of the [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// It has no address, or does not answer at it.
    #[error("the proxy cannot be reached")]
    Unreachable,
    /// It answered with another status than success.
    #[error("the proxy answered {0}")]
    Refused(u16),
    /// It answered with something that is no answer, or closed.
    #[error("the proxy does not answer as one")]
    NoAnswer,
}

impl From<TunnelError> for io::Error {
    fn from(error: TunnelError) -> Self {
        Self::new(ErrorKind::ConnectionRefused, error)
    }
}

/// Asks the proxy for a connection to `to`, a host or an address (IPv6 in brackets) with a port. Does not end
/// by itself: the caller gives up `within` this time.
///
/// # Errors
/// [`TunnelError`] inside if the proxy cannot be reached, or refuses.
pub async fn tunnel(proxy: &EgressProxy, to: impl Display, within: Duration) -> io::Result<TcpStream> {
    let found = lookup_host((proxy.host.as_str(), proxy.port)).await;
    let addresses: Vec<_> = found.map_err(|_| TunnelError::Unreachable)?.collect();
    let mut stream = first_of(&addresses, within, |address, _| TcpStream::connect(address))
        .await
        .map_err(|_| TunnelError::Unreachable)?;
    let mut head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
    if let Some(authorization) = &proxy.authorization {
        head.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.expose()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.map_err(|_| TunnelError::NoAnswer)?;
    // Byte by byte: what follows the head belongs to the other end.
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= HEAD_BYTES_MAX {
            return Err(TunnelError::NoAnswer.into());
        }
        answer.push(stream.read_u8().await.map_err(|_| TunnelError::NoAnswer)?);
    }
    match status(&answer) {
        Some(200..=299) => Ok(stream),
        Some(status) => Err(TunnelError::Refused(status).into()),
        None => Err(TunnelError::NoAnswer.into()),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, rest) = status.split_at_checked(3)?;
    let whole = digits.iter().all(u8::is_ascii_digit) && matches!(rest.first(), Some(b' ' | b'\r'));
    std::str::from_utf8(digits).ok().filter(|_| whole)?.parse().ok()
}
