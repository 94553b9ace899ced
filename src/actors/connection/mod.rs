//! Holds one connection: carries out what its sessions decide, and tells them what came of it.
//!
//! Decisions are in `genesys::session` (pure); here are the sockets, the timers, the calls and the order of writes.
//! `calls` carries out what goes upstream, `handover` replaces a socket by another one, `subscription` follows a change of agents, `resync` reads present states.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::token::Tokens;
use crate::actors::recorder::Recorder;
use crate::clock;
use crate::domain::presence::Origin;
use crate::domain::presence::connection::{CloseCause, GapCause, MalformedReason};
use crate::genesys::definitions::Definitions;
use crate::genesys::protocol::{Frame, Update, Upstream};
use crate::genesys::session::{Effect, Input, Now, Phase, Session};
use crate::genesys::socket::Incoming;
use crate::metrics::{Metrics, ReasonLabels};
use crate::random;
use crate::status::{ConnectionMetrics, Status};
use crate::store::Store;
use crate::store::sources::desired_connections::ConnectionRecord;
use crate::store::sources::gap_tracking::GapStep;
use assignment::{Agents, Assignment};
use deletions::delete;
use handover_buffer::HandoverBuffer;
use journal::Journal;
use link::{Link, LinkId, Role};

pub mod assignment;
mod deletions;
mod handover;
mod handover_buffer;
mod journal;
mod link;
mod resync;
mod topic_updates;
mod upstream_calls;

/// Wait before a write that failed is tried again.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a connection needs, the same for all.
#[derive(Clone)]
pub struct Deps {
    /// Where its state goes.
    pub store: Store,
    /// Where updates go.
    pub recorder: Recorder,
    /// Where its figures go.
    pub status: Arc<Status>,
    /// Where it counts.
    pub metrics: Metrics,
}

/// Asks the connection to end; it does so by itself then, within some seconds.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Terminate(pub CloseCause);

/// Gives the connection other agents.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reassign(pub Agents);

/// One thing that arrived on a socket of a strand, in an epoch.
pub(super) struct Arrival(pub(super) Place, pub(super) Incoming);

/// A strand and one of its tries.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) link: LinkId,
    pub(super) epoch: u64,
}

/// The actor of one connection.
pub struct ConnectionActor {
    pub(super) deps: Deps,
    pub(super) assignment: Assignment,
    pub(super) upstream: Rc<dyn Upstream>,
    pub(super) tokens: Tokens,
    pub(super) definitions: Definitions,
    /// The primary is always there.
    pub(super) links: Vec<Link>,
    pub(super) strands_made: LinkId,
    pub(super) spare: Arc<Semaphore>,
    /// A replacement is wanted and waits for room.
    pub(super) waits_for_room: bool,
    /// Agents rejected when upstream was asked last.
    pub(super) rejected: Option<usize>,
    /// What is not yet written down.
    pub(super) journal: Journal,
}

impl ConnectionActor {
    /// An actor that starts to connect when it is started.
    #[must_use]
    pub fn new(
        deps: Deps,
        assignment: Assignment,
        upstream: Rc<dyn Upstream>,
        tokens: Tokens,
        definitions: Definitions,
        spare: Arc<Semaphore>,
    ) -> Self {
        let keepalive = upstream.keepalive(assignment.heartbeat);
        let session = Session::new(keepalive, assignment.leftovers.clone());
        let journal = Journal::new(assignment.watcher());
        Self {
            deps,
            assignment,
            upstream,
            tokens,
            definitions,
            links: vec![Link::new(0, Role::Primary, session)],
            strands_made: 1,
            spare,
            waits_for_room: false,
            rejected: None,
            journal,
        }
    }

    pub(super) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    pub(super) fn in_role(&self, role: Role) -> Option<&Link> {
        self.links.iter().find(|link| link.role == role)
    }

    /// Tells a session what happened in an epoch, and does what it decides.
    pub(super) fn feed(&mut self, place: Place, input: Input, ctx: &mut Context<Self>) {
        let now = Now { at: clock::now(), tick: Instant::now() };
        let Some(link) = self.link(place.link) else {
            return; // it has ended
        };
        let before = link.session.phase();
        let effects = link.session.on(place.epoch, input, now, random::unit());
        self.carry_out_all(place.link, effects, now, ctx);
        if let Some(link) = self.link(place.link).filter(|link| link.queue_full) {
            // Before another frame is handled: that one's moment would pass for the last one with sight.
            link.queue_full = false;
            let full = link.session.on(place.epoch, Input::QueueFull, now, random::unit());
            self.carry_out_all(place.link, full, now, ctx);
        }
        let after = self.link(place.link).map_or(before, |link| link.session.phase());
        match (before == Phase::Open, after == Phase::Open) {
            (false, true) => {
                self.deps.metrics.upstream_connected.inc();
            }
            (true, false) => {
                self.deps.metrics.upstream_connected.dec();
                self.stop_resync(place.link, ctx);
            }
            _ => {}
        }
        self.settle_roles(ctx);
        self.keep_subscribed(ctx);
        self.publish();
        self.write(ctx);
    }

