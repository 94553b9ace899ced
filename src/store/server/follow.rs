//! Keeps the connections on the primary, wherever it goes: looks whether the server still is it, and asks every
//! server at once when it may not be.

use std::collections::BTreeMap;
use std::iter;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::time::{sleep, timeout};

use super::{Found, Server, latest};
use crate::store::Store;
use crate::store::primary::Primary;

/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// While the primary is being looked for: time that each server has, and how soon it is asked again.
const DIAL_WITHIN: Duration = Duration::from_secs(1);
const DIAL_EVERY: Duration = Duration::from_millis(250);

/// What a look at the server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Leads,
    /// It says that it is not the primary any more, or another one is.
    Demoted,
    /// Nothing; it may only be slow.
    Silent,
}

impl Store {
    /// Keeps every connection on the primary, for as long as the pools are open.
    pub async fn follow_primary(&self) {
        while !self.pool.is_closed() {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = self.primary.suspected() => {}
            }
            match self.look().await {
                Look::Leads => self.refresh_options(),
                look => self.regain(look).await,
            }
        }
    }

    /// Looks by the connection of readiness: the bridge may have no more connections than it has.
    async fn look(&self) -> Look {
        let answers = match self.readiness.try_acquire() {
            Some(mut connection) => {
                let answers = self.primary.check(&mut connection, Duration::ZERO).await.is_ok();
                if !answers {
                    drop(connection.detach());
                }
                answers
            }
            // In use, or not there: the pool asks a new one before it gives it away.
            None => matches!(timeout(DIAL_WITHIN, self.readiness.acquire()).await, Ok(Ok(_))),
        };
        match answers {
            _ if self.primary.take_demoted() => Look::Demoted,
            true => Look::Leads,
            false => Look::Silent,
        }
    }

    /// Has the next dial read the file of passwords, which a pool itself does not.
    fn refresh_options(&self) {
        if let Some(options) = self.server.options(self.primary.server()) {
            self.set_options(&options);
        }
    }

    fn set_options(&self, options: &PgConnectOptions) {
        let options = self.named(options.clone());
        for pool in self.pools() {
            pool.set_connect_options(options.clone());
        }
    }

    fn pools(&self) -> [&PgPool; 3] {
        [&self.pipeline_pool, &self.readiness, &self.pool]
    }

    /// Waits until there is a primary, and leads the pools there. A server that was only slow keeps its
    /// connections.
    async fn regain(&self, look: Look) {
        let former = self.primary.server();
        if look == Look::Demoted {
            let server = self.server.name(former);
            tracing::warn!(
                server,
                "the database's server is not the primary any more; looking for the primary"
            );
            self.primary.set_trouble(Some(format!("{server} is not the primary any more")));
            self.leave();
        }
        let known = self.primary.incarnation();
        tokio::select! {
            found = self.server.wait_for_primary(&self.primary) => {
                let moved = look == Look::Demoted || found.server != former || known.as_ref() != Some(&found.incarnation);
                // First, or the first connection there would find that it has changed.
                self.primary.found(found.incarnation.clone());
                self.primary.leads_to(found.server);
                self.set_options(&found.options);
                if moved {
                    self.leave();
                    let (server, timeline) = (self.server.name(found.server), found.incarnation.timeline);
                    tracing::info!(server, timeline, "found the primary of the database");
                }
            }
            () = self.leads_again() => {}
        }
        self.primary.set_trouble(None);
        self.wake.deliveries_due();
        self.wake.connections_changed();
    }

    async fn leads_again(&self) {
        loop {
            sleep(DIAL_EVERY).await;
            match self.look().await {
                Look::Leads => return,
                Look::Demoted => self.leave(),
                Look::Silent => {}
            }
        }
    }

    /// Ends the connections to a server that is left: those in use when they come back.
    fn leave(&self) {
        self.primary.is_elsewhere();
        for pool in self.pools() {
            let idle: Vec<_> = iter::from_fn(|| pool.try_acquire()).collect();
            idle.into_iter().for_each(|connection| drop(connection.detach()));
        }
    }
}

impl Server {
    /// Asks every server again and again, by a name that is resolved each time, until one is the primary.
    async fn wait_for_primary(&self, primary: &Primary) -> Found {
        let said = Mutex::new(BTreeMap::new());
        loop {
            let asked: FuturesUnordered<_> =
                self.numbers().map(|server| self.ask_until_primary(server, primary, &said)).collect();
            if let Some(found) = latest(asked).await {
                return found;
            }
        }
    }

    async fn ask_until_primary(
        &self,
        server: usize,
        primary: &Primary,
        said: &Mutex<BTreeMap<usize, String>>,
    ) -> Found {
        loop {
            match self.ask(server, DIAL_WITHIN, primary.incarnation()).await {
                Ok(found) => return found,
                Err((server, why)) => {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.insert(server, self.said(server, &why));
                    // Until each of them has answered, it may only be slow.
                    if said.len() == self.numbers().len() {
                        let all: Vec<_> = said.values().map(String::as_str).collect();
                        primary.set_trouble(Some(all.join("; ")));
                    }
                }
            }
            sleep(DIAL_EVERY).await;
        }
    }
}
