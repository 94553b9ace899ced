//! One WebSocket, safe to read from an untrusted peer.
//!
//! awc opens it and its codec does framing. This file adds the rules that awc lacks: a frame's declared
//! length is checked before a byte of it is kept, fragments are put together under a total limit, text must
//! be UTF-8, pings are answered. A broken rule ends the socket with the code that RFC 6455 names for it.

use std::time::Duration;

use actix_codec::{Decoder, Encoder, Framed};
use actix_http::ws::{CloseCode, CloseReason, Codec, Frame, Item, Message, ProtocolError};
use awc::BoxedSocket;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// Largest frame and largest message; presence updates have a few hundred bytes.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Pieces of one message at most: empty ones would add nothing to its length, and never end.
const PIECES_MAX: usize = 4096;
/// Frames that are taken in one go before others on the thread have their turn: a peer that sends as fast as
/// it can would keep every other source waiting.
const FRAMES_IN_ONE_GO: u32 = 64;
/// Bits of a frame's first byte that only extensions use, of which we have none.
const RESERVED_BITS: u8 = 0b0111_0000;
/// Bit of a frame's second byte that only a client sets.
const MASKED: u8 = 0b1000_0000;
/// Outgoing messages that wait; a peer that does not read fills the queue, and its socket is dropped.
const QUEUE_LENGTH: usize = 64;
/// How long the other side may take to answer our close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How long one write may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// Longest reason of a close that is kept.
const REASON_CHARS_MAX: usize = 123;

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text message.
    Text(String),
    /// A whole binary message.
    Binary(Bytes),
    /// An RFC 6455 ping; it has been answered.
    Ping,
    /// An RFC 6455 pong with what it echoes.
    Pong(Bytes),
    /// The end. Nothing follows.
    Closed(Closed),
}

/// How a socket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Close code: the peer's, ours if we ended it, 1006 if it broke without one.
    pub code: u16,
    /// The peer's reason, or the rule that it broke.
    pub reason: String,
    /// A rule of the protocol was broken.
    pub violation: bool,
}

impl Closed {
    /// It ended without a close frame.
    #[must_use]
    pub fn broken(reason: &str) -> Self {
        Self { code: 1006, reason: reason.to_owned(), violation: false }
    }

    fn violation(code: u16, reason: &str) -> Self {
        Self { code, reason: reason.to_owned(), violation: true }
    }
}

#[derive(Clone, Debug)]
enum Outgoing {
    Text(String),
    Ping(Bytes),
    Close(u16, String),
}

/// Sends on a socket without waiting. Clones send on the same one.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: mpsc::Sender<Outgoing>,
}

impl Sender {
    /// Sends a text message; false if the socket is gone or its peer does not read.
    #[must_use]
    pub fn text(&self, text: String) -> bool {
        self.queue.try_send(Outgoing::Text(text)).is_ok()
    }

    /// Sends an RFC 6455 ping; false as for text.
    #[must_use]
    pub fn ping(&self, payload: Bytes) -> bool {
        self.queue.try_send(Outgoing::Ping(payload)).is_ok()
    }

    /// Starts the closing handshake; the socket then ends within two seconds.
    pub fn close(&self, code: u16, reason: &str) {
        let _ = self.queue.try_send(Outgoing::Close(code, reason.to_owned()));
    }
}

/// An open socket.
pub struct Socket {
    framed: Framed<BoxedSocket, CappedCodec>,
    orders: mpsc::Receiver<Outgoing>,
    sender: Sender,
    message: Fragments,
    /// Set once we have asked to close: the code we gave, and until when we wait for the answer.
    closing: Option<(u16, Instant)>,
    /// Frames since others had their turn.
    in_one_go: u32,
    ended: bool,
}

impl Socket {
    /// Takes over a socket whose handshake is done.
    pub fn new(framed: Framed<BoxedSocket, Codec>) -> Self {
        let (queue, orders) = mpsc::channel(QUEUE_LENGTH);
        Self {
            framed: framed.into_map_codec(|codec| CappedCodec(codec.max_size(FRAME_BYTES_MAX))),
            orders,
            sender: Sender { queue },
            message: Fragments::default(),
            closing: None,
            in_one_go: 0,
            ended: false,
        }
    }

