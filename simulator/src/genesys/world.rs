//! Mutable state behind the simulator, and a channel that tells of each change of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

use super::faults::Faults;
use super::ledger::{Change, Fate, Ledger};
use super::options::{GenesysOptions, TOPICS};
use super::snapshot::{ConnectionSeen, Snapshot, Tally};

/// State shared by the handle, the REST handlers and the sockets.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: GenesysOptions,
    /// Origin for `wsUrl`, with scheme `ws` or `wss`.
    pub(super) ws_origin: String,
    /// Turns true once, when everything must end.
    pub(super) stop: watch::Sender<bool>,
    world: Mutex<World>,
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(options: GenesysOptions, ws_origin: String) -> Self {
        let world = Mutex::new(World::new(&options));
        Self { options, ws_origin, stop: watch::Sender::new(false), world, changes: watch::Sender::new(0) }
    }

    /// Looks at the state.
    pub(super) fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state and wakes those who listen.
    pub(super) fn change<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let result = act(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        result
    }

    /// Listens for changes made from now on.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) secret: String,
    pub(super) presence_read: bool,
}

/// An access token; a revoked one is removed.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) client: String,
    pub(super) expires: Instant,
}

/// Orders to a socket's task.
#[derive(Debug)]
pub(super) enum Order {
    /// Send a presence frame, and write in the ledger what became of it.
    Presence { number: u64, frame: Arc<str> },
    /// Send these bytes as they are, frame or not.
    Raw(Bytes),
    /// Send the last presence frame once more.
    Repeat,
    /// Send `first`, then `chunk` `times` times, as fast as the client takes them.
    Flood { first: Bytes, chunk: Bytes, times: u64 },
    /// Start the closing handshake.
    Close { code: Option<u16>, reason: String },
    /// End TCP without a close frame.
    Drop,
    /// End TCP with a reset.
    Reset,
    /// Say nothing and answer nothing, or be normal again.
    Silence(bool),
}

/// An upstream connection, with or without a socket.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: String,
    pub(super) client: String,
    pub(super) user: String,
    pub(super) topics: Vec<String>,
    pub(super) heartbeat: Duration,
    pub(super) heartbeat_ms: u64,
    /// Last part of the `wsUrl`; whoever knows it may open the socket.
    pub(super) key: String,
    pub(super) created_at: OffsetDateTime,
    pub(super) sockets: u32,
    /// To the socket's task while it is open. Unbounded, because the senders are tests and the demo: they
    /// wait for their own changes, and an order must never be lost for want of room.
    pub(super) socket: Option<mpsc::UnboundedSender<Order>>,
}

impl Connection {
    /// Whether plain presence updates belong on this connection.
    fn hears_states(&self) -> bool {
        TOPICS.first().is_some_and(|state| self.topics.iter().any(|topic| topic == state))
    }

    pub(super) fn seen(&self) -> ConnectionSeen {
        ConnectionSeen {
            connection_id: self.id.clone(),
            client_id: self.client.clone(),
            user_id: self.user.clone(),
            topics: self.topics.clone(),
            heartbeat_interval: self.heartbeat_ms,
            connected: self.socket.is_some(),
            sockets: self.sockets,
            date_created: crate::clock::rfc3339_ms(self.created_at),
        }
    }
}

/// Everything that changes.
#[derive(Debug)]
pub(super) struct World {
    pub(super) clients: BTreeMap<String, Client>,
    pub(super) tokens: HashMap<String, Token>,
    pub(super) token_lifetime: Duration,
    /// In the order of creation.
    pub(super) connections: Vec<Connection>,
    pub(super) agents: BTreeMap<String, String>,
    pub(super) ledger: Ledger,
    pub(super) faults: Faults,
    pub(super) tally: Tally,
}

impl World {
    fn new(options: &GenesysOptions) -> Self {
        let clients = options
            .clients
            .iter()
            .map(|(id, secret)| (id.clone(), Client { secret: secret.clone(), presence_read: true }))
            .collect();
        Self {
            clients,
            tokens: HashMap::new(),
            token_lifetime: options.token_lifetime,
            connections: Vec::new(),
            agents: BTreeMap::new(),
            ledger: Ledger::new(options.ledger_capacity),
            faults: Faults::default(),
            tally: Tally::default(),
        }
    }

    pub(super) fn connection(&mut self, id: &str) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            tally: self.tally.clone(),
            connections: self.connections.iter().map(Connection::seen).collect(),
            agents: self.agents.clone(),
            changes: self.ledger.last(),
            written: self.ledger.written(),
        }
    }

    /// Gives an agent a state, and the frame to every socket that watches the agent.
    ///
    /// Number, state and the place in each socket's queue are taken under one lock, so that on every socket
    /// the numbers ascend. `raw` replaces the frame's text; `$n` and `$timestamp` in it are filled in.
    pub(super) fn set_presence(&mut self, agent: &str, state: &str, raw: Option<&str>) -> u64 {
        let number = self.ledger.last() + 1;
        let changed_at = OffsetDateTime::now_utc();
        let timestamp = crate::clock::rfc3339_ms(changed_at);
        let frame: Arc<str> = match raw {
            Some(raw) => raw.replace("$n", &number.to_string()).replace("$timestamp", &timestamp).into(),
            None => serde_json::json!({
                "type": "update",
                "topic": TOPICS.first(),
                "userId": agent,
                "state": state,
                "timestamp": timestamp,
                "correlationId": uuid::Uuid::new_v4(),
                "n": number,
            })
            .to_string()
            .into(),
        };
        let old = self.agents.insert(agent.to_owned(), state.to_owned());
        let sockets = self
            .connections
            .iter()
            .filter(|connection| connection.user == agent && (raw.is_some() || connection.hears_states()))
            .filter_map(|connection| connection.socket.as_ref());
        let pending = sockets
            .filter(|socket| socket.send(Order::Presence { number, frame: frame.clone() }).is_ok())
            .count();
        self.ledger.append(Change {
            number,
            agent: agent.to_owned(),
            old,
            new: state.to_owned(),
            changed_at,
            sent: Instant::now(),
            sent_at: changed_at,
            fate: if pending == 0 { Fate::Unwatched } else { Fate::Pending },
            frame,
            connections: Vec::new(),
            pending,
        });
        number
    }
}
