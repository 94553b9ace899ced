//! `presence-bridge healthcheck`: asks `/readyz` over plain HTTP; needs no client library and no shell in the
//! image.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

/// How long connecting and each read may take.
const WITHIN: Duration = Duration::from_secs(3);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Asks the bridge that listens at this address of this machine whether it is ready.
///
/// # Errors
/// If it does not answer, or is not ready.
pub fn run(listen: SocketAddr) -> anyhow::Result<ExitCode> {
    let answer = ask(listen).context("no answer")?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        anyhow::bail!("not ready: {}", answer.lines().last().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(listen: SocketAddr) -> io::Result<String> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, listen.port()), WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