    fn carry_out_all(&mut self, id: LinkId, effects: Vec<Effect>, now: Now, ctx: &mut Context<Self>) {
        for effect in effects {
            self.carry_out(id, effect, now, ctx);
        }
    }

    fn carry_out(&mut self, id: LinkId, effect: Effect, now: Now, ctx: &mut Context<Self>) {
        let Some(link) = self.link(id) else { return };
        let (role, place) = (link.role, Place { link: id, epoch: link.session.epoch() });
        match effect {
            Effect::GetToken { instead_of } => self.get_token(place, instead_of, ctx),
            Effect::Verify => self.call(place, ctx, |upstream, token| async move {
                Input::Verified(upstream.verify(&token.secret).await)
            }),
            Effect::List => self.list(place, ctx),
            Effect::Delete(ids) => self.call(place, ctx, |upstream, token| async move {
                Input::Deleted(delete(&*upstream, &token, ids).await)
            }),
            Effect::Provision => self.provision(place, ctx),
            Effect::Dial(provisioned) => self.dial(place, provisioned, ctx),
            Effect::SendText(text) => self.speak(place, |sender| sender.text(text), ctx),
            Effect::Ping(payload) => self.speak(place, |sender| sender.ping(payload), ctx),
            Effect::Close(code, reason) => {
                if let Some(socket) = &link.socket {
                    socket.sender.close(code, reason);
                }
            }
            Effect::Drop => self.drop_socket(id, ctx),
            Effect::Record(update, text) => self.record(id, *update, text, now),
            Effect::SetTimer(timer, after) => {
                ctx.run_later(after, move |actor, ctx| actor.feed(place, Input::Timer(timer), ctx));
            }
            Effect::Audit(entry) => self.tell(*entry),
            Effect::GapOpened { from, cause } => self.coverage_lost(role, from, cause),
            Effect::GapClosed if role == Role::Primary => {
                self.journal.gap(GapStep::Closed { to: now.at });
            }
            Effect::GapClosed => {}
            Effect::Save => self.journal.save(),
            Effect::CountReconnect(cause) => {
                let reason = cause.as_str();
                self.deps.metrics.upstream_reconnects.get_or_create(&ReasonLabels { reason }).inc();
            }
            Effect::CountMalformed(reason) => {
                let reason = reason.as_str();
                self.deps.metrics.frames_rejected.get_or_create(&ReasonLabels { reason }).inc();
            }
            Effect::CountRoundTrip(round_trip) => {
                self.deps.metrics.upstream_ping_seconds.observe(round_trip.as_secs_f64());
            }
            Effect::Probe => self.probe(place, ctx),
            Effect::Resync => self.catch_up(place, ctx),
            Effect::Rotate { cause } => self.begin_handover(id, cause, ctx),
            Effect::ShutDown(ids) => self.shut_down(place, ids, ctx),
            Effect::Finished => self.journal.save(),
        }
    }

    fn record(&mut self, id: LinkId, update: Update, text: String, now: Now) {
        let Some(change) = self.assignment.change(update, Origin::Live, text, now.at, &self.definitions)
        else {
            return;
        };
        let buffers = self.links.iter().any(|link| link.handover_buffer.is_some());
        let Some(link) = self.links.iter_mut().find(|link| link.id == id) else { return };
        if let Some(buffer) = &mut link.handover_buffer {
            // Full: the database has been unavailable for long. The session ends, with a gap on record.
            link.queue_full = buffer.push(change).is_err();
            return;
        }
        let seen = buffers.then(|| change.clone());
        link.queue_full = self.deps.recorder.try_record(change).is_err();
        if let Some(seen) = seen.filter(|_| !link.queue_full) {
            self.saw(&seen);
        }
    }

    /// Shows the figures of this moment.
    fn publish(&self) {
        let Some(primary) = self.in_role(Role::Primary) else { return };
        let latency = primary.session.latency();
        self.deps.status.set_connection(
            self.assignment.connection_id,
            ConnectionMetrics {
                average_latency_ms: latency.average_ms(),
                stability_rate: latency.stability_rate(),
                samples: latency.samples(),
                attempt_count: primary.session.attempts(),
                proven_at: proven_at(primary),
                open: primary.is_open(),
            },
        );
    }

