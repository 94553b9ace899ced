//! The CRM's desk: secrets, plans per path, and the record of what arrived.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::behaviour::Behaviour;
use super::post::Post;
use super::signature::Secret;

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

/// What a path does: a list once, then the same for ever.
#[derive(Debug, Default)]
struct Plan {
    next: VecDeque<Behaviour>,
    then: Option<Behaviour>,
}

#[derive(Debug, Default)]
struct State {
    count: u64,
    posts: Vec<Arc<Post>>,
    hangups: Vec<Hangup>,
    complaints: Vec<String>,
    plans: HashMap<String, Plan>,
    fallback: Behaviour,
    secrets: Vec<Secret>,
    secrets_by_path: HashMap<String, Vec<Secret>>,
}

/// State shared by the handle and the connections.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) stop: watch::Sender<bool>,
    pub(super) tolerance: Duration,
    keep: usize,
    state: Mutex<State>,
    bell: watch::Sender<u64>,
    stream: broadcast::Sender<Arc<Post>>,
}

impl Desk {
    pub(super) fn new(secrets: Vec<Secret>, tolerance: Duration, keep: usize) -> Self {
        let state = Mutex::new(State { secrets, ..State::default() });
        let stream = broadcast::Sender::new(STREAM_CAPACITY);
        Self { stop: watch::Sender::new(false), tolerance, keep, state, bell: watch::Sender::new(0), stream }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.bell.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Numbers a POST, decides what happens to it, and writes it down.
    ///
    /// All under one lock, so that the record, the stream and the numbers have the same order.
    pub(super) fn record(&self, mut post: Post) -> Arc<Post> {
        let mut state = self.state();
        state.count += 1;
        post.number = state.count;
        post.behaviour = state.plan(post.path());
        let post = Arc::new(post);
        state.posts.push(post.clone());
        // Twice the limit before the cut, so that cutting costs little per POST.
        if state.posts.len() >= self.keep.saturating_mul(2) {
            let surplus = state.posts.len() - self.keep;
            state.posts.drain(..surplus);
        }
        // Nobody may be listening.
        let _ = self.stream.send(post.clone());
        drop(state);
        self.ring();
        post
    }

    pub(super) fn hung_up(&self, hangup: Hangup) {
        self.state().hangups.push(hangup);
        self.ring();
    }

    pub(super) fn complain(&self, complaint: String) {
        self.state().complaints.push(complaint);
        self.ring();
    }

    /// Secrets that count on a path.
    pub(super) fn secrets(&self, path: &str) -> Vec<Secret> {
        let state = self.state();
        state.secrets_by_path.get(path).unwrap_or(&state.secrets).clone()
    }

    pub(super) fn set_secrets(&self, path: Option<&str>, secrets: Vec<Secret>) {
        let mut state = self.state();
        match path {
            Some(path) => drop(state.secrets_by_path.insert(path.to_owned(), secrets)),
            None => state.secrets = secrets,
        }
    }

    pub(super) fn plan_next(&self, path: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.state().plans.entry(path.to_owned()).or_default().next.extend(behaviours);
    }

    pub(super) fn plan_always(&self, path: Option<&str>, behaviour: Behaviour) {
        let mut state = self.state();
        match path {
            Some(path) => state.plans.entry(path.to_owned()).or_default().then = Some(behaviour),
            None => state.fallback = behaviour,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.state().count
    }

    pub(super) fn posts(&self) -> Vec<Arc<Post>> {
        self.state().posts.clone()
    }

    pub(super) fn hangups(&self) -> Vec<Hangup> {
        self.state().hangups.clone()
    }

    pub(super) fn complaints(&self) -> Vec<String> {
        self.state().complaints.clone()
    }

    /// Listens for changes made from now on.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    pub(super) fn stream(&self) -> broadcast::Receiver<Arc<Post>> {
        self.stream.subscribe()
    }
}

impl State {
    fn plan(&mut self, path: &str) -> Behaviour {
        let plan = self.plans.get_mut(path);
        let planned = plan.and_then(|plan| plan.next.pop_front().or_else(|| plan.then.clone()));
        planned.unwrap_or_else(|| self.fallback.clone())
    }
}
