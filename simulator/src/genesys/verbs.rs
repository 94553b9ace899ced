//! Faults and changes on demand: one list, obeyed the same way from Rust and over REST.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::faults::{Fault, Route, Tamper};
use super::frame::{self, Opcode};
use super::world::{Order, Shared, World};

/// Sockets that a verb means.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    #[default]
    All,
    /// Sockets that watch this agent.
    Agent(String),
    /// Socket of this upstream connection.
    Connection(String),
}

/// Something no well-behaved server sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Junk {
    /// Text that is not JSON.
    NotJson,
    Binary,
    /// Text message that is not UTF-8.
    InvalidUtf8,
    /// `{}`
    EmptyObject,
    /// `[]`
    Array,
    /// Update whose state holds an escaped NUL.
    NulEscape,
    /// Update that holds a number no double can hold.
    HugeNumber,
    /// Update nested two hundred deep.
    Nested,
    /// Update without `userId`.
    NoUser,
    /// Update about an agent nobody asked for.
    ForeignUser,
    /// Text of exactly this many bytes, valid JSON of an unknown type.
    Long(usize),
    /// Header of a frame that declares 1 TiB, and nothing more.
    OversizedHeader,
    /// Frame that is masked, which a server's may not be.
    Masked,
    /// Frame with a reserved bit.
    ReservedBit,
    /// Frame of an unknown opcode.
    UnknownOpcode,
    /// Fragments of 1 KiB that never end: this many of them.
    Fragments(u64),
    /// RFC 6455 pings: this many at once.
    Pings(u64),
    /// Close frame with a code that may not stand on the wire (1005), then nothing.
    IllegalClose,
}

/// One deed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// Give an agent a state; `raw` replaces the frame's text (`$n` and `$timestamp` are filled in).
    Presence {
        agent: String,
        state: String,
        #[serde(default)]
        raw: Option<String>,
    },
    /// Expire one token, or all.
    ExpireTokens {
        #[serde(default)]
        token: Option<String>,
    },
    /// Expire every token of one client.
    RevokeClient { client: String },
    /// Lifetime of tokens issued from now on.
    TokenLifetime { seconds: u64 },
    /// Add an OAuth client, or change its secret.
    Client { client: String, secret: String },
    /// Give or take `presence:read`.
    PresenceRead { client: String, granted: bool },
    /// Refuse or delay the next requests of a route.
    Fault {
        route: Route,
        #[serde(flatten)]
        fault: Fault,
    },
    /// Spoil the next successes of a route.
    Tamper {
        tamper: Tamper,
        #[serde(default = "once")]
        times: u32,
    },
    /// Forget all waiting faults and tampers.
    ClearFaults,
    /// Close TCP without a close frame.
    Drop {
        #[serde(default)]
        target: Target,
    },
    Reset {
        #[serde(default)]
        target: Target,
    },
    /// Closing handshake with a code and a reason; without a code the close frame is empty.
    Close {
        #[serde(default)]
        target: Target,
        #[serde(default)]
        code: Option<u16>,
        #[serde(default)]
        reason: String,
    },
    /// Keep TCP open, say nothing, answer nothing.
    Silence {
        #[serde(default)]
        target: Target,
    },
    /// End the silence.
    Resume {
        #[serde(default)]
        target: Target,
    },
    /// Send a text frame with any content.
    Text {
        #[serde(default)]
        target: Target,
        text: String,
    },
    /// Send rubbish.
    Junk {
        #[serde(default)]
        target: Target,
        junk: Junk,
    },
    /// Send the last presence frame once more, byte by byte the same.
    Repeat {
        #[serde(default)]
        target: Target,
    },
    /// Delete upstream connections behind the client's back; their sockets are closed with 1000.
    Forget {
        #[serde(default)]
        target: Target,
    },
}

const fn once() -> u32 {
    1
}

