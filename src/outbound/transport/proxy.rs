//! A way through the operator's egress proxy: `CONNECT` (RFC 9110, section 9.3.6), then a connection like any
//! other. TLS is spoken with the receiver, inside of it.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};

use crate::config::EgressProxy;
use crate::outbound::transport::dial::first_of;

/// Longest head of its answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Asks the proxy for a connection to this address. Does not end by itself: the caller gives up `within` this
/// time.
///
/// # Errors
/// If the proxy cannot be reached, or refuses.
pub async fn tunnel(proxy: &EgressProxy, to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((proxy.host.as_str(), proxy.port)).await?.collect();
    let mut stream = first_of(&addresses, within, |address, _| TcpStream::connect(address)).await?;
    let mut head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
    if let Some(authorization) = &proxy.authorization {
        head.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.expose()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    // Byte by byte: what follows the head belongs to the receiver.
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= HEAD_BYTES_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "the proxy's answer has no end"));
        }
        answer.push(stream.read_u8().await?);
    }
    if is_success(&answer) { Ok(stream) } else { Err(ErrorKind::ConnectionRefused.into()) }
}

fn is_success(head: &[u8]) -> bool {
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "));
    matches!(status, Some([b'2', b'0'..=b'9', b'0'..=b'9', b' ' | b'\r', ..]))
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
