//! Floor 1: addresses of one host, dialled one after another.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::domain::webhook::dial_budget::longest_wait;

/// Opens a connection by the first address that `dial` comes through to; `within` is the time for all that
/// follows, too.
///
/// # Errors
/// Of the last address, if none is come through to.
pub async fn first_of<F: Future<Output = io::Result<TcpStream>>>(
    addresses: &[SocketAddr],
    within: Duration,
    dial: impl Fn(SocketAddr, Duration) -> F,
) -> io::Result<TcpStream> {
    let by = Instant::now() + within;
    let mut failed = io::Error::from(ErrorKind::AddrNotAvailable);
    for (tried, address) in addresses.iter().enumerate() {
        let untried = addresses.len().saturating_sub(tried);
        let wait = longest_wait(by.saturating_duration_since(Instant::now()), untried);
        match timeout(wait, dial(*address, wait)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}
