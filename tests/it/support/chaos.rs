//! The simulator's relay in front of a test's database.

use std::ops::Deref;

pub use genesys_simulator::relay::Mode;
use genesys_simulator::relay::{Relay, Server};

use super::database;

/// A relay and the database behind it; derefs to the relay.
#[derive(Clone)]
pub struct Chaos {
    relay: Relay,
    name: String,
}

impl Chaos {
    /// A relay to the database of a URL with a socket directory, as the test server gives them.
    pub async fn before(database_url: &str) -> Self {
        let socket = database::socket_dir(database_url).join(".s.PGSQL.5432");
        let relay = Relay::start(Server::Unix(socket)).await.unwrap();
        Self { relay, name: database::name_of(database_url) }
    }

    /// What the bridge is to connect to.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", self.port(), self.name)
    }
}

impl Deref for Chaos {
    type Target = Relay;

    fn deref(&self) -> &Relay {
        &self.relay
    }
}
