//! Mutable state behind the simulated platform, and a channel that tells of each change of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

use super::deeds::{ClientState, Fault, Place};
use super::options::CloudOptions;
use super::order::Order;
use super::people::{Definition, Person};

/// State shared by the handle, the REST handlers and the sockets.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: CloudOptions,
    /// Origin for `connectUri`, with scheme `ws` or `wss`.
    pub(super) ws_origin: String,
    /// Turns true once, when everything must end.
    pub(super) stop: watch::Sender<bool>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(options: CloudOptions, ws_origin: String) -> Self {
        let state = Mutex::new(State::new(&options));
        Self { options, ws_origin, stop: watch::Sender::new(false), state, changes: watch::Sender::new(0) }
    }

    /// Looks at the state.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state and wakes those who listen.
    pub(super) fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let result = act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        result
    }

    /// Listens for changes made from now on.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) secret: String,
    pub(super) state: ClientState,
    /// Users in divisions that it has no role in.
    pub(super) hidden: HashSet<String>,
    /// Begin of the present window of requests, and how many it holds.
    pub(super) window: (Instant, u32),
}

#[derive(Debug)]
pub(super) struct Token {
    pub(super) client: String,
    pub(super) expires: Instant,
}

/// A channel, with or without a socket.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) id: String,
    pub(super) client: String,
    pub(super) token: String,
    pub(super) expires: Instant,
    pub(super) used: u64,
    pub(super) sockets: u32,
    /// Users to the parts that are listened to; `activity` is one of them.
    pub(super) topics: BTreeMap<String, BTreeSet<String>>,
    /// How many topics these were given as.
    pub(super) topic_count: usize,
    pub(super) socket: Option<(u64, mpsc::UnboundedSender<Order>)>,
    /// Events that are to be swallowed.
    pub(super) lose: u32,
    /// Events that are to be sent twice.
    pub(super) duplicate: u32,
    /// An event that is sent after the next one; `Some(None)` until there is one.
    pub(super) delayed: Option<Option<Order>>,
}

/// How far a change got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Queued for a live socket and not yet written.
    Pending,
    /// Written to at least one live socket.
    Written,
    /// No channel with a socket listens to this user.
    Unwatched,
    /// A socket was there, but it ended, was silent, or the event was swallowed.
    Lost,
}

/// One change of one user.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// From 1, ascending in time; the frame carries it as `metadata.n`.
    pub number: u64,
    pub agent: String,
    /// System presence after it.
    pub presence: String,
    /// When it happened, by the wall clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub fate: Fate,
    /// When the frame was made.
    #[serde(skip)]
    pub sent: Instant,
    #[serde(skip)]
    pub(super) pending: usize,
}

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CloudTally {
    /// Requests that arrived, per place, refused ones included.
    pub requests: BTreeMap<Place, u64>,
    /// Answers given, per status.
    pub statuses: BTreeMap<u16, u64>,
    pub tokens_issued: u64,
    pub channels_made: u64,
    /// Channels that ended because another one was made.
    pub evictions: u64,
    pub sockets_opened: u64,
    pub sockets_ended: u64,
    pub pings: u64,
    /// Client messages that the protocol does not know.
    pub surprises: VecDeque<String>,
}

/// A channel as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChannelSeen {
    pub id: String,
    pub client: String,
    pub connected: bool,
    pub topics: usize,
    pub agents: usize,
    pub sockets: u32,
}

/// State of the simulated platform at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct CloudSnapshot {
    pub tally: CloudTally,
    /// Channels that live.
    pub channels: Vec<ChannelSeen>,
    /// Sockets whose channel is gone and who do not know it.
    pub ghosts: usize,
    /// Number of the newest change.
    pub changes: u64,
}

impl CloudSnapshot {
    /// Requests that arrived at a place.
    #[must_use]
    pub fn requests(&self, place: Place) -> u64 {
        self.tally.requests.get(&place).copied().unwrap_or(0)
    }

    /// Channels with an open socket.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.channels.iter().filter(|channel| channel.connected).count()
    }

    /// Users that are listened to on channels with an open socket, counted by channel.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.channels.iter().filter(|channel| channel.connected).map(|channel| channel.agents).sum()
    }
}