    /// A socket without a network under it, for `fuzz/`.
    #[cfg(any(test, feature = "fuzzing"))]
    #[must_use]
    pub fn over(stream: tokio::io::DuplexStream) -> Self {
        Self::new(Framed::new(Box::new(stream), Codec::new().client_mode()))
    }

    #[must_use]
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// The next thing that arrives; meanwhile queued messages are sent. `None` after [`Incoming::Closed`].
    ///
    /// Order of inputs: queued messages, the deadline after a close, frames of the peer. Reading comes last,
    /// since a burst that wants answers would otherwise outrun them and fill their queue.
    pub async fn next(&mut self) -> Option<Incoming> {
        while !self.ended {
            self.in_one_go += 1;
            if self.in_one_go > FRAMES_IN_ONE_GO {
                self.in_one_go = 0;
                tokio::task::yield_now().await;
            }
            let patience = self.closing.map(|(_, until)| until);
            let step = tokio::select! {
                biased;
                Some(order) = self.orders.recv() => self.send_queued(order).await,
                () = sleep_until(patience) => Some(Incoming::Closed(self.end_of_stream())),
                frame = self.framed.next() => match frame {
                    Some(Ok(frame)) => self.receive(frame).await,
                    Some(Err(error)) => Some(Incoming::Closed(self.violated(&error).await)),
                    None => Some(Incoming::Closed(self.end_of_stream())),
                },
            };
            if let Some(Incoming::Closed(_)) = step {
                self.ended = true;
            }
            if step.is_some() {
                return step;
            }
        }
        None
    }

    async fn receive(&mut self, frame: Frame) -> Option<Incoming> {
        match frame {
            Frame::Text(bytes) => self.text(bytes).await,
            Frame::Binary(bytes) => Some(Incoming::Binary(bytes)),
            Frame::Continuation(item) => match self.message.add(item) {
                Ok(None) => None,
                Ok(Some((true, bytes))) => self.text(bytes).await,
                Ok(Some((false, bytes))) => Some(Incoming::Binary(bytes)),
                Err(closed) => Some(Incoming::Closed(self.refuse(closed).await)),
            },
            Frame::Ping(payload) => match self.send(Message::Pong(payload)).await {
                Ok(()) => Some(Incoming::Ping),
                Err(closed) => Some(Incoming::Closed(closed)),
            },
            Frame::Pong(payload) => Some(Incoming::Pong(payload)),
            Frame::Close(reason) => {
                let code = reason.as_ref().map_or(1005, |reason| u16::from(reason.code));
                let text = reason.and_then(|reason| reason.description).unwrap_or_default();
                if self.closing.is_none() {
                    // 1005 stands for a close without a code and may not be sent.
                    let answer = (code != 1005).then(|| CloseReason::from(CloseCode::from(code)));
                    let _ = self.send(Message::Close(answer)).await;
                }
                let reason = text.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
                Some(Incoming::Closed(Closed { code, reason, violation: false }))
            }
        }
    }

    async fn text(&mut self, bytes: Bytes) -> Option<Incoming> {
        match String::from_utf8(bytes.into()) {
            Ok(text) => Some(Incoming::Text(text)),
            Err(_) => {
                let closed = Closed::violation(1007, "a text message that is not UTF-8");
                Some(Incoming::Closed(self.refuse(closed).await))
            }
        }
    }

    async fn send_queued(&mut self, order: Outgoing) -> Option<Incoming> {
        let message = match order {
            Outgoing::Text(text) => Message::Text(text.into()),
            Outgoing::Ping(payload) => Message::Ping(payload),
            Outgoing::Close(code, reason) => {
                if self.closing.is_some() {
                    return None;
                }
                self.closing = Some((code, Instant::now() + CLOSE_WITHIN));
                Message::Close(Some(CloseReason { code: CloseCode::from(code), description: Some(reason) }))
            }
        };
        self.send(message).await.err().map(Incoming::Closed)
    }

