//! Faults waiting for their request: refusals per route, and answers that are wrong on purpose.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A place where a request can arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// `POST /api/v2/oauth/token`
    Token,
    /// `GET /api/v2/users/me`
    UsersMe,
    /// `POST /api/v2/realtime/connections`
    CreateConnection,
    /// `GET /api/v2/realtime/connections`
    ListConnections,
    /// `DELETE /api/v2/realtime/connections/{id}`
    DeleteConnection,
    /// `GET /realtime/ws/{key}`: the WebSocket handshake.
    Upgrade,
}

/// Fault of the next requests of a route; built with [`Fault::status`] or [`Fault::delay`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Status to refuse with; without one the request is only delayed.
    #[serde(default)]
    pub status: Option<u16>,
    /// Requests that suffer it before it is spent.
    #[serde(default = "once")]
    pub times: u32,
    /// Value of a `Retry-After` header on the refusal, verbatim (so that it may be nonsense).
    #[serde(default)]
    pub retry_after: Option<String>,
    /// Milliseconds to wait before the answer.
    #[serde(default)]
    pub delay_ms: u64,
    /// Body instead of the usual error document, verbatim.
    #[serde(default)]
    pub body: Option<String>,
}

const fn once() -> u32 {
    1
}

impl Fault {
    /// Refuses one request with a status.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self { status: Some(status), times: 1, retry_after: None, delay_ms: 0, body: None }
    }

    /// Answers one request properly, but late.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self { status: None, times: 1, retry_after: None, delay_ms: millis(delay), body: None }
    }

    /// Makes it last for `times` requests.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Makes it last until [`Genesys::clear_faults`](super::Genesys::clear_faults).
    #[must_use]
    pub const fn forever(self) -> Self {
        self.times(u32::MAX)
    }

    /// Adds a `Retry-After` header.
    #[must_use]
    pub fn retry_after(mut self, value: impl Into<String>) -> Self {
        self.retry_after = Some(value.into());
        self
    }

    /// Also waits before it refuses.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay_ms = millis(delay);
        self
    }

    /// Answers with this body instead of an error document.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

/// A success that is wrong on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tamper {
    /// `POST connections` answers with this `wsUrl`, verbatim: a foreign host, another scheme, rubbish.
    WsUrl(String),
    /// `POST connections` answers without `wsUrl`.
    NoWsUrl,
    /// `POST connections` answers without `connectionId`.
    NoConnectionId,
    /// `POST connections` makes the connection at once, and answers after this many milliseconds.
    Late(u64),
    /// `POST token` answers without `access_token`.
    NoAccessToken,
    /// `POST token` answers with this `expires_in`; the token itself keeps its real lifetime.
    ExpiresIn(i64),
    /// `POST token` answers without `expires_in`.
    NoExpiresIn,
    /// `GET users/me` answers without `id`.
    NoUserId,
}

impl Tamper {
    /// Route whose answer it spoils.
    #[must_use]
    pub const fn route(&self) -> Route {
        match self {
            Self::WsUrl(_) | Self::NoWsUrl | Self::NoConnectionId | Self::Late(_) => Route::CreateConnection,
            Self::NoAccessToken | Self::ExpiresIn(_) | Self::NoExpiresIn => Route::Token,
            Self::NoUserId => Route::UsersMe,
        }
    }
}

/// All that waits, in the order it was asked for.
#[derive(Debug, Default)]
pub(super) struct Faults {
    refusals: BTreeMap<Route, VecDeque<Fault>>,
    tampers: BTreeMap<Route, VecDeque<(Tamper, u32)>>,
}

impl Faults {
    pub(super) fn add(&mut self, route: Route, fault: Fault) {
        if fault.times > 0 {
            self.refusals.entry(route).or_default().push_back(fault);
        }
    }

    pub(super) fn add_tamper(&mut self, tamper: Tamper, times: u32) {
        if times > 0 {
            self.tampers.entry(tamper.route()).or_default().push_back((tamper, times));
        }
    }

    pub(super) fn clear(&mut self) {
        self.refusals.clear();
        self.tampers.clear();
    }

    /// Fault of the request that has just arrived.
    pub(super) fn take(&mut self, route: Route) -> Option<Fault> {
        let queue = self.refusals.get_mut(&route)?;
        let front = queue.front_mut()?;
        let fault = front.clone();
        if front.times != u32::MAX {
            front.times -= 1;
        }
        if front.times == 0 {
            queue.pop_front();
        }
        Some(fault)
    }

    /// Spoiling of the success that is about to be answered.
    pub(super) fn take_tamper(&mut self, route: Route) -> Option<Tamper> {
        let queue = self.tampers.get_mut(&route)?;
        let (tamper, times) = queue.front_mut()?;
        let taken = tamper.clone();
        if *times != u32::MAX {
            *times -= 1;
        }
        if *times == 0 {
            queue.pop_front();
        }
        Some(taken)
    }
}
