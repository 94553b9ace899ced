//! Makes the calls that a session asks for, dials and ends its socket, and feeds each result to the session
//! that asked, with the epoch it asked in.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::stream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::actors::connection::deletions::delete_at_the_end;
use crate::actors::connection::link::{AttemptRef, LinkId, OpenSocket};
use crate::actors::connection::topic_updates::agent_ids;
use crate::actors::connection::{Arrival, ConnectionActor};
use crate::actors::token::CachedToken;
use crate::domain::ids::ProvisioningId;
use crate::genesys::protocol::{Listed, Provisioned, Standing, Upstream, UpstreamError};
use crate::genesys::session::{Input, Listing, TokenSerial};
use crate::genesys::socket::{Closed, Sender, Socket};
use crate::store::sources::ownership::ListedConnection;

/// A connection whose agent the platform names.
fn with_agent(listed: &Listed) -> Option<ListedConnection> {
    Some(ListedConnection {
        upstream_id: listed.upstream_id.clone(),
        agent_id: listed.agent_id.clone()?,
        made_at: listed.made_at?,
    })
}

/// A socket that we asked to close ends within this, or is left.
const SOCKET_ENDS_WITHIN: Duration = Duration::from_secs(3);
/// Deletions at the end take at most this long; what is left is deleted by the next process.
const DELETIONS_WITHIN: Duration = Duration::from_secs(3);

impl ConnectionActor {
    pub(super) fn get_token(
        &mut self,
        attempt: AttemptRef,
        instead_of: Option<TokenSerial>,
        ctx: &mut Context<Self>,
    ) {
        let tokens = self.tokens.clone();
        let asked = async move { tokens.get(instead_of).await };
        ctx.spawn(asked.into_actor(self).map(move |answer, actor, ctx| {
            let input = match answer {
                Ok(token) => {
                    let serial = token.serial;
                    if let Some(link) = actor.links.get_mut(attempt.link) {
                        link.token = Some(token);
                    }
                    Input::Token(Ok(serial))
                }
                Err(error) => Input::Token(Err(error)),
            };
            actor.feed(attempt, input, ctx);
        }));
    }

    /// Makes a call with the present token and feeds its result.
    pub(super) fn call<F, Fut>(&mut self, attempt: AttemptRef, ctx: &mut Context<Self>, step: F)
    where
        F: FnOnce(Rc<dyn Upstream>, CachedToken) -> Fut,
        Fut: Future<Output = Input> + 'static,
    {
        let Some(token) = self.links.get(attempt.link).and_then(|link| link.token.clone()) else {
            return; // not reached: the session asks for a token before anything else
        };
        let step = step(self.upstream.clone(), token);
        ctx.spawn(step.into_actor(self).map(move |input, actor, ctx| actor.feed(attempt, input, ctx)));
    }

    /// Lists the connections of our client, and those of them that a former process asked for and never
    /// learnt of.
    pub(super) fn list(&mut self, attempt: AttemptRef, ctx: &mut Context<Self>) {
        let (store, source) = (self.deps.store.clone(), self.assignment.source_id);
        let agents = self.assignment.agents.clone();
        self.call(attempt, ctx, |upstream, token| async move {
            let listed = match upstream.list(&token.secret).await {
                Ok(listed) => listed,
                Err(error) => return Input::Listed(Err(error)),
            };
            let lost = store.lost_upstream(source, &listed.iter().filter_map(with_agent).collect::<Vec<_>>()).await;
            let lost = lost.unwrap_or_else(|error| {
                tracing::warn!(
                    %error,
                    %source,
                    "failed to look up connections that former processes left upstream; they stay there for now"
                );
                Vec::new()
            });
            // The list has all connections of the client: each of ours takes its own agent's, or else the
            // others'.
            let (own, others): (Vec<_>, Vec<_>) =
                lost.into_iter().partition(|lost| agents.contains(&lost.agent_id));
            let lost = if own.is_empty() { others } else { own };
            Input::Listed(Ok(Listing {
                existing: listed.into_iter().map(|one| one.upstream_id).collect(),
                lost: lost.into_iter().map(|lost| lost.upstream_id).collect(),
            }))
        });
    }

    /// Asks for a connection, once a row says that we do: its id may never come back.
    pub(super) fn provision(&mut self, attempt: AttemptRef, ctx: &mut Context<Self>) {
        let (wanted, agents) = (self.assignment.wanted(), self.assignment.agents.clone());
        let Some(link) = self.links.get_mut(attempt.link) else { return };
        link.subscribed = agents;
        let Some(token) = link.token.clone() else { return };
        let (upstream, store) = (self.upstream.clone(), self.deps.store.clone());
        let (id, connection) = (ProvisioningId::generate(), self.assignment.connection_id);
        let asked = async move {
            if let Err(error) = store.begin_provisioning(id, connection).await {
                // No coverage for as long as the database is unavailable would be worse than what a kill may
                // leave now.
                tracing::warn!(
                    %error,
                    %connection,
                    "failed to record a provisioning request; asking upstream all the same"
                );
            }
            let made = upstream.provision(&token.secret, &wanted).await;
            // A channel ends with the token that made it.
            made.map(|mut made| {
                if let Some(lifetime) = &mut made.lifetime {
                    *lifetime = (*lifetime).min(token.ends.saturating_duration_since(Instant::now()));
                }
                made
            })
        };
        ctx.spawn(asked.into_actor(self).map(move |made, actor, ctx| {
            if made.as_ref().err().is_none_or(UpstreamError::is_refusal) {
                actor.journal.answered(id);
            }
            if let Ok(made) = &made {
                if let Some(link) = actor.links.get_mut(attempt.link) {
                    link.rejected = agent_ids(&made.rejected);
                }
                actor.record_rejected(made.rejected.clone(), ctx);
            }
            actor.feed(attempt, Input::Provisioned(made), ctx);
        }));
    }

