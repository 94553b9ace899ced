//! A request to erase the person behind an agent: which step it is at.

use crate::domain::closed_set::closed_set;
use crate::domain::ids::{AgentId, ErasureId, SourceId};

/// Column `erasure.state`, field `state` of an erasure in the API. The steps follow each other in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErasureState {
    /// Open deliveries of the agent's events end.
    Deliveries,
    /// Its events and quarantined content are erased.
    Events,
    /// POSTs of its events that are under way are waited for.
    Answers,
    /// Audit entries about it are erased as they become sealed.
    Audit,
    /// Nothing is left.
    Done,
}

closed_set!(ErasureState {
    Deliveries = "deliveries",
    Events = "events",
    Answers = "answers",
    Audit = "audit",
    Done = "done",
});

/// A request as it was asked, to ask it again if a failover of the database has lost it.
#[derive(Clone, Debug)]
pub struct ErasureAsked {
    pub erasure_id: ErasureId,
    pub source_id: SourceId,
    pub agent_id: AgentId,
    /// Whether the agent is watched further.
    pub watch: bool,
    /// Who asked.
    pub principal: String,
}