    /// Writes down what is not written yet, one write at a time; the next takes all that has come since.
    pub(super) fn write(&mut self, ctx: &mut Context<Self>) {
        let (store, recorder) = (self.deps.store.clone(), self.deps.recorder.clone());
        let Some(write) =
            self.connection_record().and_then(|state| self.journal.next_write(store, recorder, state))
        else {
            if self.journal.is_settled() && self.links.iter().all(Link::has_ended) {
                ctx.stop();
            }
            return;
        };
        ctx.spawn(write.into_actor(self).map(|written, actor, ctx| match actor.journal.written(written) {
            Ok(()) => actor.write(ctx),
            Err(error) => {
                tracing::warn!(%error, connection = %actor.assignment.connection_id, "state waits for the database");
                ctx.run_later(WRITE_AGAIN_AFTER, |actor, ctx| actor.write(ctx));
            }
        }));
    }

    fn connection_record(&self) -> Option<ConnectionRecord> {
        let session = &self.in_role(Role::Primary)?.session;
        // What the others have upstream is to be found there by the next process.
        let others = self.links.iter().filter(|link| link.role != Role::Primary);
        let theirs = others.flat_map(|s| {
            s.session.stale().iter().cloned().chain(s.session.upstream_id().map(str::to_owned))
        });
        Some(ConnectionRecord {
            connection_id: self.assignment.connection_id,
            state: session.phase().state(),
            reason: session.reason().map(str::to_owned),
            attempts: session.attempts(),
            upstream_id: session.upstream_id().map(str::to_owned),
            stale: session.stale().iter().cloned().chain(theirs).collect(),
            opened_at: session.opened_at(),
            expires_at: session.expires_at(),
            proven_at: proven_at(self.in_role(Role::Primary)?),
        })
    }
}

/// Last moment of sight of which everything is handed on.
fn proven_at(primary: &Link) -> Option<OffsetDateTime> {
    let waits_since = primary.handover_buffer.as_ref().and_then(HandoverBuffer::oldest_at);
    waits_since.or_else(|| primary.session.proven_at())
}

impl Actor for ConnectionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(from) = self.assignment.proven_at {
            // Until now nobody looked: a former process ended, however it did.
            self.journal.gap(GapStep::Opened { from, cause: GapCause::BridgeDown });
        }
        let first = self.assignment.ends_at_once.map_or(Input::Start, Input::Terminate);
        self.feed(Place { link: 0, epoch: 0 }, first, ctx);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.deps.status.remove_connection(self.assignment.connection_id);
        self.deps.store.wake.connections_changed();
    }
}

impl Drop for ConnectionActor {
    /// A panic skips `stopped`; the gauges must not count what is gone.
    fn drop(&mut self) {
        for _ in self.links.iter().filter(|link| link.is_open()) {
            self.deps.metrics.upstream_connected.dec();
        }
        self.deps
            .metrics
            .topics_rejected
            .dec_by(i64::try_from(self.rejected.unwrap_or(0)).unwrap_or(i64::MAX));
    }
}

impl StreamHandler<Arrival> for ConnectionActor {
    fn handle(&mut self, Arrival(place, incoming): Arrival, ctx: &mut Self::Context) {
        let input = match incoming {
            Incoming::Text(text) => match self.upstream.read(&text) {
                Frame::Update(update) if !self.assignment.watches(&update) => {
                    Input::Text(text, Frame::Malformed { reason: MalformedReason::UnwatchedAgent })
                }
                frame => Input::Text(text, frame),
            },
            Incoming::Binary(bytes) => Input::Binary(bytes),
            Incoming::Ping => Input::Pinged,
            Incoming::Pong(payload) => Input::Ponged(payload),
            Incoming::Closed(closed) => Input::Closed(closed),
        };
        match input {
            // Its session is over, but what was on its way when it was replaced still counts.
            Input::Text(text, Frame::Update(update)) if self.is_retiring(place.link) => {
                let now = Now { at: clock::now(), tick: Instant::now() };
                self.record(place.link, *update, text, now);
            }
            input => self.feed(place, input, ctx),
        }
    }

    /// The end of a socket is an arrival of its own; the actor lives on.
    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl Handler<Terminate> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, Terminate(ending): Terminate, ctx: &mut Self::Context) {
        let mut places: Vec<(Place, CloseCause)> = self
            .links
            .iter()
            .map(|link| {
                let ending = if link.role == Role::Primary { ending } else { CloseCause::Rotated };
                (Place { link: link.id, epoch: link.session.epoch() }, ending)
            })
            .collect();
        // The primary last: while another strand sees, its end would be no loss of sight.
        places.sort_by_key(|(_, ending)| *ending != CloseCause::Rotated);
        for (place, ending) in places {
            self.feed(place, Input::Terminate(ending), ctx);
        }
    }
}
