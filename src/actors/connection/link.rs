//! One socket of a connection and the session that decides for it. A connection has one link, and a second
//! one while the first is being replaced.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use actix::SpawnHandle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::actors::connection::assignment::Agents;
use crate::actors::connection::gauge_share::GaugeShare;
use crate::actors::connection::handover_buffer::HandoverBuffer;
use crate::actors::token::CachedToken;
use crate::domain::presence::connection::RotateCause;
use crate::genesys::session::{Phase, Session};
use crate::genesys::socket::Sender;

/// Names a link within its connection; never used twice.
pub type LinkId = u64;

/// One of the attempts of a link: answers to an older one are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptRef {
    pub link: LinkId,
    pub epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It stands for the connection.
    Active,
    /// It takes the active link's place once it covers all agents.
    Standby,
    /// Its place was taken; it ends.
    Draining,
}

pub struct OpenSocket {
    pub sender: Sender,
    pub reader: SpawnHandle,
    /// Resolves when the reader has dropped the socket.
    pub ended: oneshot::Receiver<()>,
}

/// One socket and the session that decides for it.
pub struct Link {
    pub id: LinkId,
    pub role: Role,
    pub session: Session,
    /// Token of the present attempt.
    pub token: Option<CachedToken>,
    /// `None` unless it is open.
    pub socket: Option<OpenSocket>,
    /// Counts the socket among those that are open.
    pub open: Option<GaugeShare>,
    /// The task that reads present states, while it runs.
    pub resync: Option<SpawnHandle>,
    /// Agents that upstream was asked to report, on the present connection.
    pub subscribed: Arc<Agents>,
    /// Those of them that it rejected.
    pub rejected: HashSet<String>,
    /// A change of agents is under way.
    pub subscribing: bool,
    /// A change of agents that failed is not tried again before.
    pub subscribe_not_before: Option<Instant>,
    /// The queue or the buffer had no room for the update just handled.
    pub queue_full: bool,
    /// Slot for a channel besides those in use, while there are two.
    pub slot: Option<OwnedSemaphorePermit>,
    /// Upstream wants it replaced; asked for again once it is the active link.
    pub rotate_again: Option<RotateCause>,
    /// Upstream has announced the end of the link that it replaces.
    pub urgent: bool,
    /// The present states were not read since its socket opened: the active link reports everything and has
    /// to prove it.
    pub states_unread: bool,
    /// Its changes while another link reports the same; `None` once they are recorded at once.
    pub handover_buffer: Option<HandoverBuffer>,
}

impl Link {
    /// A link that has not started.
    #[must_use]
    pub fn new(id: LinkId, role: Role, session: Session) -> Self {
        Self {
            id,
            role,
            session,
            token: None,
            socket: None,
            open: None,
            resync: None,
            subscribed: Arc::default(),
            rejected: HashSet::new(),
            subscribing: false,
            subscribe_not_before: None,
            queue_full: false,
            slot: None,
            rotate_again: None,
            urgent: false,
            states_unread: false,
            handover_buffer: (role == Role::Standby).then(HandoverBuffer::default),
        }
    }

    /// Its present attempt.
    #[must_use]
    pub fn attempt(&self) -> AttemptRef {
        AttemptRef { link: self.id, epoch: self.session.epoch() }
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.session.phase() == Phase::Open
    }

    /// Whether it has ended for good.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.session.phase(), Phase::Ended(_))
    }
}
