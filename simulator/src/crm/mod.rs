//! A demo CRM: a webhook receiver that checks signatures by itself, remembers everything, and can misbehave.
//!
//! `server` reads POSTs off raw sockets with `request`, `record` keeps them, `answer` carries a [`Behaviour`]
//! out. Signature and body are checked when somebody looks (`late`). [`check`] decides afterwards whether
//! what arrived keeps the bridge's promises; an [`Observer`] sees each POST at once, where there are too many
//! to be kept.

mod answer;
mod behaviour;
pub mod check;
mod late;
mod mix;
mod post;
mod record;
mod request;
mod server;
pub mod signature;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

pub use behaviour::{Answer, Behaviour};
pub use late::Late;
pub use mix::{Mix, Standing};
pub use post::{Agent, Data, Event, Post, Presence, Source};
pub use record::Hangup;
pub use signature::{Distrust, NotASecret, Secret};

use record::Desk;

/// Settings of a [`Crm`].
#[derive(Debug, Clone)]
pub struct CrmOptions {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Secrets that count on every path without secrets of its own; may be set later.
    pub secrets: Vec<Secret>,
    /// How far `webhook-timestamp` may be from our clock.
    pub tolerance: Duration,
    /// POSTs that are remembered at least; of twice as many the older half is forgotten. 0: none.
    pub keep: usize,
    /// Sees each POST at once.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Sees each POST while its sender waits: be quick. Called from many tasks at once.
pub trait Observer: fmt::Debug + Send + Sync {
    /// It was read, and it is decided what happens to it; nothing was answered yet.
    fn arrived(&self, post: &Post);

    /// The kernel took all of a complete answer. Whether the sender has read it nobody knows.
    fn answered(&self, post: &Post);
}

impl Default for CrmOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            secrets: Vec::new(),
            tolerance: Duration::from_secs(300),
            keep: 1_000_000,
            observer: None,
        }
    }
}

/// A running receiver; cheap to clone, ends with its last clone or with [`Crm::stop`].
#[derive(Debug, Clone)]
pub struct Crm {
    desk: Arc<Desk>,
    address: SocketAddr,
    server: Arc<Server>,
}

/// The listening task; dropping it ends everything.
#[derive(Debug)]
struct Server {
    desk: Arc<Desk>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.desk.stop.send_replace(true);
    }
}

/// A condition did not come true in time; carries what had arrived instead.
#[derive(Debug)]
pub struct StillWaiting(pub Vec<Arc<Post>>);

impl fmt::Display for StillWaiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the CRM did not get there in time; {} POSTs arrived", self.0.len())
    }
}

impl std::error::Error for StillWaiting {}

impl Crm {
    /// Starts on the current tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(options: CrmOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let desk = Arc::new(Desk::new(options));
        let task = tokio::spawn(server::serve(listener, desk.clone()));
        let server = Arc::new(Server { desk: desk.clone(), task: Mutex::new(Some(task)) });
        Ok(Self { desk, address, server })
    }

    /// Closes the port and every connection.
    pub async fn stop(&self) {
        self.desk.stop.send_replace(true);
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

    /// URL of a path (which begins with a slash); any path is served.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Replaces the secrets of every path without its own.
    pub fn set_secrets(&self, secrets: Vec<Secret>) {
        self.desk.set_secrets(None, secrets);
    }

    /// Replaces the secrets of one path.
    pub fn set_secrets_of(&self, path: &str, secrets: Vec<Secret>) {
        self.desk.set_secrets(Some(path), secrets);
    }

    /// Plans the next POSTs of a path, one behaviour each; afterwards the path does what it always does.
    pub fn next(&self, path: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.desk.plan_next(path, behaviours);
    }

    /// Changes what a path always does (204 at the start): one [`Behaviour`], or a [`Mix`].
    pub fn always(&self, path: &str, standing: impl Into<Standing>) {
        self.desk.plan_always(Some(path), standing.into());
    }

    /// Changes what paths without a plan always do (204 at the start); all of them share one [`Mix`].
    pub fn always_everywhere(&self, standing: impl Into<Standing>) {
        self.desk.plan_always(None, standing.into());
    }

    /// Says who may POST, and how often a minute, when a sender asks by CloudEvents' OPTIONS handshake;
    /// `None`, as at the start: the request is refused.
    pub fn allow_origin(&self, allowed: Option<(&str, Option<u32>)>) {
        self.desk.allow(allowed.map(|(origin, rate)| (origin.to_owned(), rate)));
    }

    /// Origins that asked so.
    #[must_use]
    pub fn handshakes(&self) -> Vec<String> {
        self.desk.handshakes()
    }

    /// POSTs that arrived so far, on all paths; those forgotten are counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.desk.count()
    }

    /// POSTs remembered, in the order of arrival.
    #[must_use]
    pub fn posts(&self) -> Vec<Arc<Post>> {
        self.desk.posts()
    }

    /// Forgets the POSTs; [`Crm::count`] goes on.
    pub fn forget(&self) {
        self.desk.forget();
    }

    /// POSTs remembered of one path, in the order of arrival.
    #[must_use]
    pub fn received(&self, path: &str) -> Vec<Arc<Post>> {
        let mut posts = self.desk.posts();
        posts.retain(|post| post.path() == path);
        posts
    }

    /// Senders that left before a behaviour was through.
    #[must_use]
    pub fn hangups(&self) -> Vec<Hangup> {
        self.desk.hangups()
    }

    /// Requests that were no proper POST, in words.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.desk.complaints()
    }

    /// Stream of POSTs from now on, in the order of arrival per connection.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Post>> {
        self.desk.stream()
    }

    /// Waits until `count` POSTs arrived since the start, on all paths.
    ///
    /// # Errors
    /// With what arrived, when `within` has passed.
    pub async fn wait_for(&self, count: u64, within: Duration) -> Result<Vec<Arc<Post>>, StillWaiting> {
        self.wait(|| (self.desk.count() >= count).then(|| self.posts()), within).await
    }

    /// Waits until a condition on the POSTs is true; looks again at every arrival, never by polling.
    ///
    /// # Errors
    /// With what arrived, when `within` has passed.
    pub async fn wait_until(
        &self,
        mut condition: impl FnMut(&[Arc<Post>]) -> bool,
        within: Duration,
    ) -> Result<Vec<Arc<Post>>, StillWaiting> {
        let look = || {
            let posts = self.posts();
            condition(&posts).then_some(posts)
        };
        self.wait(look, within).await
    }

    /// Waits until a sender hung up `count` times.
    ///
    /// # Errors
    /// With what arrived, when `within` has passed.
    pub async fn wait_for_hangups(
        &self,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Hangup>, StillWaiting> {
        self.wait(|| Some(self.hangups()).filter(|hangups| hangups.len() >= count), within).await
    }

    async fn wait<T>(
        &self,
        mut look: impl FnMut() -> Option<T>,
        within: Duration,
    ) -> Result<T, StillWaiting> {
        let mut changes = self.desk.listen();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = look() {
                    return found;
                }
                // The sender lives in the desk, which we hold.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(within, waiting).await.map_err(|_| StillWaiting(self.posts()))
    }
}
