//! One open WebSocket, the server's side: a task that hears orders, the client and the clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::frame::{self, Opcode};
use super::outbox::Outbox;
use super::world::{Order, Shared, World};
use crate::listen::stopped;

mod receive;

/// Time the client has to answer a close frame before we drop TCP anyway.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Connection, user and heartbeat of a socket.
pub(super) struct Identity {
    pub(super) connection_id: String,
    pub(super) user_id: String,
    pub(super) heartbeat: Duration,
}

/// How a socket ends.
enum End {
    /// TCP is simply closed.
    Quiet,
    Reset,
}

/// Answers that our last ping still waits for.
struct AwaitedPong {
    until: Instant,
    json: bool,
    rfc: bool,
}

struct Socket {
    shared: Arc<Shared>,
    identity: Identity,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    reader: frame::Reader,
    outbox: Outbox,
    silent: bool,
    next_ping: Instant,
    /// Number of the last ping; an RFC 6455 ping carries it, and only a pong that echoes it counts.
    pings: u64,
    awaited: Option<AwaitedPong>,
    /// Chunk of a running flood and how many are left.
    flood: Option<(Bytes, u64)>,
    /// Last presence frame, encoded.
    last: Option<Bytes>,
    /// Set once a close frame was sent: when to give up on the client's answer.
    closing: Option<Instant>,
    /// Set once the client's close frame came: nothing is left to do but to flush.
    finished: bool,
}

/// Runs a socket until it ends, then writes in the ledger what it could not send.
pub(super) async fn run(
    shared: Arc<Shared>,
    identity: Identity,
    stream: TcpStream,
    early: Bytes,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    // Latency is measured through this socket; a failure here only means that the peer is already gone.
    let _ = stream.set_nodelay(true);
    let (read, write) = stream.into_split();
    let mut reader = frame::Reader::default();
    reader.buffer().extend_from_slice(&early);
    let mut socket = Socket {
        next_ping: Instant::now() + identity.heartbeat,
        shared: shared.clone(),
        identity,
        read,
        write,
        reader,
        outbox: Outbox::default(),
        silent: false,
        pings: 0,
        awaited: None,
        flood: None,
        last: None,
        closing: None,
        finished: false,
    };
    if let End::Reset = socket.live(&mut orders).await {
        // Without lingering the kernel answers the client's next read with a reset.
        let _ = AsRef::<TcpStream>::as_ref(&socket.write).set_zero_linger();
    }
    let Socket { outbox, identity, .. } = &mut socket;
    shared.change(|world| {
        for mark in outbox.abandon() {
            world.ledger.lost_on_one(mark.number);
        }
        end(world, &identity.connection_id, &mut orders);
    });
}

/// Marks a connection's socket as gone, and the orders it never obeyed as lost.
///
/// Under the world's lock: once the sender is removed nobody can send another order, so none is overlooked.
pub(super) fn end(world: &mut World, connection: &str, orders: &mut mpsc::UnboundedReceiver<Order>) {
    world.tally.sockets_ended += 1;
    if let Some(connection) = world.connection(connection) {
        connection.socket = None;
    }
    orders.close();
    while let Ok(order) = orders.try_recv() {
        if let Order::Presence { number, .. } = order {
            world.ledger.lost_on_one(number);
        }
    }
}

