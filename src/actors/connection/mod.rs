//! Runs one connection: executes what its sessions decide and feeds the results back to them.
//!
//! `genesys::session` decides (pure); here are the sockets, the timers, the calls and the order of writes.
//! `upstream_calls` makes the calls, `handover` replaces one socket by another, `topic_updates` follows a
//! change of agents, `resync` reads present states, `journal` collects what is written to the database.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::token::Tokens;
use crate::actors::recorder::Recorder;
use crate::clock;
use crate::domain::audit::quarantine::Room;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::presence::Origin;
use crate::domain::presence::connection::{CloseCause, GapCause, MalformedReason};
use crate::genesys::definitions::Definitions;
use crate::genesys::protocol::{Frame, Update, Upstream};
use crate::genesys::session::{Effect, Input, Now, Session};
use crate::genesys::socket::Incoming;
use crate::metrics::Metrics;
use crate::random;
use crate::status::{ConnectionMetrics, Status};
use crate::store::Store;
use crate::store::sources::desired_connections::ConnectionRecord;
use crate::store::sources::gap_tracking::GapStep;
use assignment::{Agents, Assignment};
use deletions::delete;
use gauge_share::GaugeShare;
use handover_buffer::HandoverBuffer;
use journal::Journal;
use link::{AttemptRef, Link, LinkId, Role};
use links::Links;

pub mod assignment;
mod deletions;
mod gauge_share;
mod handover;
mod handover_buffer;
mod journal;
mod link;
mod links;
mod resync;
mod topic_updates;
mod upstream_calls;

/// Wait before a write that failed is tried again.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Parts that all connections share.
#[derive(Clone)]
pub struct Deps {
    pub store: Store,
    pub recorder: Recorder,
    pub status: Arc<Status>,
    pub metrics: Metrics,
}

/// Asks the connection to end; its actor stops within some seconds.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Terminate(pub CloseCause);

/// Gives the connection other agents.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reassign(pub Agents);

/// Has the connection write again what a failover of the database may have lost of its row, and read its agents'
/// states if events may be lost since a time.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WriteAgain {
    pub lost_since: Option<OffsetDateTime>,
}

/// One thing that arrived on a socket.
pub(super) struct Arrival(pub(super) AttemptRef, pub(super) Incoming);

