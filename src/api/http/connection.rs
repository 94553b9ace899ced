//! A caller's connection as actix gets it: every byte went through `api/http/framing.rs` before, and neither
//! side may keep the other one waiting. actix by itself has a deadline for the first head of a connection
//! only.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::api::http::framing::{Framing, Phase};
use crate::api::http::limits::Place;

/// How long a head may take from its first byte. Of the first one of a connection actix says 408 after 5 s.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a body may take, read by a handler (`api/http/body_reader.rs` says 408 after 10 s) or read off by
/// actix, after an answer that did not wait for it.
const BODY_WITHIN: Duration = Duration::from_secs(20);
/// How long a caller may take none of its answer.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// What actix gets to read in the place of a head that is refused: no part of any. It answers 400 and closes.
/// In the place of a body it gets an early end: the handler answers 400, and actix closes.
const NEVER_VALID: &[u8] = b"\r\0";
/// How long is read off what a caller still sends after a refusal, so that the answer is not lost by a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Tells an answer that goes on and on that its caller will say nothing more. actix itself goes on writing to
/// a caller that may only have closed its half, and learns by the second write that it has gone.
#[derive(Clone, Debug, Default)]
pub struct Hangup(Arc<Notify>);

impl Hangup {
    /// Waits until the caller has closed its side.
    pub async fn wait(&self) {
        self.0.notified().await;
    }
}

/// The connection.
#[derive(Debug)]
pub struct Guarded<S> {
    io: S,
    framing: Framing,
    /// What is still to be read in the place of what was refused, before the end; `None` while all is well.
    refused: Option<&'static [u8]>,
    /// What is being read, and of which request.
    phase: (Phase, u64),
    reading: Pin<Box<Sleep>>,
    writing: Option<Pin<Box<Sleep>>>,
    hangup: Hangup,
    /// Its place among the connections of its address, if those are counted.
    _place: Option<Place>,
}

impl<S> Guarded<S> {
    /// A fresh connection.
    pub fn new(io: S, place: Option<Place>) -> Self {
        Self {
            io,
            framing: Framing::default(),
            refused: None,
            phase: (Phase::Between, 0),
            reading: Box::pin(sleep_until(Instant::now())),
            writing: None,
            hangup: Hangup::default(),
            _place: place,
        }
    }

    /// What tells that the caller has closed its side.
    pub fn hangup(&self) -> Hangup {
        self.hangup.clone()
    }

    /// Sets the deadline of what is being read now; between requests actix has one.
    fn watch(&mut self) {
        let phase = (self.framing.phase(), self.framing.requests());
        if phase != self.phase {
            self.phase = phase;
            let within = if phase.0 == Phase::Head { HEAD_WITHIN } else { BODY_WITHIN };
            self.reading.as_mut().reset(Instant::now() + within);
        }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.phase.0 != Phase::Between && self.reading.as_mut().poll(cx).is_ready()
    }

    /// The outcome of a write, with a deadline for the next one if nothing could be written.
    fn written<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.writing = None;
            return done;
        }
        let late = self.writing.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_WITHIN)));
        ready!(late.as_mut().poll(cx));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Some(rest) = this.refused.as_mut().filter(|rest| !rest.is_empty()) {
                let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
                buf.put_slice(now);
                *rest = later;
                return Poll::Ready(Ok(()));
            }
            if this.refused.is_some() {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            if Pin::new(&mut this.io).poll_read(cx, buf)?.is_pending() {
                if this.is_late(cx) {
                    return Poll::Ready(Err(ErrorKind::TimedOut.into()));
                }
                return Poll::Pending;
            }
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                this.hangup.0.notify_one();
                return Poll::Ready(Ok(()));
            }
            match this.framing.pass(fresh) {
                Ok(()) => {
                    this.watch();
                    if this.is_late(cx) {
                        return Poll::Ready(Err(ErrorKind::TimedOut.into()));
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(refused) => {
                    tracing::debug!(
                        why = refused.why,
                        "refusing a malformed request; closing its connection"
                    );
                    let in_body = this.framing.phase() == Phase::Body;
                    this.refused = Some(if in_body { &[] } else { NEVER_VALID });
                    buf.set_filled(before + refused.after);
                    if refused.after > 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.written(cx, done)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        if this.refused.is_none() {
            return Poll::Ready(Ok(()));
        }
        let linger = this.writing.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LINGER)));
        let mut waste = [0; 4096];
        while linger.as_mut().poll(cx).is_pending() {
            let mut waste = ReadBuf::new(&mut waste);
            let read = ready!(Pin::new(&mut this.io).poll_read(cx, &mut waste));
            if read.is_err() || waste.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
