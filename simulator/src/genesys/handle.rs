//! Handle that a test holds.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::faults::{Fault, Route, Tamper};
use super::ledger::{Change, Fate};
use super::options::GenesysOptions;
use super::snapshot::Snapshot;
use super::verbs::{Junk, Target, Verb, apply};
use super::world::{Shared, World};

/// A running simulator; cheap to clone, ends with its last clone or with [`Genesys::stop`].
#[derive(Debug, Clone)]
pub struct Genesys {
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

/// A condition did not come true in time; carries what was true instead.
#[derive(Debug)]
pub struct StillWaiting(pub Box<Snapshot>);

impl fmt::Display for StillWaiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the simulator did not get there in time: {:#?}", self.0)
    }
}

impl std::error::Error for StillWaiting {}

impl Genesys {
    /// Starts on the current tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(options: GenesysOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let origin = options.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
        // http becomes ws, https becomes wss.
        let ws_origin = origin.trim_end_matches('/').replacen("http", "ws", 1);
        let shared = Arc::new(Shared::new(options, ws_origin));
        let task = tokio::spawn(crate::listen::serve(
            listener,
            super::server::router(shared.clone()),
            shared.stop.subscribe(),
        ));
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

    /// Address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Base of the REST API, without a trailing slash.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Gives an agent a state and waits until its frame was written, was lost, or had nobody to go to.
    pub async fn set_presence(&self, agent: &str, state: &str) -> Change {
        self.settled(self.push_presence(agent, state)).await
    }

    /// Gives an agent a state without waiting; the change's number.
    pub fn push_presence(&self, agent: &str, state: &str) -> u64 {
        self.apply(Verb::Presence { agent: agent.to_owned(), state: state.to_owned(), raw: None })
    }

    /// Like [`Genesys::set_presence`] with the frame's text replaced: sent as it is, except that `$n` becomes
    /// the change's number and `$timestamp` its time.
    pub async fn set_presence_raw(&self, agent: &str, state: &str, raw: &str) -> Change {
        let raw = Some(raw.to_owned());
        self.settled(self.apply(Verb::Presence { agent: agent.to_owned(), state: state.to_owned(), raw }))
            .await
    }

    /// Waits until a change is no longer pending.
    async fn settled(&self, number: u64) -> Change {
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

    /// One change by its number; `None` when it never was or was forgotten.
    #[must_use]
    pub fn change(&self, number: u64) -> Option<Change> {
        self.shared.read(|world| world.ledger.get(number).cloned())
    }

    /// Every change after a number (0: all), oldest first.
    #[must_use]
    pub fn changes_after(&self, number: u64) -> Vec<Change> {
        self.shared.read(|world| world.ledger.after(number).cloned().collect())
    }

    /// Every change whose frame a live socket took, oldest first.
    #[must_use]
    pub fn written(&self) -> Vec<Change> {
        let mut changes = self.changes_after(0);
        changes.retain(|change| change.fate == Fate::Written);
        changes
    }

    /// How many changes a live socket took so far.
    #[must_use]
    pub fn written_count(&self) -> u64 {
        self.shared.read(|world| world.ledger.written())
    }

    /// Present state of an agent.
    #[must_use]
    pub fn state_of(&self, agent: &str) -> Option<String> {
        self.shared.read(|world| world.agents.get(agent).cloned())
    }

    /// All counters and connections at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.read(World::snapshot)
    }

    /// Waits until a condition on the snapshot is true; looks again at every change, never by polling.
    ///
    /// # Errors
    /// With the last snapshot, when `within` has passed.
    pub async fn wait_until(
        &self,
        mut condition: impl FnMut(&Snapshot) -> bool,
        within: Duration,
    ) -> Result<Snapshot, StillWaiting> {
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
            Err(_) => Err(StillWaiting(Box::new(self.snapshot()))),
        }
    }

    /// Obeys any verb; gives back how many things it touched, or the number of a change.
    pub fn apply(&self, verb: Verb) -> u64 {
        apply(&self.shared, verb)
    }

    /// Refuses or delays the next requests of a route.
    pub fn fault(&self, route: Route, fault: Fault) {
        self.apply(Verb::Fault { route, fault });
    }

    /// Spoils the next successes of a route.
    pub fn tamper(&self, tamper: Tamper, times: u32) {
        self.apply(Verb::Tamper { tamper, times });
    }

    /// Forgets all waiting faults and tampers.
    pub fn clear_faults(&self) {
        self.apply(Verb::ClearFaults);
    }

    /// Expires every token; how many there were.
    pub fn expire_tokens(&self) -> u64 {
        self.apply(Verb::ExpireTokens { token: None })
    }

    /// Expires one token; whether it was valid.
    pub fn expire_token(&self, token: &str) -> bool {
        self.apply(Verb::ExpireTokens { token: Some(token.to_owned()) }) > 0
    }

    /// Expires every token of a client; how many there were.
    pub fn revoke_client(&self, client: &str) -> u64 {
        self.apply(Verb::RevokeClient { client: client.to_owned() })
    }

    /// Lifetime of tokens issued from now on, in whole seconds.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.apply(Verb::TokenLifetime { seconds: lifetime.as_secs() });
    }

    /// Adds an OAuth client, or changes its secret.
    pub fn set_client(&self, client: &str, secret: &str) {
        self.apply(Verb::Client { client: client.to_owned(), secret: secret.to_owned() });
    }

    /// Gives or takes a client's `presence:read`.
    pub fn grant_presence_read(&self, client: &str, granted: bool) {
        self.apply(Verb::PresenceRead { client: client.to_owned(), granted });
    }

    /// Closes TCP without a close frame; how many sockets it hit.
    pub fn drop_sockets(&self, target: Target) -> u64 {
        self.apply(Verb::Drop { target })
    }

    /// Resets TCP; how many sockets it hit.
    pub fn reset_sockets(&self, target: Target) -> u64 {
        self.apply(Verb::Reset { target })
    }

    /// Closes with a code and a reason; how many sockets it hit.
    pub fn close_sockets(&self, target: Target, code: u16, reason: &str) -> u64 {
        self.apply(Verb::Close { target, code: Some(code), reason: reason.to_owned() })
    }

    /// Keeps TCP open and says nothing more; how many sockets it hit.
    pub fn silence(&self, target: Target) -> u64 {
        self.apply(Verb::Silence { target })
    }

    /// Ends the silence; how many sockets it hit.
    pub fn resume(&self, target: Target) -> u64 {
        self.apply(Verb::Resume { target })
    }

    /// Sends a text frame with any content; how many sockets it went to.
    pub fn send_text(&self, target: Target, text: &str) -> u64 {
        self.apply(Verb::Text { target, text: text.to_owned() })
    }

    /// Sends rubbish; how many sockets it went to.
    pub fn send_junk(&self, target: Target, junk: Junk) -> u64 {
        self.apply(Verb::Junk { target, junk })
    }

    /// Sends the last presence frame once more; how many sockets it went to.
    pub fn repeat_last(&self, target: Target) -> u64 {
        self.apply(Verb::Repeat { target })
    }

    /// Deletes upstream connections behind the client's back; how many there were.
    pub fn forget_connections(&self, target: Target) -> u64 {
        self.apply(Verb::Forget { target })
    }
}