/// The actor of one connection.
pub struct ConnectionActor {
    pub(super) deps: Deps,
    pub(super) assignment: Assignment,
    pub(super) upstream: Rc<dyn Upstream>,
    pub(super) tokens: Tokens,
    pub(super) definitions: Definitions,
    pub(super) links: Links,
    /// Slots for channels besides those in use, one for each hand-over that runs.
    pub(super) spare_slots: Arc<Semaphore>,
    /// A hand-over waits for a slot.
    pub(super) awaits_slot: bool,
    /// Agents that upstream rejected when it was asked last; `None` before.
    pub(super) rejected: Option<GaugeShare>,
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
        spare_slots: Arc<Semaphore>,
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
            links: Links::new(session),
            spare_slots,
            awaits_slot: false,
            rejected: None,
            journal,
        }
    }

    /// Feeds an input of an attempt to its session, and runs the effects.
    pub(super) fn feed(&mut self, attempt: AttemptRef, input: Input, ctx: &mut Context<Self>) {
        let now = Now { at: clock::now(), tick: Instant::now() };
        if self.links.get(attempt.link).is_none() {
            return; // it has ended
        }
        self.step(attempt, input, now, ctx);
        let link = self.links.get_mut(attempt.link);
        if link.is_some_and(|link| std::mem::take(&mut link.queue_full)) {
            // Before another frame is handled: its time would pass for the last proof of coverage.
            self.step(attempt, Input::QueueFull, now, ctx);
        }
        self.count_open(attempt.link, ctx);
        self.settle_roles(ctx);
        self.keep_subscribed(ctx);
        self.publish();
        self.write(ctx);
    }

    fn step(&mut self, attempt: AttemptRef, input: Input, now: Now, ctx: &mut Context<Self>) {
        let Some(link) = self.links.get_mut(attempt.link) else { return };
        for effect in link.session.on(attempt.epoch, input, now, random::unit()) {
            self.run(attempt.link, effect, now, ctx);
        }
    }

    /// Follows the socket of a link that has just opened or was lost.
    fn count_open(&mut self, id: LinkId, ctx: &mut Context<Self>) {
        let Some(link) = self.links.get_mut(id) else { return };
        match (link.open.is_some(), link.is_open()) {
            (false, true) => link.open = Some(GaugeShare::new(&self.deps.metrics.upstream_connected, 1)),
            (true, false) => {
                link.open = None;
                self.stop_resync(id, ctx);
            }
            _ => {}
        }
    }

    fn run(&mut self, id: LinkId, effect: Effect, now: Now, ctx: &mut Context<Self>) {
        let Some(link) = self.links.get(id) else { return };
        let (role, attempt) = (link.role, link.attempt());
        match effect {
            Effect::GetToken { instead_of } => self.get_token(attempt, instead_of, ctx),
            Effect::Verify => self.call(attempt, ctx, |upstream, token| async move {
                Input::Verified(upstream.verify(&token.secret).await)
            }),
            Effect::List => self.list(attempt, ctx),
            Effect::Delete(ids) => self.call(attempt, ctx, |upstream, token| async move {
                Input::Deleted(delete(&*upstream, &token, ids).await)
            }),
            Effect::Provision => self.provision(attempt, ctx),
            Effect::Dial(provisioned) => self.dial(attempt, provisioned, ctx),
            Effect::SendText(text) => self.send(attempt, |sender| sender.text(text), ctx),
            Effect::Ping(payload) => self.send(attempt, |sender| sender.ping(payload), ctx),
            Effect::Close(code, reason) => {
                if let Some(socket) = &link.socket {
                    socket.sender.close(code, reason);
                }
            }
            Effect::Drop => self.drop_socket(id, ctx),
            Effect::Record(update, text) => self.record(id, *update, text, now),
            Effect::SetTimer(timer, after) => {
                ctx.run_later(after, move |actor, ctx| actor.feed(attempt, Input::Timer(timer), ctx));
            }
            Effect::Audit(entry) => self.audit(*entry),
            Effect::GapOpened { from, cause } if role == Role::Active => {
                self.journal.coverage_lost(from, cause, self.links.standby_open_since());
            }
            Effect::GapClosed if role == Role::Active => {
                self.journal.gap(GapStep::Closed { to: now.at });
            }
            Effect::GapOpened { .. } | Effect::GapClosed => {}
            Effect::Save => self.journal.save(),
            Effect::CountReconnect(cause) => {
                if role == Role::Active {
                    self.deps.status.socket_lost(self.assignment.source_id, cause);
                }
                self.deps.metrics.upstream_reconnects.of(cause.as_str()).inc();
            }
            Effect::CountMalformed(reason) => {
                self.deps.metrics.frames_rejected.of(reason.as_str()).inc();
            }
            Effect::CountUnreadableTimes(times) => self.deps.metrics.count_unreadable_times(times),
            Effect::CountRoundTrip(round_trip) => {
                self.deps.metrics.upstream_ping_seconds.observe(round_trip.as_secs_f64());
            }
            Effect::Probe => self.probe(attempt, ctx),
            Effect::Resync => self.catch_up(attempt, ctx),
            Effect::Rotate { cause } => self.begin_handover(id, cause, ctx),
            Effect::ShutDown(ids) => self.shut_down(attempt, ids, ctx),
            Effect::Finished => self.journal.save(),
        }
    }

    fn record(&mut self, id: LinkId, update: Update, text: String, now: Now) {
        let Some(change) = self.assignment.change(update, Origin::Live, text, now.at, &self.definitions)
        else {
            return;
        };
        let buffering = self.links.any_buffers();
        let Some(link) = self.links.get_mut(id) else { return };
        if let Some(buffer) = &mut link.handover_buffer {
            // Full: the database has been unavailable for long. The session ends, with a gap on record.
            link.queue_full = buffer.push(change).is_err();
            return;
        }
        let seen = buffering.then(|| change.clone());
        link.queue_full = self.deps.recorder.try_record(change).is_err();
        if let Some(seen) = seen.filter(|_| !link.queue_full) {
            self.links.saw(&seen);
        }
    }

    /// Writes an audit entry; keeps the bytes of a malformed frame only while the quarantine has room for
    /// them.
    fn audit(&mut self, entry: Entry) {
        let room = match entry.kept {
            Some(_) => self.deps.store.room_in_quarantine(self.assignment.source_id, entry.at),
            None => Room::Free,
        };
        if room == Room::Free {
            return self.journal.audit(entry);
        }
        self.deps.metrics.quarantine_withheld.inc();
        if room == Room::JustFull {
            let full =
                Entry::new(entry.at, Kind::FrameRejected).level(Level::Warn).data("reason", "too_many");
            self.journal.audit(full);
        }
    }

    /// Shows the figures of this moment.
    fn publish(&self) {
        let Some(active) = self.links.active() else { return };
        let latency = active.session.latency();
        self.deps.status.set_connection(
            self.assignment.connection_id,
            ConnectionMetrics {
                average_latency_ms: latency.average_ms(),
                stability_rate: latency.stability_rate(),
                samples: latency.samples(),
                attempt_count: active.session.attempts(),
                proven_at: proven_at(active),
                open: active.is_open(),
                agents: self.assignment.agents.list.len(),
            },
        );
    }

    /// Writes what is not written yet, one write at a time; the next takes all that has come since. Stops the
    /// actor when all links have ended and nothing is left to write.
    pub(super) fn write(&mut self, ctx: &mut Context<Self>) {
        let (store, recorder) = (self.deps.store.clone(), self.deps.recorder.clone());
        let write = self.to_record().and_then(|record| self.journal.next_write(store, recorder, record));
        let Some(write) = write else {
            if self.journal.is_settled() && self.links.all_ended() {
                ctx.stop();
            }
            return;
        };
        ctx.spawn(write.into_actor(self).map(|finished, actor, ctx| match actor.journal.finish(finished) {
            Ok(()) => actor.write(ctx),
            Err(error) => {
                tracing::warn!(
                    %error,
                    connection = %actor.assignment.connection_id,
                    "failed to write connection state; retrying in 1 s"
                );
                ctx.run_later(WRITE_AGAIN_AFTER, |actor, ctx| actor.write(ctx));
            }
        }));
    }

    /// The row as it should be now.
    fn to_record(&self) -> Option<ConnectionRecord> {
        let active = self.links.active()?;
        let session = &active.session;
        Some(ConnectionRecord {
            connection_id: self.assignment.connection_id,
            state: session.phase().state(),
            reason: session.reason().map(str::to_owned),
            attempts: session.attempts(),
            upstream_id: session.upstream_id().map(str::to_owned),
            stale: session.stale().iter().cloned().chain(self.links.upstream_ids_of_others()).collect(),
            opened_at: session.opened_at(),
            expires_at: session.expires_at(),
            proven_at: proven_at(active),
        })
    }
}

