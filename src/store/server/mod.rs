//! Addresses and credentials of the servers that the database may be on, and how the primary among them is found.
//! Called by `app.rs`.

use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use sqlx::Connection as _;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;

use super::pool::quiet;
use super::preflight::{self, CONNECT_WITHIN, Limit, Unusable};
use super::primary::{Incarnation, PING_WITHIN, Unfit, assess};
use super::{PIPELINE_CONNECTIONS, PUSH_CONNECTIONS, READINESS_CONNECTIONS, Result, Store, StoreError};
use crate::config::{DATABASE_CONNECTIONS_MIN, database_servers};
use crate::domain::secret::Secret;

mod follow;
mod standing;

pub use standing::{Commits, Standing};

/// Once one server has said that it is the primary: time that the others have to say the same. After a failover
/// that left the former primary alone, both do, and the later history counts.
const OTHERS_WITHIN: Duration = Duration::from_millis(100);

/// The servers that the database may be on, and the credentials. Its `Debug` shows nothing: that of sqlx's
/// options prints the password.
#[derive(Clone)]
pub struct Server(Arc<[Address]>);

/// One of them.
struct Address {
    options: PgConnectOptions,
    /// What they are read from again at each dial: sqlx reads the file of passwords when it reads a URL.
    url: Option<Secret>,
}

/// The primary.
#[derive(Clone)]
pub(super) struct Found {
    /// Its number in the list.
    pub server: usize,
    pub options: PgConnectOptions,
    pub incarnation: Incarnation,
}

/// What keeps a server from being the one.
type Refused = (usize, StoreError);

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server(…)")
    }
}

impl From<PgConnectOptions> for Server {
    fn from(options: PgConnectOptions) -> Self {
        Self(Arc::new([Address { options: quiet(options), url: None }]))
    }
}

impl FromStr for Server {
    type Err = sqlx::Error;

    /// Reads a `postgres://` URL, which may name several servers. Do not show the error: it may repeat a part
    /// of the URL.
    fn from_str(url: &str) -> Result<Self, sqlx::Error> {
        let urls = database_servers(url).map_err(|rule| sqlx::Error::Configuration(rule.into()))?;
        let address = |url: String| {
            let options = quiet(PgConnectOptions::from_str(&url)?);
            Ok(Address { options, url: Some(Secret::new(url)) })
        };
        Ok(Self(urls.into_iter().map(address).collect::<Result<_, sqlx::Error>>()?))
    }
}

impl Address {
    fn options(&self) -> PgConnectOptions {
        let read = self.url.as_ref().and_then(|url| PgConnectOptions::from_str(url.expose()).ok());
        read.map_or_else(|| self.options.clone(), quiet)
    }

    /// Host and port; `None`: a socket of this machine.
    fn endpoint(&self) -> Option<(String, u16)> {
        let host = self.options.get_host();
        let over_tcp = self.options.get_socket().is_none() && !host.starts_with('/');
        over_tcp.then(|| (host.trim_matches(['[', ']']).to_owned(), self.options.get_port()))
    }

    /// As it is shown: no credentials.
    fn name(&self) -> String {
        match (self.options.get_socket(), self.endpoint()) {
            (None, Some((host, port))) if host.contains(':') => format!("[{host}]:{port}"),
            (None, Some((host, port))) => format!("{host}:{port}"),
            (Some(socket), _) => socket.display().to_string(),
            (None, None) => self.options.get_host().to_owned(),
        }
    }
}

impl Server {
    /// Host and port of each; those behind a socket of this machine have none.
    #[must_use]
    pub fn endpoints(&self) -> Vec<(String, u16)> {
        self.0.iter().filter_map(Address::endpoint).collect()
    }

    /// Name of one as it is shown, such as `db.example:5432`.
    pub(super) fn name(&self, server: usize) -> String {
        self.0.get(server).map(Address::name).unwrap_or_default()
    }

    /// Options of one, with its password as the file of passwords has it now.
    pub(super) fn options(&self, server: usize) -> Option<PgConnectOptions> {
        self.0.get(server).map(Address::options)
    }

    fn numbers(&self) -> std::ops::Range<usize> {
        0..self.0.len()
    }

    /// Dials one and assesses it.
    async fn ask(
        &self,
        server: usize,
        within: Duration,
        known: Option<Incarnation>,
    ) -> Result<Found, Refused> {
        let options = self.options(server).ok_or((server, StoreError::NotFound("server")))?;
        let mut connection = preflight::dial(&options, within).await.map_err(|error| (server, error))?;
        let assessed = assess(&mut connection, known.as_ref()).await;
        let _ = timeout(PING_WITHIN, connection.close()).await;
        match assessed {
            Ok(incarnation) => Ok(Found { server, options, incarnation }),
            Err(Unfit::NotPrimary(why)) => {
                Err((server, StoreError::NoPrimary(format!("{} {why}", self.name(server)))))
            }
            Err(Unfit::Failed(error)) => Err((server, error.into())),
        }
    }

    /// Asks all of them at once which is the primary.
    ///
    /// # Errors
    /// What each of them answered, if it is none of them.
    async fn find(&self, within: Duration) -> Result<Found, Vec<Refused>> {
        let asked: FuturesUnordered<_> =
            self.numbers().map(|server| self.ask(server, within, None)).collect();
        let mut refused = Vec::new();
        let found = latest(asked.filter_map(|answer| {
            let found = answer.map_err(|why| refused.push(why)).ok();
            async { found }
        }))
        .await;
        found.ok_or(refused)
    }

