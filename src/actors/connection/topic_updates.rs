//! Follows a change of agents on open connections, and records the agents that upstream rejects.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use crate::actors::connection::assignment::Agents;
use crate::actors::connection::gauge_share::GaugeShare;
use crate::actors::connection::link::{AttemptRef, Link};
use crate::actors::connection::{ConnectionActor, Reassign};
use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::AgentId;
use crate::genesys::protocol::{Rejected, Standing, UpstreamError};
use crate::store::sources::assignments::RejectedAgent;

/// Wait before a change of agents that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Rejected agents that one audit entry names; the API lists all.
const NAMED_MAX: usize = 100;

/// Upstream's answer to which agents a connection listens to.
pub(super) struct Listens {
    /// The agents that it should have listened to when upstream was asked; `None` while they changed.
    asked: Option<Arc<Agents>>,
    /// `None` if it does not exist any more.
    answer: Result<Option<HashSet<String>>, UpstreamError>,
}

pub(super) fn agent_ids(rejected: &[Rejected]) -> HashSet<String> {
    rejected.iter().map(|rejected| rejected.agent_id.clone()).collect()
}

impl Handler<Reassign> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, Reassign(agents): Reassign, ctx: &mut Self::Context) {
        if agents.version == self.assignment.agents.version {
            return;
        }
        let joined = agents.without(&self.assignment.agents).len();
        let left = self.assignment.agents.without(&agents).len();
        self.assignment.agents = agents.into();
        self.journal.watch(self.assignment.agents.list.clone());
        let entry = Entry::new(clock::now(), Kind::AgentsAssigned).data("joined", joined).data("left", left);
        self.journal.audit(entry);
        self.keep_subscribed(ctx);
        self.write(ctx);
    }
}

impl ConnectionActor {
    /// Subscribes every open link that does not listen to the agents assigned now.
    pub(super) fn keep_subscribed(&mut self, ctx: &mut Context<Self>) {
        let version = self.assignment.agents.version;
        let now = Instant::now();
        let behind: Vec<AttemptRef> = self
            .links
            .iter()
            .filter(|link| {
                link.is_open()
                    && !link.subscribing
                    && link.subscribed.version != version
                    && link.subscribe_not_before.is_none_or(|at| at <= now)
            })
            .map(Link::attempt)
            .collect();
        for attempt in behind {
            self.subscribe(attempt, ctx);
        }
    }

    fn subscribe(&mut self, attempt: AttemptRef, ctx: &mut Context<Self>) {
        let (upstream, wanted) = (self.upstream.clone(), self.assignment.wanted());
        let agents = self.assignment.agents.clone();
        let Some(link) = self.links.get_mut(attempt.link) else { return };
        let (Some(token), Some(id)) = (link.token.clone(), link.session.upstream_id().map(str::to_owned))
        else {
            return;
        };
        link.subscribing = true;
        let asked = async move { upstream.subscribe(&token.secret, &id, &wanted).await };
        ctx.spawn(asked.into_actor(self).map(move |answer, actor, ctx| {
            let Some(link) = actor.links.get_mut(attempt.link) else { return };
            link.subscribing = false;
            if link.attempt() != attempt {
                return; // another connection has been made since, with these agents or newer ones
            }
            match answer {
                Ok(rejected) => {
                    link.subscribe_not_before = None;
                    let newcomers = agents.without(&link.subscribed);
                    link.subscribed = agents;
                    link.rejected = agent_ids(&rejected);
                    actor.record_rejected(rejected, ctx);
                    if !newcomers.is_empty() {
                        // A resync under way does not know them.
                        let ids = if actor.reads_states(attempt.link) {
                            actor.assignment.agents.ids()
                        } else {
                            newcomers
                        };
                        actor.start_resync(attempt, ids, ctx);
                    }
                    actor.keep_subscribed(ctx);
                }
                Err(error) => {
                    link.subscribe_not_before = Some(Instant::now() + AGAIN_AFTER);
                    tracing::warn!(
                        %error,
                        connection = %actor.assignment.connection_id,
                        "failed to subscribe to agents; retrying in 5 s"
                    );
                    ctx.run_later(AGAIN_AFTER, |actor, ctx| actor.keep_subscribed(ctx));
                }
            }
        }));
    }

    /// Asks upstream how the connection of a link stands; feeds nothing by itself.
    pub(super) fn ask_standing(&self, attempt: AttemptRef) -> Option<impl Future<Output = Listens> + use<>> {
        let link = self.links.get(attempt.link)?;
        let (token, id) = (link.token.clone()?, link.session.upstream_id()?.to_owned());
        let upstream = self.upstream.clone();
        // The answer does not say how far a change that is under way has come.
        let asked = (!link.subscribing).then(|| link.subscribed.clone());
        Some(async move { Listens { asked, answer: upstream.listens_to(&token.secret, &id).await } })
    }

    /// How the connection stands, by the agents that upstream says it listens to.
    pub(super) fn standing(&self, attempt: AttemptRef, listens: Listens) -> Result<Standing, UpstreamError> {
        let Some(listening) = listens.answer? else { return Ok(Standing::Gone) };
        let link = self.links.get(attempt.link).filter(|link| !link.subscribing);
        let Some((link, asked)) = link.zip(listens.asked) else { return Ok(Standing::Changing) };
        if link.subscribed.version != asked.version {
            return Ok(Standing::Changing);
        }
        let wanted = asked.list.iter().map(|agent| &agent.0).filter(|agent| !link.rejected.contains(*agent));
        match wanted.filter(|agent| !listening.contains(*agent)).count() {
            0 => Ok(Standing::Whole),
            agents => Ok(Standing::Taken { agents }),
        }
    }

    /// Writes the agents that upstream rejects.
    pub(super) fn record_rejected(&mut self, rejected: Vec<Rejected>, ctx: &mut Context<Self>) {
        match &mut self.rejected {
            Some(before) if before.get() == 0 && rejected.is_empty() => return,
            Some(before) => before.set(rejected.len()),
            None => {
                self.rejected = Some(GaugeShare::new(&self.deps.metrics.topics_rejected, rejected.len()));
            }
        }
        let connection = self.assignment.connection_id;
        let mut entries = Vec::new();
        if let Some(first) = rejected.first() {
            tracing::warn!(%connection, agents = rejected.len(), reason = first.reason, "upstream rejected agents; they stay unmonitored");
            let named: Vec<_> = rejected.iter().take(NAMED_MAX).map(|r| r.agent_id.clone()).collect();
            let mut entry = Entry::new(clock::now(), Kind::TopicRejected)
                .level(Level::Error)
                .data("count", rejected.len())
                .data("agents", named)
                .data("reason", first.reason.clone())
                .data("missing_permissions", first.missing_permissions.clone());
            entry.source_id = Some(self.assignment.source_id);
            entry.connection_id = Some(connection);
            entries.push(entry);
        }
        let rejected: Vec<_> = rejected
            .into_iter()
            .map(|rejected| RejectedAgent {
                agent_id: AgentId(rejected.agent_id),
                topic: rejected.topic,
                reason: rejected.reason,
                missing_permissions: rejected.missing_permissions,
            })
            .collect();
        let store = self.deps.store.clone();
        let write = async move {
            while let Err(error) = store.write_rejected(connection, &rejected, clock::now(), &entries).await {
                tracing::warn!(%error, %connection, "failed to write rejected agents; retrying in 5 s");
                actix::clock::sleep(AGAIN_AFTER).await;
            }
        };
        ctx.spawn(write.into_actor(self));
    }
}