/// Last moment of proven coverage up to which every change was handed to the recorder.
fn proven_at(active: &Link) -> Option<OffsetDateTime> {
    let buffered_since = active.handover_buffer.as_ref().and_then(HandoverBuffer::oldest_at);
    buffered_since.or_else(|| active.session.proven_at())
}

impl Actor for ConnectionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(from) = self.assignment.proven_at {
            // Nobody watched until now, however the former process ended.
            self.journal.gap(GapStep::Opened { from, cause: GapCause::BridgeDown });
        }
        let first = self.assignment.ends_at_once.map_or(Input::Start, Input::Terminate);
        if let Some(attempt) = self.links.active().map(Link::attempt) {
            self.feed(attempt, first, ctx);
        }
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.deps.status.remove_connection(self.assignment.connection_id);
        self.deps.store.wake.connections_changed();
    }
}

impl StreamHandler<Arrival> for ConnectionActor {
    fn handle(&mut self, Arrival(attempt, incoming): Arrival, ctx: &mut Self::Context) {
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
            // Its session is over, but updates that were on their way when it was replaced still count.
            Input::Text(text, Frame::Update(update)) if self.links.is_draining(attempt.link) => {
                let now = Now { at: clock::now(), tick: Instant::now() };
                self.record(attempt.link, *update, text, now);
            }
            input => self.feed(attempt, input, ctx),
        }
    }

    /// The end of a socket is an arrival of its own; the actor lives on.
    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl Handler<WriteAgain> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, WriteAgain { lost_since }: WriteAgain, ctx: &mut Self::Context) {
        self.journal.save();
        if let Some(from) = lost_since {
            self.journal.gap(GapStep::Opened { from, cause: GapCause::Database });
        }
        if let Some(attempt) = self.links.open_active().map(Link::attempt) {
            if lost_since.is_some() {
                self.start_resync(attempt, self.assignment.agents.ids(), ctx);
            }
            // The row of a gap that is over may have gone back to where it was not.
            self.journal.gap(GapStep::Closed { to: clock::now() });
        }
        self.write(ctx);
    }
}

impl Handler<Terminate> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, Terminate(cause): Terminate, ctx: &mut Self::Context) {
        for (attempt, cause) in self.links.close_order(cause) {
            self.feed(attempt, Input::Terminate(cause), ctx);
        }
    }
}