    /// The same in one error: that of the only one, or a line of what each said.
    fn in_words(&self, mut refused: Vec<Refused>) -> StoreError {
        match refused.pop() {
            Some((_, error)) if refused.is_empty() => error,
            last => {
                refused.extend(last);
                refused.sort_by_key(|(server, _)| *server);
                let said: Vec<_> = refused.iter().map(|(server, why)| self.said(*server, why)).collect();
                StoreError::NoPrimary(said.join("; "))
            }
        }
    }

    /// What one of them answered, with its name.
    fn said(&self, server: usize, why: &StoreError) -> String {
        match why {
            StoreError::NoPrimary(said) => said.clone(),
            other => format!("{}: {other}", self.name(server)),
        }
    }

    /// The primary at the start, which the pools are opened on.
    async fn find_first(&self) -> Result<Found, Unusable> {
        self.find(CONNECT_WITHIN).await.map_err(|refused| {
            let all_final = |refused: &[Refused]| refused.iter().all(|(_, error)| preflight::is_final(error));
            match all_final(&refused) {
                true if refused.len() > 1 => Unusable::Refused(self.in_words(refused).to_string()),
                _ => preflight::final_or_not(self.in_words(refused)),
            }
        })
    }

    /// Opens the pools of a subcommand ([`Store::connect`]).
    ///
    /// # Errors
    /// If no connection to a primary can be made within 5 s, in the servers' words.
    pub async fn connect(&self, connections: u32) -> Result<Store> {
        let found = self.find(CONNECT_WITHIN).await.map_err(|refused| self.in_words(refused))?;
        Store::open_pools(self.clone(), found, connections).await
    }

    /// Opens the pools of a bridge, which has at most `connections` connections in all, one of them for the
    /// lock of an audit receiver if it `pushes`. Takes fewer if the server allows fewer.
    ///
    /// # Errors
    /// If the database cannot be reached, does not let us in, or gives too few connections.
    pub async fn open(&self, connections: u32, pushes: bool) -> Result<Store, Unusable> {
        let least = DATABASE_CONNECTIONS_MIN;
        let mut whole = connections;
        let found = self.find_first().await?;
        let limit = preflight::examine(&found.options).await?;
        if let Some(Limit { connections: allowed, of }) = limit.filter(|limit| limit.connections < whole) {
            if allowed < least {
                return Err(Unusable::Refused(format!(
                    "{of} may have {allowed} connections, and the bridge needs at least {least}"
                )));
            }
            tracing::warn!(
                allowed,
                wanted = whole,
                least,
                of,
                "database allows fewer connections; using those"
            );
            whole = allowed;
        }
        let push = if pushes { PUSH_CONNECTIONS } else { 0 };
        let others = |whole: u32| whole.saturating_sub(PIPELINE_CONNECTIONS + READINESS_CONNECTIONS + push);
        let store = Store::open_pools(self.clone(), found, others(whole)).await?;
        if let Err(error) = store.open_least(others(least)).await {
            // The pool's error says only that it waited.
            let error = store.refusal().await.unwrap_or(error);
            tracing::warn!(least, %error, "database gives fewer connections than the bridge needs");
            store.close().await;
            return Err(error.into());
        }
        let server = self.name(store.primary.server());
        let timeline = store.primary.timeline();
        tracing::info!(connections = whole, least, server, timeline, "opened the database");
        Ok(store)
    }
}

/// The primary of the latest history among those that are found: the first, and others that are found soon after.
async fn latest(found: impl Stream<Item = Found>) -> Option<Found> {
    let mut found = pin!(found);
    let mut latest = found.next().await?;
    while let Ok(Some(other)) = timeout(OTHERS_WITHIN, found.next()).await {
        if latest.incarnation.is_before(&other.incarnation) {
            latest = other;
        }
    }
    Some(latest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::primary::Primary;
    use super::*;

    #[test]
    fn debug_of_a_server_shows_no_password_as_that_of_its_options_would() {
        let url = "postgres://bridge:CANARY@db.example:6432/b?sslmode=require";
        let server: Server = url.parse().unwrap();
        let options = server.options(0).unwrap();
        assert!(
            format!("{options:?}").contains("CANARY"),
            "sqlx has mended it: this type may show its options"
        );
        assert!(!format!("{server:?}").contains("CANARY"));
        assert_eq!(server.endpoints(), [("db.example".to_owned(), 6432)]);
        let socket: Server = "postgres://u@localhost/b?host=/run/postgresql".parse().unwrap();
        assert_eq!((socket.endpoints(), socket.name(0)), (vec![], "/run/postgresql".to_owned()));
        let pair: Server = "postgres://u:CANARY@[fd00::1],db:6432/b".parse().unwrap();
        assert_eq!(pair.endpoints(), [("fd00::1".to_owned(), 5432), ("db".to_owned(), 6432)]);
        assert_eq!((pair.name(0), pair.name(1)), ("[fd00::1]:5432".to_owned(), "db:6432".to_owned()));
    }

    #[tokio::test]
    async fn debug_of_a_store_shows_no_password() {
        let options: PgConnectOptions = "postgres://bridge:CANARY@127.0.0.1:1/b".parse().unwrap();
        let pool = super::super::pool_options(1, super::super::Purpose::General, &Primary::new(0))
            .connect_lazy_with(options);
        assert!(!format!("{pool:?}").contains("CANARY"));
    }
}
