//! Carrying a [`Behaviour`] out on the raw socket.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::behaviour::{Answer, Behaviour, gzip_bomb};

/// How an answer ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Answer given in full; the connection may serve another request.
    Answered,
    /// Nothing more may come on this connection.
    Over,
    /// The client left before the behaviour was through; with the bytes it was sent until then.
    HungUp(usize),
}

/// Time for the client to read what comes before a reset.
const RESET_AFTER: Duration = Duration::from_millis(50);

/// Copies of 258 zeros in a bomb: 256 MiB in 1.6 MiB.
const BOMB_COPIES: usize = 1_040_447;

/// Does what was asked; `body` is what the POST held, or what else is to be repeated.
pub(super) async fn carry_out(behaviour: &Behaviour, body: &Bytes, stream: &mut TcpStream) -> Ended {
    match behaviour {
        Behaviour::Answer(answer) => give(answer, stream).await,
        Behaviour::Hang => stay(stream, 0).await,
        Behaviour::CloseUnanswered => Ended::Over,
        Behaviour::ResetUnanswered => {
            // Without lingering, dropping the socket sends a reset.
            let _ = stream.set_zero_linger();
            Ended::Over
        }
        Behaviour::Drip { status, every } => {
            let start = head(*status, "content-length: 1000000\r\n");
            repeat(stream, start.into(), Bytes::from_static(b"."), *every).await
        }
        Behaviour::DripHead { every } => {
            repeat(
                stream,
                Bytes::from_static(b"HTTP/1.1 200 OK\r\nx-drip: "),
                Bytes::from_static(b"."),
                *every,
            )
            .await
        }
        Behaviour::EndlessHead => {
            let line = Bytes::from_static(b"x-endless: and on and on\r\n");
            repeat(stream, Bytes::from_static(b"HTTP/1.1 200 OK\r\n"), line, Duration::ZERO).await
        }
        Behaviour::EndlessBody { status } => {
            let start = head(*status, "transfer-encoding: chunked\r\n");
            let mut chunk = b"1000\r\n".to_vec();
            chunk.resize(chunk.len() + 0x1000, b'x');
            chunk.extend_from_slice(b"\r\n");
            repeat(stream, start.into(), chunk.into(), Duration::ZERO).await
        }
        Behaviour::EndlessTrailers { status } => {
            let start = format!("{}0\r\n", head(*status, "transfer-encoding: chunked\r\n"));
            repeat(stream, start.into(), Bytes::from_static(b"x-trailer: more\r\n"), Duration::ZERO).await
        }
        Behaviour::Interim { interim, wait, status } => {
            let first = format!("HTTP/1.1 {interim} Interim\r\n\r\n");
            if let Err(ended) = write(stream, first.as_bytes(), 0).await {
                return ended;
            }
            give(&Answer { delay: *wait, ..plain(*status, Bytes::new()) }, stream).await
        }
        Behaviour::Interims { interim, count, status } => {
            let first = format!("HTTP/1.1 {interim} Interim\r\n\r\n").repeat(*count);
            match write(stream, first.as_bytes(), 0).await {
                Ok(()) => give(&plain(*status, Bytes::new()), stream).await,
                Err(ended) => ended,
            }
        }
        Behaviour::EndlessInterims { interim } => {
            let again = format!("HTTP/1.1 {interim} Interim\r\n\r\n").repeat(64);
            repeat(stream, Bytes::new(), again.into(), Duration::ZERO).await
        }
        Behaviour::EndlessExtension { status } => {
            let start = format!("{}1;", head(*status, "transfer-encoding: chunked\r\n"));
            repeat(stream, start.into(), Bytes::from_static(b"and=on;"), Duration::ZERO).await
        }
        Behaviour::DripChunks { status, every } => {
            let start = head(*status, "transfer-encoding: chunked\r\n");
            repeat(stream, start.into(), Bytes::from_static(b"1\r\n.\r\n"), *every).await
        }
        Behaviour::Length { status, declared, sent } => {
            let mut bytes = head(*status, &format!("content-length: {declared}\r\n")).into_bytes();
            bytes.resize(bytes.len() + sent, b'.');
            spill(stream, &bytes).await
        }
        Behaviour::CloseAfter { answer, wait } => match give(answer, stream).await {
            Ended::Answered => {
                sleep(*wait).await;
                Ended::Over
            }
            ended => ended,
        },
        Behaviour::Echo { status } | Behaviour::EchoRequest { status } => {
            give(&plain(*status, body.clone()), stream).await
        }
        Behaviour::Spill(bytes) => spill(stream, bytes).await,
        Behaviour::ResetAfter(bytes) => match write(stream, bytes, 0).await {
            Ok(()) => {
                // A reset throws away what has not been read yet.
                sleep(RESET_AFTER).await;
                let _ = stream.set_zero_linger();
                Ended::Over
            }
            Err(ended) => ended,
        },
        Behaviour::Bomb { status } => {
            let answer = Answer {
                status: *status,
                headers: vec![("content-encoding".into(), "gzip".into())],
                body: gzip_bomb(BOMB_COPIES),
                delay: Duration::ZERO,
            };
            give(&answer, stream).await
        }
        Behaviour::Raw(bytes) => match write(stream, bytes, 0).await {
            Ok(()) => Ended::Over,
            Err(ended) => ended,
        },
    }
}