/// Everything that changes.
#[derive(Debug)]
pub(super) struct State {
    /// How far the platform's clock was moved.
    pub(super) moved: Duration,
    pub(super) clients: BTreeMap<String, Client>,
    pub(super) tokens: HashMap<String, Token>,
    pub(super) token_lifetime: Duration,
    pub(super) channel_life: Duration,
    pub(super) channels: Vec<Channel>,
    /// Sockets of channels that are gone, kept open.
    pub(super) ghosts: Vec<(u64, mpsc::UnboundedSender<Order>)>,
    pub(super) people: BTreeMap<String, Person>,
    pub(super) queues: BTreeMap<String, Vec<String>>,
    pub(super) groups: BTreeMap<String, Vec<String>>,
    pub(super) definitions: Vec<Definition>,
    pub(super) poisoned: HashSet<String>,
    pub(super) faults: BTreeMap<Place, VecDeque<Fault>>,
    pub(super) ledger: VecDeque<Change>,
    /// Sockets that were opened, with the users of their channel; the last thousand.
    pub(super) opens: VecDeque<(Instant, Vec<String>)>,
    pub(super) last: u64,
    pub(super) uses: u64,
    pub(super) tally: CloudTally,
    capacity: usize,
}

impl State {
    fn new(options: &CloudOptions) -> Self {
        let client = |(id, secret): &(String, String)| {
            let client = Client {
                secret: secret.clone(),
                state: ClientState::Active,
                hidden: HashSet::new(),
                window: (Instant::now(), 0),
            };
            (id.clone(), client)
        };
        let mut state = Self {
            moved: Duration::ZERO,
            clients: options.clients.iter().map(client).collect(),
            tokens: HashMap::new(),
            token_lifetime: options.token_lifetime,
            channel_life: options.channel_life,
            channels: Vec::new(),
            ghosts: Vec::new(),
            people: BTreeMap::new(),
            queues: BTreeMap::new(),
            groups: BTreeMap::new(),
            definitions: Definition::system(),
            poisoned: HashSet::new(),
            faults: BTreeMap::new(),
            ledger: VecDeque::new(),
            opens: VecDeque::new(),
            last: 0,
            uses: 0,
            tally: CloudTally::default(),
            capacity: options.ledger_capacity,
        };
        options.agents.iter().for_each(|agent| state.hire(agent));
        state
    }

    /// Time of the platform, which may be ahead.
    pub(super) fn now(&self) -> Instant {
        Instant::now() + self.moved
    }

    pub(super) fn hire(&mut self, agent: &str) {
        let offline = self.definition("OFFLINE");
        self.people
            .entry(agent.to_owned())
            .and_modify(|person| person.active = true)
            .or_insert_with(|| Person::new(agent, OffsetDateTime::now_utc(), &offline));
    }

    /// A definition by its id or by the system presence it stands for.
    pub(super) fn definition(&self, name: &str) -> Definition {
        let found =
            self.definitions.iter().find(|definition| definition.id == name || definition.system == name);
        found.cloned().unwrap_or_else(|| Definition {
            id: name.to_owned(),
            system: name.to_owned(),
            labels: Vec::new(),
            custom: true,
        })
    }

    pub(super) fn snapshot(&self) -> CloudSnapshot {
        let seen = |channel: &Channel| ChannelSeen {
            id: channel.id.clone(),
            client: channel.client.clone(),
            connected: channel.socket.is_some(),
            topics: channel.topic_count,
            agents: channel.topics.len(),
            sockets: channel.sockets,
        };
        CloudSnapshot {
            tally: self.tally.clone(),
            channels: self.channels.iter().map(seen).collect(),
            ghosts: self.ghosts.len(),
            changes: self.last,
        }
    }