    async fn send(&mut self, message: Message) -> Result<(), Closed> {
        match timeout(WRITE_WITHIN, self.framed.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.end_of_stream()),
            Err(_) => Err(Closed::broken("the peer does not read")),
        }
    }

    /// Tells the peer which rule it broke; later frames are not read.
    async fn refuse(&mut self, closed: Closed) -> Closed {
        let reason =
            CloseReason { code: CloseCode::from(closed.code), description: Some(closed.reason.clone()) };
        let _ = self.send(Message::Close(Some(reason))).await;
        closed
    }

    async fn violated(&mut self, error: &ProtocolError) -> Closed {
        match error {
            ProtocolError::Io(_) => self.end_of_stream(),
            ProtocolError::Overflow => {
                self.refuse(Closed::violation(1009, "a frame that is too large")).await
            }
            _ => self.refuse(Closed::violation(1002, "a frame that breaks the protocol")).await,
        }
    }

    fn end_of_stream(&self) -> Closed {
        match self.closing {
            Some((code, _)) => Closed { code, reason: "closed by us".to_owned(), violation: false },
            None => Closed::broken("the connection broke"),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => drop(timeout_at(deadline, std::future::pending::<()>()).await),
        None => std::future::pending().await,
    }
}

/// A message that comes in pieces.
#[derive(Default)]
struct Fragments {
    bytes: BytesMut,
    pieces: usize,
    text: bool,
}

impl Fragments {
    /// Adds a piece; gives the whole message, and whether it is text, with the last one.
    fn add(&mut self, item: Item) -> Result<Option<(bool, Bytes)>, Closed> {
        let (piece, last) = match item {
            Item::FirstText(piece) => {
                self.start(true);
                (piece, false)
            }
            Item::FirstBinary(piece) => {
                self.start(false);
                (piece, false)
            }
            Item::Continue(piece) => (piece, false),
            Item::Last(piece) => (piece, true),
        };
        if self.bytes.len() + piece.len() > MESSAGE_BYTES_MAX {
            return Err(Closed::violation(1009, "a message that is too large"));
        }
        self.pieces += 1;
        if self.pieces > PIECES_MAX {
            return Err(Closed::violation(1009, "a message in too many pieces"));
        }
        self.bytes.extend_from_slice(&piece);
        Ok(last.then(|| (self.text, self.bytes.split().freeze())))
    }

    fn start(&mut self, text: bool) {
        self.bytes.clear();
        self.pieces = 0;
        self.text = text;
    }
}

/// awc's codec, which looks at a frame's length only when it has the whole frame, behind a look at the
/// header.
struct CappedCodec(Codec);

impl Decoder for CappedCodec {
    type Item = Frame;
    type Error = ProtocolError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        if breaks_a_rule(src) {
            return Err(ProtocolError::BadOpCode);
        }
        if declared_length(src)
            .is_some_and(|bytes| bytes > u64::try_from(FRAME_BYTES_MAX).unwrap_or(u64::MAX))
        {
            return Err(ProtocolError::Overflow);
        }
        self.0.decode(src)
    }
}

impl Encoder<Message> for CappedCodec {
    type Error = ProtocolError;

    fn encode(&mut self, message: Message, dst: &mut BytesMut) -> Result<(), ProtocolError> {
        self.0.encode(message, dst)
    }
}

/// Whether a frame's first two bytes break a rule, whatever follows. awc's codec looks too, but calls a
/// reserved bit a failed read, which would pass for a connection that broke, and looks before a long length
/// is there and not after.
fn breaks_a_rule(src: &[u8]) -> bool {
    let Some([first, second]) = src.first_chunk() else { return false };
    let known = matches!(first & 0x0f, 0x0..=0x2 | 0x8..=0xa);
    first & RESERVED_BITS != 0 || second & MASKED != 0 || !known
}

/// Payload length that a frame's header declares (RFC 6455, section 5.2); `None` while the header is not
/// complete.
fn declared_length(src: &[u8]) -> Option<u64> {
    match src.get(1)? & 0x7f {
        126 => Some(u64::from(u16::from_be_bytes(src.get(2..4)?.try_into().ok()?))),
        127 => Some(u64::from_be_bytes(src.get(2..10)?.try_into().ok()?)),
        short => Some(u64::from(short)),
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