fn plain(status: u16, body: Bytes) -> Answer {
    Answer { status, headers: Vec::new(), body, delay: Duration::ZERO }
}

/// Sends bytes as they are, as if they were an answer.
async fn spill(stream: &mut TcpStream, bytes: &[u8]) -> Ended {
    match write(stream, bytes, 0).await {
        Ok(()) => Ended::Answered,
        Err(ended) => ended,
    }
}

/// Gives a complete answer, unless the client leaves during the delay.
async fn give(answer: &Answer, stream: &mut TcpStream) -> Ended {
    if !answer.delay.is_zero() {
        tokio::select! {
            () = sleep(answer.delay) => {}
            ended = stay(stream, 0) => return ended,
        }
    }
    let mut lines = String::new();
    for (name, value) in &answer.headers {
        lines.push_str(&format!("{name}: {value}\r\n"));
    }
    // RFC 9110 8.6: no Content-Length with 204.
    if answer.status != 204 {
        lines.push_str(&format!("content-length: {}\r\n", answer.body.len()));
    }
    let mut bytes = head(answer.status, &lines).into_bytes();
    if answer.status != 204 {
        bytes.extend_from_slice(&answer.body);
    }
    match write(stream, &bytes, 0).await {
        Ok(()) => Ended::Answered,
        Err(ended) => ended,
    }
}

fn head(status: u16, lines: &str) -> String {
    let reason = axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    format!("HTTP/1.1 {status} {}\r\n{lines}\r\n", reason.unwrap_or("Unknown"))
}

/// Sends a start and then the same bytes for ever, until the client leaves.
async fn repeat(stream: &mut TcpStream, start: Bytes, again: Bytes, every: Duration) -> Ended {
    let mut sent = 0;
    if let Err(ended) = write(stream, &start, sent).await {
        return ended;
    }
    sent += start.len();
    loop {
        if !every.is_zero() {
            tokio::select! {
                () = sleep(every) => {}
                ended = stay(stream, sent) => return ended,
            }
        }
        if let Err(ended) = write(stream, &again, sent).await {
            return ended;
        }
        sent += again.len();
    }
}

/// Waits until the client leaves; whatever it sends meanwhile is dropped.
async fn stay(stream: &mut TcpStream, sent: usize) -> Ended {
    let mut sink = [0; 1024];
    while let Ok(1..) = stream.read(&mut sink).await {}
    Ended::HungUp(sent)
}

async fn write(stream: &mut TcpStream, bytes: &[u8], sent: usize) -> Result<(), Ended> {
    stream.write_all(bytes).await.map_err(|_| Ended::HungUp(sent))
}
