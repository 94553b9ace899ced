//! Handle that a test holds.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::deeds::{Deed, Fault, Place};
use super::options::CloudOptions;
use super::people::Person;
use super::state::{Change, CloudSnapshot, Fate, Shared, State};
use super::verbs::obey;

/// A running platform; cheap to clone, ends with its last clone or with [`Cloud::stop`].
#[derive(Debug, Clone)]
pub struct Cloud {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: Arc<Server>,
}

/// Listening task; dropping it ends everything.
#[derive(Debug)]
struct Server {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}

impl Cloud {
    /// Starts on the current tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(options: CloudOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let origin = options.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
        // http becomes ws, https becomes wss.
        let ws_origin = origin.trim_end_matches('/').replacen("http", "ws", 1);
        let shared = Arc::new(Shared::new(options, ws_origin));
        let router = Router::new().fallback(super::rest::answer).with_state(shared.clone());
        let task = tokio::spawn(crate::listen::serve(listener, router, shared.stop.subscribe()));
        let server = Arc::new(Server { shared: shared.clone(), task: Mutex::new(Some(task)) });
        Ok(Self { shared, address, server })
    }

    /// Closes the port and every socket, without a close frame: the machine is gone.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        let task = self.server.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // It ends by itself; a panic inside it was already printed.
            let _ = task.await;
        }
    }

    /// Base of the REST API, without a trailing slash.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Obeys any deed; gives back how many things it touched, or the number of a change.
    pub fn obey(&self, deed: Deed) -> u64 {
        obey(&self.shared, deed)
    }

    /// Gives a user a presence without waiting; the change's number.
    pub fn push_presence(&self, agent: &str, presence: &str) -> u64 {
        self.obey(Deed::Presence { agent: agent.to_owned(), presence: presence.to_owned() })
    }

    /// Gives a user a presence and waits until its event was written, was lost, or had nobody to go to.
    pub async fn set_presence(&self, agent: &str, presence: &str) -> Change {
        self.settled(self.push_presence(agent, presence)).await
    }

    /// Waits until a change is no longer pending.
    pub async fn settled(&self, number: u64) -> Change {
        let mut changes = self.shared.listen();
        loop {
            changes.mark_unchanged();
            if let Some(change) = self.change(number).filter(|change| change.fate != Fate::Pending) {
                return change;
            }
            // The sender lives in `shared`, which we hold.
            let _ = changes.changed().await;
        }
    }

    /// One change by its number.
    #[must_use]
    pub fn change(&self, number: u64) -> Option<Change> {
        self.shared.read(|state| {
            let first = state.ledger.front()?.number;
            let place = usize::try_from(number.checked_sub(first)?).ok()?;
            state.ledger.get(place).cloned()
        })
    }

    /// Every change that is remembered, oldest first.
    #[must_use]
    pub fn ledger(&self) -> Vec<Change> {
        self.shared.read(|state| state.ledger.iter().cloned().collect())
    }

    /// The last thousand sockets that were opened, with the users of their channel.
    #[must_use]
    pub fn opens(&self) -> Vec<(std::time::Instant, Vec<String>)> {
        self.shared.read(|state| state.opens.iter().cloned().collect())
    }

    /// The truth about a user.
    #[must_use]
    pub fn person(&self, agent: &str) -> Option<Person> {
        self.shared.read(|state| state.people.get(agent).cloned())
    }

    /// The truth about everybody.
    #[must_use]
    pub fn people(&self) -> Vec<Person> {
        self.shared.read(|state| state.people.values().cloned().collect())
    }

    /// All counters and channels at this moment.
    #[must_use]
    pub fn snapshot(&self) -> CloudSnapshot {
        self.shared.read(State::snapshot)
    }

    /// Refuses or delays the next requests of a place.
    pub fn fault(&self, place: Place, fault: Fault) {
        self.obey(Deed::Fault { place, fault });
    }

    /// Waits until a condition on the snapshot is true; looks again at every change, never by polling.
    ///
    /// # Errors
    /// With the last snapshot, when `within` has passed.
    pub async fn wait_until(
        &self,
        mut condition: impl FnMut(&CloudSnapshot) -> bool,
        within: Duration,
    ) -> Result<CloudSnapshot, Box<CloudSnapshot>> {
        let mut changes = self.shared.listen();
        let look = async {
            loop {
                changes.mark_unchanged();
                let snapshot = self.snapshot();
                if condition(&snapshot) {
                    return snapshot;
                }
                // The sender lives in `shared`, which we hold.
                let _ = changes.changed().await;
            }
        };
        match tokio::time::timeout(within, look).await {
            Ok(snapshot) => Ok(snapshot),
            Err(_) => Err(Box::new(self.snapshot())),
        }
    }
}
