//! Address and credentials of the database. Called by `app.rs`.

use std::fmt;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::pool::quiet;
use super::preflight::{self, Limit, Unusable};
use super::{PIPELINE_CONNECTIONS, PUSH_CONNECTIONS, READINESS_CONNECTIONS, Result, Store};
use crate::config::DATABASE_CONNECTIONS_MIN;

/// Address and credentials of the database. Its `Debug` shows nothing: that of sqlx's options prints the
/// password.
#[derive(Clone)]
pub struct Server(PgConnectOptions);

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server(…)")
    }
}

impl From<PgConnectOptions> for Server {
    fn from(options: PgConnectOptions) -> Self {
        Self(quiet(options))
    }
}

impl FromStr for Server {
    type Err = sqlx::Error;

    /// Reads a `postgres://` URL. Do not show the error: it may repeat a part of the URL.
    fn from_str(url: &str) -> Result<Self, sqlx::Error> {
        Ok(PgConnectOptions::from_str(url)?.into())
    }
}

impl Server {
    /// Host and port; `None`: a socket of this machine.
    #[must_use]
    pub fn endpoint(&self) -> Option<(String, u16)> {
        let host = self.0.get_host();
        let over_tcp = self.0.get_socket().is_none() && !host.starts_with('/');
        over_tcp.then(|| (host.trim_matches(['[', ']']).to_owned(), self.0.get_port()))
    }

    /// Opens the pools of a subcommand ([`Store::connect`]).
    ///
    /// # Errors
    /// If no connection can be made within 5 s, in the server's words.
    pub async fn connect(&self, connections: u32) -> Result<Store> {
        drop(preflight::dial(&self.0).await?);
        Store::connect(self.0.clone(), connections).await
    }

    /// Opens the pools of a bridge, which has at most `connections` connections in all, one of them for the
    /// lock of an audit receiver if it `pushes`. Takes fewer if the server allows fewer.
    ///
    /// # Errors
    /// If the database cannot be reached, does not let us in, or gives too few connections.
    pub async fn open(&self, connections: u32, pushes: bool) -> Result<Store, Unusable> {
        let least = DATABASE_CONNECTIONS_MIN;
        let mut whole = connections;
        let limit = preflight::examine(&self.0).await?;
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
        let store = Store::connect(self.0.clone(), others(whole)).await?;
        if let Err(error) = store.open_least(others(least)).await {
            // The pool's error says only that it waited.
            let error = store.refusal().await.unwrap_or(error);
            tracing::warn!(least, %error, "database gives fewer connections than the bridge needs");
            store.close().await;
            return Err(error.into());
        }
        tracing::info!(connections = whole, least, "opened the database");
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn debug_of_a_server_shows_no_password_as_that_of_its_options_would() {
        let url = "postgres://bridge:CANARY@db.example:6432/b?sslmode=require";
        let server: Server = url.parse().unwrap();
        assert!(format!("{:?}", server.0).contains("CANARY"), "sqlx has mended it: this type may go");
        assert!(!format!("{server:?}").contains("CANARY"));
        assert_eq!(server.endpoint(), Some(("db.example".to_owned(), 6432)));
        let socket: Server = "postgres://u@localhost/b?host=/run/postgresql".parse().unwrap();
        assert_eq!(socket.endpoint(), None);
        let v6: Server = "postgres://u@[fd00::1]/b".parse().unwrap();
        assert_eq!(v6.endpoint(), Some(("fd00::1".to_owned(), 5432)));
    }

    #[tokio::test]
    async fn debug_of_a_store_shows_no_password() {
        let options: PgConnectOptions = "postgres://bridge:CANARY@127.0.0.1:1/b".parse().unwrap();
        let pool = super::super::pool_options(1, super::super::Purpose::General).connect_lazy_with(options);
        assert!(!format!("{pool:?}").contains("CANARY"));
    }
}