/// Obeys; gives back how many things (sockets, tokens, clients) were touched, or a change's number.
pub(super) fn apply(shared: &Shared, verb: Verb) -> u64 {
    shared.change(|world| match verb {
        Verb::Presence { agent, state, raw } => world.set_presence(&agent, &state, raw.as_deref()),
        Verb::ExpireTokens { token } => {
            remove_tokens(world, |id, _| token.as_ref().is_none_or(|token| token == id))
        }
        Verb::RevokeClient { client } => remove_tokens(world, |_, owner| owner == client),
        Verb::TokenLifetime { seconds } => {
            world.token_lifetime = Duration::from_secs(seconds);
            1
        }
        Verb::Client { client, secret } => {
            let known = world.clients.entry(client);
            known
                .and_modify(|client| client.secret.clone_from(&secret))
                .or_insert(super::world::Client { secret, presence_read: true });
            1
        }
        Verb::PresenceRead { client, granted } => world.clients.get_mut(&client).map_or(0, |client| {
            client.presence_read = granted;
            1
        }),
        Verb::Fault { route, fault } => {
            world.faults.add(route, fault);
            1
        }
        Verb::Tamper { tamper, times } => {
            world.faults.add_tamper(tamper, times);
            1
        }
        Verb::ClearFaults => {
            world.faults.clear();
            1
        }
        Verb::Drop { target } => order(world, &target, || Order::Drop),
        Verb::Reset { target } => order(world, &target, || Order::Reset),
        Verb::Close { target, code, reason } => {
            order(world, &target, || Order::Close { code, reason: reason.clone() })
        }
        Verb::Silence { target } => order(world, &target, || Order::Silence(true)),
        Verb::Resume { target } => order(world, &target, || Order::Silence(false)),
        Verb::Text { target, text } => {
            let frame = Bytes::from(frame::encode(Opcode::Text, text.as_bytes()));
            order(world, &target, || Order::Raw(frame.clone()))
        }
        Verb::Junk { target, junk } => order(world, &target, || junk.order()),
        Verb::Repeat { target } => order(world, &target, || Order::Repeat),
        Verb::Forget { target } => {
            let close = || Order::Close { code: Some(1000), reason: "connection deleted".to_owned() };
            order(world, &target, close);
            let before = world.connections.len();
            world.connections.retain(|connection| !target.means(&connection.id, &connection.user));
            count(before - world.connections.len())
        }
    })
}

impl Target {
    fn means(&self, connection: &str, user: &str) -> bool {
        match self {
            Self::All => true,
            Self::Agent(agent) => agent == user,
            Self::Connection(id) => id == connection,
        }
    }
}

/// Gives an order to each open socket that is meant; gives back how many there are.
fn order(world: &World, target: &Target, order: impl Fn() -> Order) -> u64 {
    let meant = world.connections.iter().filter(|one| target.means(&one.id, &one.user));
    count(meant.filter_map(|one| one.socket.as_ref()).filter(|socket| socket.send(order()).is_ok()).count())
}

/// Forgets tokens: a token that is not known is answered with 401, just like an expired one.
fn remove_tokens(world: &mut World, doomed: impl Fn(&str, &str) -> bool) -> u64 {
    let now = Instant::now();
    let before = world.tokens.values().filter(|token| token.expires > now).count();
    world.tokens.retain(|id, token| token.expires > now && !doomed(id, &token.client));
    count(before - world.tokens.len())
}

fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}

impl Junk {
    fn order(&self) -> Order {
        let text = |text: &str| frame::encode(Opcode::Text, text.as_bytes());
        let bytes = match self {
            Self::NotJson => text("this is not JSON"),
            Self::Binary => frame::encode(Opcode::Binary, &[0, 159, 146, 150]),
            Self::InvalidUtf8 => frame::encode(Opcode::Text, &[b'{', b'"', 0xC3, 0x28, b'"', b'}']),
            Self::EmptyObject => text("{}"),
            Self::Array => text("[]"),
            Self::NulEscape => text(
                r#"{"type":"update","topic":"routing:agent:state","userId":"nul\u0000","state":"A\u0000B","timestamp":"2026-01-01T00:00:00.000Z"}"#,
            ),
            Self::HugeNumber => text(
                r#"{"type":"update","topic":"routing:agent:state","userId":"huge","state":"AVAILABLE","timestamp":"2026-01-01T00:00:00.000Z","n":1e400}"#,
            ),
            Self::Nested => {
                text(&format!(r#"{{"type":"update","deep":{}{}}}"#, "[".repeat(200), "]".repeat(200)))
            }
            Self::NoUser => text(r#"{"type":"update","topic":"routing:agent:state","state":"AVAILABLE"}"#),
            Self::ForeignUser => text(
                r#"{"type":"update","topic":"routing:agent:state","userId":"nobody-asked-for-me","state":"AVAILABLE","timestamp":"2026-01-01T00:00:00.000Z"}"#,
            ),
            Self::Long(bytes) => text(&format!(r#"{{"type":"{}"}}"#, "x".repeat(bytes.saturating_sub(11)))),
            Self::OversizedHeader => frame::header(true, Opcode::Text, 1 << 40),
            Self::Masked => vec![0x81, 0x82, 1, 2, 3, 4, b'{' ^ 1, b'}' ^ 2],
            Self::ReservedBit => vec![0xC1, 2, b'{', b'}'],
            Self::UnknownOpcode => vec![0x83, 0],
            Self::IllegalClose => frame::encode_close(Some(1005), ""),
            Self::Fragments(times) => {
                return Order::Flood {
                    first: frame::encode_part(false, Opcode::Text, b"{").into(),
                    chunk: frame::encode_part(false, Opcode::Continuation, &[b' '; 1024]).into(),
                    times: *times,
                };
            }
            Self::Pings(times) => {
                return Order::Flood {
                    first: Bytes::new(),
                    chunk: frame::encode(Opcode::Ping, b"flood").into(),
                    times: *times,
                };
            }
        };
        Order::Raw(bytes.into())
    }
}