impl Socket {
    /// Hears, in no order of preference: the end of the simulator, an order, the client's bytes, room to
    /// write, the clock.
    async fn live(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> End {
        let mut stop = self.shared.stop.subscribe();
        let mut listening = true;
        if let Some(end) = self.understand() {
            return end;
        }
        loop {
            let deadline = self.deadline();
            let end = tokio::select! {
                () = stopped(&mut stop) => Some(End::Quiet),
                order = orders.recv(), if listening => match order {
                    Some(order) => self.obey(order),
                    // The connection was deleted: its last order was to close, and only that is left to
                    // finish.
                    None => {
                        listening = false;
                        self.closing.is_none().then_some(End::Quiet)
                    }
                },
                read = self.read.read_buf(self.reader.buffer()) => match read {
                    Ok(0) | Err(_) => Some(End::Quiet),
                    Ok(_) => self.understand(),
                },
                wrote = self.write.write_buf(&mut self.outbox.buffer), if !self.outbox.is_empty() => match wrote {
                    Ok(bytes) => self.wrote(bytes),
                    Err(_) => Some(End::Quiet),
                },
                () = sleep_until(deadline) => self.tick(),
            };
            if let Some(end) = end {
                return end;
            }
            if self.finished && self.outbox.is_empty() {
                return End::Quiet;
            }
        }
    }

    /// Next moment at which the clock has something to say.
    fn deadline(&self) -> Instant {
        match (self.closing, &self.awaited) {
            (Some(give_up), _) => give_up,
            (None, Some(awaited)) => self.next_ping.min(awaited.until),
            (None, None) => self.next_ping,
        }
    }

    fn obey(&mut self, order: Order) -> Option<End> {
        match order {
            Order::Presence { number, frame } => {
                if self.silent || self.closing.is_some() {
                    self.shared.change(|world| world.ledger.lost_on_one(number));
                } else {
                    let encoded = Bytes::from(frame::encode(Opcode::Text, frame.as_bytes()));
                    self.outbox.push_change(number, &encoded);
                    self.last = Some(encoded);
                }
            }
            Order::Raw(bytes) => self.outbox.push(&bytes),
            Order::Repeat => {
                if let Some(last) = &self.last {
                    self.outbox.push(last);
                }
            }
            Order::Flood { first, chunk, times } => {
                self.outbox.push(&first);
                self.outbox.push(&chunk);
                self.flood = Some((chunk, times.saturating_sub(1)));
            }
            Order::Close { code, reason } => self.close(code, &reason),
            Order::Drop => return Some(End::Quiet),
            Order::Reset => return Some(End::Reset),
            Order::Silence(silent) => {
                self.silent = silent;
                self.awaited = None;
                self.next_ping = Instant::now() + self.identity.heartbeat;
            }
        }
        None
    }

    fn wrote(&mut self, bytes: usize) -> Option<End> {
        let done = self.outbox.wrote(bytes);
        if !done.is_empty() {
            self.shared.change(|world| {
                for mark in done {
                    world.ledger.written_to(
                        mark.number,
                        &self.identity.connection_id,
                        mark.sent,
                        mark.sent_at,
                    );
                }
            });
        }
        if self.outbox.is_empty()
            && let Some((chunk, left)) = self.flood.take()
            && left > 0
        {
            self.outbox.push(&chunk);
            self.flood = Some((chunk, left - 1));
        }
        None
    }

    fn tick(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.closing.is_some_and(|give_up| give_up <= now) {
            return Some(End::Quiet);
        }
        if self.closing.is_some() {
            return None;
        }
        if self.awaited.as_ref().is_some_and(|awaited| awaited.until <= now) {
            self.shared.change(|world| world.tally.pongs_missed += 1);
            self.close(Some(1001), "Going Away: pong missed");
        } else if self.next_ping <= now {
            self.next_ping = now + self.identity.heartbeat;
            if !self.silent {
                self.ping(now);
            }
        }
        None
    }

    /// Sends the heartbeat in each form that is switched on.
    fn ping(&mut self, now: Instant) {
        let options = &self.shared.options;
        self.pings += 1;
        if options.json_pings {
            self.outbox.push(&frame::encode(Opcode::Text, br#"{"type":"ping"}"#));
        }
        if options.rfc_pings {
            self.outbox.push(&frame::encode(Opcode::Ping, &self.pings.to_be_bytes()));
        }
        // An unanswered ping keeps its own deadline: a later ping must not prolong it.
        if (options.json_pings || options.rfc_pings) && self.awaited.is_none() {
            let window = options.pong_window.unwrap_or(self.identity.heartbeat);
            self.awaited =
                Some(AwaitedPong { until: now + window, json: options.json_pings, rfc: options.rfc_pings });
        }
    }

    fn close(&mut self, code: Option<u16>, reason: &str) {
        self.flood = None;
        self.outbox.push(&frame::encode_close(code, reason));
        self.closing = Some(Instant::now() + CLOSE_WAIT);
    }
}