    /// Ends what has outlived itself: tokens, channels, and channels of tokens that are gone.
    pub(super) fn expire(&mut self) {
        let now = self.now();
        self.tokens.retain(|_, token| token.expires > now);
        let tokens = &self.tokens;
        self.channels.retain(|channel| {
            let lives = channel.expires > now && tokens.contains_key(&channel.token);
            if !lives && let Some((_, socket)) = &channel.socket {
                let _ = socket.send(Order::Say(r#"{"result":"404","message":"channel expired"}"#.into()));
                let _ = socket.send(Order::Close(1000, "channel expired".to_owned()));
            }
            lives
        });
    }

    /// Changes a user, and sends the event to every channel that listens; gives the change's number.
    pub(super) fn tell(
        &mut self,
        agent: &str,
        part: &str,
        change: impl FnOnce(&mut Person, OffsetDateTime),
    ) -> u64 {
        self.hire(agent);
        let at = OffsetDateTime::now_utc();
        let number = self.last + 1;
        self.last = number;
        let Some(person) = self.people.get_mut(agent) else { return number };
        change(person, at);
        let person = person.clone();
        let pending = self.send(&person, part, number, false);
        self.ledger.push_back(Change {
            number,
            agent: agent.to_owned(),
            presence: person.presence,
            at,
            sent: Instant::now(),
            fate: match pending {
                None => Fate::Unwatched,
                Some(0) => Fate::Lost,
                Some(_) => Fate::Pending,
            },
            pending: pending.unwrap_or(0),
        });
        while self.ledger.len() > self.capacity {
            self.ledger.pop_front();
        }
        number
    }

    /// Sends a user's state to each channel that listens; gives to how many sockets, `None` if nobody
    /// listens.
    pub(super) fn send(&mut self, person: &Person, part: &str, number: u64, silent: bool) -> Option<usize> {
        let mut frames: HashMap<&'static str, Arc<str>> = HashMap::new();
        let mut pending = None;
        for channel in &mut self.channels {
            let (Some(parts), Some((_, socket))) = (channel.topics.get(&person.id), &channel.socket) else {
                continue;
            };
            let kind = match part {
                _ if parts.contains("activity") => "activity",
                "presence" if parts.contains("presence") => "presence",
                "routingStatus" if parts.contains("routingStatus") => "routingStatus",
                "outofoffice" if parts.contains("outofoffice") => "outofoffice",
                _ => continue,
            };
            let pending = pending.get_or_insert(0_usize);
            if channel.lose > 0 && !silent {
                channel.lose -= 1;
                continue;
            }
            let frame = frames.entry(kind).or_insert_with(|| frame(person, kind, number)).clone();
            let order = || Order::Event { number, frame: frame.clone() };
            if let Some(delayed @ None) = &mut channel.delayed {
                *delayed = Some(order());
                *pending += 1;
                continue;
            }
            let mut sent = socket.send(order()).is_ok();
            if channel.duplicate > 0 {
                channel.duplicate -= 1;
                sent &= socket.send(Order::Say(frame.to_string())).is_ok();
            }
            if let Some(Some(earlier)) = channel.delayed.take() {
                let _ = socket.send(earlier);
            }
            *pending += usize::from(sent);
        }
        pending
    }

    fn change(&mut self, number: u64) -> Option<&mut Change> {
        let first = self.ledger.front()?.number;
        let place = usize::try_from(number.checked_sub(first)?).ok()?;
        self.ledger.get_mut(place)
    }

    /// One socket took a frame, or never will.
    pub(super) fn settled(&mut self, number: u64, written: bool) {
        let Some(change) = self.change(number) else { return };
        change.pending = change.pending.saturating_sub(1);
        if written {
            change.fate = Fate::Written;
        } else if change.pending == 0 && change.fate == Fate::Pending {
            change.fate = Fate::Lost;
        }
    }
}

/// One event as it stands on the wire.
fn frame(person: &Person, kind: &str, number: u64) -> Arc<str> {
    let frame: Value = json!({
        "topicName": format!("v2.users.{}.{kind}", person.id),
        "version": "2",
        "eventBody": person.part(kind),
        "metadata": {
            "CorrelationId": uuid::Uuid::new_v4(),
            "n": number,
            "sent": crate::clock::rfc3339_ms(OffsetDateTime::now_utc()),
        },
    });
    frame.to_string().into()
}
