//! A relay between a program and its Postgres that can hurt single answers: late, lost or refused.
//!
//! It reads the frontend/backend protocol as far as needed. `frames` cuts both directions into messages and
//! gathers what the client sends into requests, each of which the server ends with one `ReadyForQuery`;
//! `plan` says which request is hurt and how, and counts; `carry` is one connection. Requests are passed on
//! one at a time on each connection, so the n-th request passed on and the n-th `ReadyForQuery` are the same
//! thing.
//!
//! Plain TCP towards the client (`sslmode=disable`), TCP or a Unix socket towards the server.

mod carry;
mod frames;
mod plan;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use plan::{Deed, Fault, Point, Request};

use plan::Shared;

/// Where the real server listens.
#[derive(Clone, Debug)]
pub enum Server {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Treatment of all traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on unchanged.
    Pass,
    /// Closes every connection, and new ones at once.
    Refuse,
    /// Keeps connections open and carries nothing, either way.
    Silent,
    /// Carries what new connections say; those from before stay silent.
    PassNew,
}

/// A running relay; ends with its last clone and its last connection.
#[derive(Clone, Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    port: u16,
}

impl Relay {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(server: Server) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::new(server));
        let weak = Arc::downgrade(&shared);
        let mut mode = shared.mode.subscribe();
        tokio::spawn(async move {
            loop {
                let client = tokio::select! {
                    accepted = listener.accept() => accepted,
                    // The sender is gone with the last clone and the last connection.
                    changed = mode.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                };
                let (Ok((client, _)), Some(shared)) = (client, weak.upgrade()) else { return };
                tokio::spawn(carry::carry(shared, client));
            }
        });
        Ok(Self { shared, port })
    }

    /// Port that it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Changes what is done, for connections that exist and for new ones.
    pub fn set(&self, mode: Mode) {
        self.shared.set(mode);
    }

    /// Leads new connections to another server; those that exist stay where they are.
    pub fn lead_to(&self, server: Server) {
        *self.shared.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Connections refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.tally().refused
    }

    /// Hurts one request; replaces a fault that has not happened yet.
    pub fn arm(&self, fault: Fault) {
        let mut tally = self.shared.tally();
        tally.fault = Some(fault);
        tally.hurt = None;
    }

    /// Takes back a fault that has not happened yet, and gives it.
    pub fn disarm(&self) -> Option<Fault> {
        self.shared.tally().fault.take()
    }

    /// The request that the last fault has hurt, once it has.
    #[must_use]
    pub fn hurt(&self) -> Option<Request> {
        self.shared.tally().hurt.clone()
    }

    /// From now on every request is remembered, for [`Relay::requests`].
    pub fn remember(&self) {
        self.shared.tally().remembered = Some(Vec::new());
    }

    /// The requests since [`Relay::remember`], in the order in which they were passed on.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.tally().remembered.clone().unwrap_or_default()
    }

    /// How many `ReadyForQuery` the server has sent, on all connections.
    #[must_use]
    pub fn ready_for_query(&self) -> u64 {
        self.shared.tally().ready.values().sum()
    }

    /// The same for each connection, by its number from 1.
    #[must_use]
    pub fn ready_for_query_by_connection(&self) -> Vec<(u64, u64)> {
        let mut counts: Vec<_> = self.shared.tally().ready.iter().map(|(of, count)| (*of, *count)).collect();
        counts.sort_unstable();
        counts
    }

    /// Lets the next commits happen, and loses their answers with the connection.
    pub fn swallow_commits(&self, count: u64) {
        self.shared.tally().swallow = count;
    }

    /// Commits that have lost their answer so far.
    #[must_use]
    pub fn swallowed(&self) -> u64 {
        self.shared.tally().swallowed
    }
}

impl Shared {
    /// Where a new connection leads.
    fn server(&self) -> Server {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, mode: Mode) {
        if mode == Mode::PassNew {
            self.tally().generation += 1;
        }
        self.mode.send_replace(mode);
    }

    fn new(server: Server) -> Self {
        Self { server: Mutex::new(server), mode: watch::Sender::new(Mode::Pass), tally: Mutex::default() }
    }
}