    pub(super) fn dial(&self, attempt: AttemptRef, provisioned: Provisioned, ctx: &mut Context<Self>) {
        let upstream = self.upstream.clone();
        let dialled = async move { upstream.dial(&provisioned).await };
        ctx.spawn(dialled.into_actor(self).map(move |answer, actor, ctx| {
            let current = actor.links.get(attempt.link).is_some_and(|link| link.attempt() == attempt);
            let input = match answer {
                // A socket that comes too late is dropped here, which closes it.
                Ok(socket) if current => {
                    actor.accept_socket(attempt, socket, ctx);
                    Ok(())
                }
                Ok(_) => return,
                Err(error) => Err(error),
            };
            actor.feed(attempt, Input::Dialled(input), ctx);
        }));
    }

    fn accept_socket(&mut self, attempt: AttemptRef, socket: Socket, ctx: &mut Context<Self>) {
        self.drop_socket(attempt.link, ctx);
        let sender = socket.sender();
        let (guard, ended) = oneshot::channel::<()>();
        let arrivals = stream::unfold((socket, guard), move |(mut socket, guard)| async move {
            let incoming = socket.next().await?;
            Some((Arrival(attempt, incoming), (socket, guard)))
        });
        let reader = ctx.add_stream(arrivals);
        if let Some(link) = self.links.get_mut(attempt.link) {
            link.socket = Some(OpenSocket { sender, reader, ended });
        }
    }

    pub(super) fn drop_socket(&mut self, id: LinkId, ctx: &mut Context<Self>) {
        if let Some(socket) = self.links.get_mut(id).and_then(|link| link.socket.take()) {
            ctx.cancel_future(socket.reader);
        }
    }

    /// Sends something on a link's socket. A peer that does not read counts as dead.
    pub(super) fn send(
        &mut self,
        attempt: AttemptRef,
        send: impl FnOnce(&Sender) -> bool,
        ctx: &mut Context<Self>,
    ) {
        let socket = self.links.get(attempt.link).and_then(|link| link.socket.as_ref());
        if socket.is_some_and(|socket| !send(&socket.sender)) {
            self.drop_socket(attempt.link, ctx);
            // After the effects of the present decision.
            let later = std::future::ready(Input::Closed(Closed::broken("the peer does not read")));
            ctx.spawn(later.into_actor(self).map(move |input, actor, ctx| actor.feed(attempt, input, ctx)));
        }
    }

    pub(super) fn probe(&mut self, attempt: AttemptRef, ctx: &mut Context<Self>) {
        let Some(asked) = self.ask_standing(attempt) else { return };
        ctx.spawn(asked.into_actor(self).map(move |listens, actor, ctx| {
            let standing = actor.standing(attempt, listens);
            if let Ok(Standing::Taken { agents }) = standing {
                let connection = actor.assignment.connection_id;
                tracing::warn!(%connection, agents, "another program took subscriptions away; replacing the connection");
            }
            actor.feed(attempt, Input::Probed(standing), ctx);
        }));
    }

    /// Ends the socket, releases the buffer, deletes what we have upstream, and feeds the results.
    pub(super) fn shut_down(&mut self, attempt: AttemptRef, ids: Vec<String>, ctx: &mut Context<Self>) {
        let socket = self.links.get_mut(attempt.link).and_then(|link| link.socket.take());
        let gone = async move {
            if let Some(socket) = socket {
                let _ = timeout(SOCKET_ENDS_WITHIN, socket.ended).await;
            }
        };
        ctx.spawn(gone.into_actor(self).map(move |(), actor, ctx| {
            actor.release_buffer(ctx);
            actor.delete_at_shutdown(attempt, ids, ctx);
        }));
    }

    fn delete_at_shutdown(&mut self, attempt: AttemptRef, ids: Vec<String>, ctx: &mut Context<Self>) {
        let (upstream, tokens) = (self.upstream.clone(), self.tokens.clone());
        let deleted = async move {
            if ids.is_empty() {
                return Vec::new();
            }
            let deleting = delete_at_the_end(&*upstream, &tokens, ids);
            timeout(DELETIONS_WITHIN, deleting).await.unwrap_or_default()
        };
        ctx.spawn(deleted.into_actor(self).map(move |results, actor, ctx| {
            actor.feed(attempt, Input::Deleted(results), ctx);
            actor.feed(attempt, Input::ShutDown, ctx);
        }));
    }
}
