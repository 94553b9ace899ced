//! Keeps the connections on the primary, wherever it goes: looks whether the server still is it, and asks every
//! server at once when it may not be.

use std::collections::BTreeMap;
use std::future::ready;
use std::iter;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::time::{sleep, sleep_until, timeout};

use super::{Found, Server, latest};
use crate::store::primary::{Incarnation, PING_WITHIN, Primary};
use crate::store::{Store, StoreError};

/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Once it has not answered for that long, every server is asked as well.
const PROMPT: Duration = Duration::from_millis(250);
/// How often the others are asked while all is well: one of them may have been promoted behind its back.
const ASK_OTHERS_EVERY: Duration = Duration::from_secs(3);
/// Pause between two such questions, however often steps wait for an answer, and time that one takes at most.
const ASK_PAUSE: Duration = Duration::from_millis(500);
const ASK_WITHIN: Duration = Duration::from_secs(3);
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
        tokio::join!(self.stay_on_primary(), self.ask_around());
    }

    async fn stay_on_primary(&self) {
        while !self.pool.is_closed() {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = self.primary.suspected() => {}
            }
            let (began, mut look) = (Instant::now(), pin!(self.look()));
            match timeout(PROMPT, &mut look).await {
                Ok(Look::Leads) => self.refresh_options(),
                Ok(seen) => self.regain(seen, Instant::now(), ready(seen)).await,
                Err(_) => self.regain(Look::Silent, began + PING_WITHIN, look).await,
            }
        }
    }

    /// Looks for a primary of a later history while the present one seems well: among the other servers now and
    /// then, and wherever a new connection leads while a step waits for an answer.
    async fn ask_around(&self) {
        let others = self.server.numbers().len() > 1;
        while !self.pool.is_closed() {
            let all = tokio::select! {
                () = sleep(ASK_OTHERS_EVERY) => false,
                () = self.primary.slow() => true,
            };
            if let Some(known) = self.primary.incarnation().filter(|_| all || others) {
                let present = self.primary.server();
                let asked = self.server.numbers().filter(|server| all || *server != present);
                if let Ok(Some(found)) = timeout(ASK_WITHIN, self.server.find_later(asked, &known)).await {
                    self.go_on_at(found, false);
                }
            }
            sleep(ASK_PAUSE).await;
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
    /// connections: there is no trouble before `trouble_from`, unless it has said so, nor once `next_look` or one
    /// after it shows that it leads.
    async fn regain(&self, look: Look, trouble_from: Instant, next_look: impl Future<Output = Look>) {
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
        tokio::select! {
            found = self.server.wait_for_primary(&self.primary, trouble_from) => {
                self.go_on_at(found, look == Look::Demoted);
            }
            () = self.leads_again(next_look) => {}
        }
        self.primary.set_trouble(None);
        self.wake.deliveries_due();
        self.wake.connections_changed();
    }

    /// Leads the pools to the primary that was found. Those that are there keep their connections, unless it `was_left`.
    fn go_on_at(&self, found: Found, was_left: bool) {
        let known = self.primary.incarnation();
        let moved =
            was_left || found.server != self.primary.server() || known.as_ref() != Some(&found.incarnation);
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

    async fn leads_again(&self, next_look: impl Future<Output = Look>) {
        let mut look = next_look.await;
        while look != Look::Leads {
            if look == Look::Demoted {
                self.leave();
            }
            sleep(DIAL_EVERY).await;
            look = self.look().await;
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
    async fn wait_for_primary(&self, primary: &Primary, trouble_from: Instant) -> Found {
        let said = Mutex::new(BTreeMap::new());
        let no_primary = |server, why: &StoreError| {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.insert(server, self.said(server, why));
            // Until each of them has answered, it may only be slow.
            if said.len() == self.numbers().len() && Instant::now() >= trouble_from {
                let all: Vec<_> = said.values().map(String::as_str).collect();
                primary.set_trouble(Some(all.join("; ")));
            }
        };
        loop {
            let asked: FuturesUnordered<_> =
                self.numbers().map(|server| self.ask_until_primary(server, primary, &no_primary)).collect();
            if let Some(found) = latest(asked).await {
                return found;
            }
        }
    }

    /// One question does not wait for the answer to another: a dial to a server that hangs, or by a proxy that has
    /// none to lead it to, would hold up the one that succeeds.
    async fn ask_until_primary(
        &self,
        server: usize,
        primary: &Primary,
        no_primary: &impl Fn(usize, &StoreError),
    ) -> Found {
        let (mut asked, mut next) = (FuturesUnordered::new(), Instant::now());
        loop {
            tokio::select! {
                () = sleep_until(next.into()) => {
                    asked.push(self.ask(server, DIAL_WITHIN, primary.incarnation()));
                    next = Instant::now() + DIAL_EVERY;
                }
                Some(answer) = asked.next() => match answer {
                    Ok(found) => return found,
                    Err((server, why)) => no_primary(server, &why),
                },
            }
        }
    }

    /// The primary of a later history than the known one, if one of these is it.
    async fn find_later(&self, servers: impl Iterator<Item = usize>, known: &Incarnation) -> Option<Found> {
        let asked: FuturesUnordered<_> =
            servers.map(|server| self.ask(server, DIAL_WITHIN, Some(known.clone()))).collect();
        latest(
            asked.filter_map(|answer| ready(answer.ok().filter(|found| known.is_before(&found.incarnation)))),
        )
        .await
    }
}
