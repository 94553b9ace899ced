//! State of the CRM: secrets, plans per path, and the record of what arrived.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::behaviour::Behaviour;
use super::mix::Standing;
use super::post::Post;
use super::signature::Secret;
use super::{CrmOptions, Observer};

/// POSTs a slow subscriber may fall behind before it misses some.
const STREAM_CAPACITY: usize = 16_384;

/// A sender that left before the CRM was through with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hangup {
    /// Number of the POST.
    pub post: u64,
    /// Time from the POST's last byte to the end of TCP.
    pub after: Duration,
    /// Bytes the kernel took for the answer until then.
    pub sent: usize,
}

/// Treatments of a path: a list once, then one for ever.
#[derive(Debug, Default)]
struct Plan {
    next: VecDeque<Behaviour>,
    then: Option<Standing>,
}

#[derive(Debug, Default)]
struct State {
    count: u64,
    posts: Vec<Arc<Post>>,
    hangups: Vec<Hangup>,
    complaints: Vec<String>,
    plans: HashMap<String, Plan>,
    fallback: Standing,
    secrets: Arc<[Secret]>,
    secrets_by_path: HashMap<String, Arc<[Secret]>>,
    /// Origin that may POST, and how often a minute; `None`: every handshake is refused.
    allowed: Option<(String, Option<u32>)>,
    /// Senders that asked by OPTIONS.
    handshakes: Vec<String>,
}

/// State shared by the handle and the connections.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) stop: watch::Sender<bool>,
    pub(super) tolerance: Duration,
    pub(super) observer: Option<Arc<dyn Observer>>,
    keep: usize,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    stream: broadcast::Sender<Arc<Post>>,
}

impl Desk {
    pub(super) fn new(options: CrmOptions) -> Self {
        let CrmOptions { secrets, tolerance, keep, observer, .. } = options;
        let state = Mutex::new(State { secrets: secrets.into(), ..State::default() });
        let stream = broadcast::Sender::new(STREAM_CAPACITY);
        let (stop, changes) = (watch::Sender::new(false), watch::Sender::new(0));
        Self { stop, tolerance, observer, keep, state, changes, stream }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Numbers a POST, decides what happens to it, and writes it down.
    ///
    /// `nth` is its number on its connection. All under one lock, so that the record, the stream and the numbers have the same order.
    pub(super) fn record(&self, mut post: Post, nth: u64) -> Arc<Post> {
        let mut state = self.state();
        state.count += 1;
        post.number = state.count;
        post.behaviour = state.plan(post.path(), post.body.len(), nth);
        let post = Arc::new(post);
        if self.keep > 0 {
            state.posts.push(post.clone());
        }
        // Twice the limit before the cut, so that cutting costs little per POST.
        if state.posts.len() >= self.keep.saturating_mul(2).max(1) {
            let surplus = state.posts.len() - self.keep;
            state.posts.drain(..surplus);
        }
        if self.stream.receiver_count() > 0 {
            // The last listener may be gone by now.
            let _ = self.stream.send(post.clone());
        }
        drop(state);
        self.notify();
        post
    }

    pub(super) fn hung_up(&self, hangup: Hangup) {
        self.state().hangups.push(hangup);
        self.notify();
    }

    pub(super) fn complain(&self, complaint: String) {
        self.state().complaints.push(complaint);
        self.notify();
    }

    /// Secrets that count on a path.
    pub(super) fn secrets(&self, path: &str) -> Arc<[Secret]> {
        let state = self.state();
        state.secrets_by_path.get(path).unwrap_or(&state.secrets).clone()
    }

    pub(super) fn set_secrets(&self, path: Option<&str>, secrets: Vec<Secret>) {
        let mut state = self.state();
        match path {
            Some(path) => drop(state.secrets_by_path.insert(path.to_owned(), secrets.into())),
            None => state.secrets = secrets.into(),
        }
    }

    pub(super) fn plan_next(&self, path: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.state().plans.entry(path.to_owned()).or_default().next.extend(behaviours);
    }

    pub(super) fn plan_always(&self, path: Option<&str>, standing: Standing) {
        let mut state = self.state();
        match path {
            Some(path) => state.plans.entry(path.to_owned()).or_default().then = Some(standing),
            None => state.fallback = standing,
        }
    }

    pub(super) fn allow(&self, allowed: Option<(String, Option<u32>)>) {
        self.state().allowed = allowed;
    }

    /// Writes down who asks and says who may.
    pub(super) fn shake(&self, origin: &str) -> Option<(String, Option<u32>)> {
        let mut state = self.state();
        state.handshakes.push(origin.to_owned());
        let allowed = state.allowed.clone();
        drop(state);
        self.notify();
        allowed
    }

    pub(super) fn handshakes(&self) -> Vec<String> {
        self.state().handshakes.clone()
    }

    pub(super) fn count(&self) -> u64 {
        self.state().count
    }

    pub(super) fn posts(&self) -> Vec<Arc<Post>> {
        self.state().posts.clone()
    }

    pub(super) fn forget(&self) {
        self.state().posts.clear();
    }

    pub(super) fn hangups(&self) -> Vec<Hangup> {
        self.state().hangups.clone()
    }

    pub(super) fn complaints(&self) -> Vec<String> {
        self.state().complaints.clone()
    }

    /// Listens for changes made from now on.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn stream(&self) -> broadcast::Receiver<Arc<Post>> {
        self.stream.subscribe()
    }
}

impl State {
    fn plan(&mut self, path: &str, bytes: usize, nth: u64) -> Behaviour {
        let plan = self.plans.get_mut(path);
        let planned = plan.and_then(|plan| {
            plan.next.pop_front().or_else(|| plan.then.as_mut().map(|standing| standing.treat(bytes, nth)))
        });
        planned.unwrap_or_else(|| self.fallback.treat(bytes, nth))
    }
}
