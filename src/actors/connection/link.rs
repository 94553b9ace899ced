//! One socket of a connection and the session that decides for it. A connection has one, and a second one while the
//! first is being replaced.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use actix::SpawnHandle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::actors::connection::assignment::Agents;
use crate::actors::connection::handover_buffer::HandoverBuffer;
use crate::actors::token::Held;
use crate::domain::presence::connection::RotateCause;
use crate::genesys::session::{Phase, Session};
use crate::genesys::socket::Sender;

/// Names a strand within its connection; never used twice.
pub type LinkId = u64;

/// What a strand is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It stands for the connection.
    Primary,
    /// It is to take the primary's place once it sees.
    Successor,
    /// Its place was taken; it ends.
    Retiring,
}

/// A socket that is open.
pub struct OpenSocket {
    /// Speaks on it.
    pub sender: Sender,
    /// Reads it.
    pub reader: SpawnHandle,
    /// Resolves when the reader has let go of the socket.
    pub ended: oneshot::Receiver<()>,
}

/// One socket and the session that decides for it.
pub struct Link {
    /// Its name.
    pub id: LinkId,
    /// What it is for.
    pub role: Role,
    /// Decides.
    pub session: Session,
    /// The token of the present try.
    pub token: Option<Held>,
    /// The socket, if it is open.
    pub socket: Option<OpenSocket>,
    /// Reads present states, while it does.
    pub resync: Option<SpawnHandle>,
    /// The agents that upstream was asked to tell of, on the present connection.
    pub subscribed: Arc<Agents>,
    /// Those of them that it rejected.
    pub rejected: HashSet<String>,
    /// A change of agents is under way.
    pub subscribing: bool,
    /// The update just handled could not be handed on.
    pub queue_full: bool,
    /// Its place among the channels that a client may have besides those in use.
    pub room: Option<OwnedSemaphorePermit>,
    /// Upstream wants it replaced; asked for again once it is the primary.
    pub wants_successor: Option<RotateCause>,
    /// The one that it is to replace ends soon.
    pub in_a_hurry: bool,
    /// Nobody has read the present states since its socket opened: the primary told everything, and is to prove it.
    pub unread: bool,
    /// A change of agents that failed is not tried again before.
    pub subscribe_not_before: Option<Instant>,
    /// Its changes while another link reports the same; `None` once they are recorded at once.
    pub handover_buffer: Option<HandoverBuffer>,
}

impl Link {
    /// A strand that has not started.
    #[must_use]
    pub fn new(id: LinkId, role: Role, session: Session) -> Self {
        Self {
            id,
            role,
            session,
            token: None,
            socket: None,
            resync: None,
            subscribed: Arc::default(),
            rejected: HashSet::new(),
            subscribing: false,
            queue_full: false,
            room: None,
            wants_successor: None,
            in_a_hurry: false,
            unread: false,
            subscribe_not_before: None,
            handover_buffer: (role == Role::Successor).then(HandoverBuffer::default),
        }
    }

    /// Whether its socket is open.
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
