//! Holds one socket: carries out what the session decides, and tells it what came of it.
//!
//! Decisions are in `genesys::session` (pure); here are the socket, the timers, the calls and the order of writes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::stream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::assignment::Assignment;
use super::deletions::{delete, delete_at_the_end};
use super::journal::Journal;
use super::token::{Held, Tokens};
use crate::clock;
use crate::genesys::protocol::{Provisioned, Update, Upstream, Wanted};
use crate::genesys::session::{Effect, Ending, Input, Now, Phase, Session, TokenSerial};
use crate::genesys::socket::{Closed, Incoming, Socket, Speaker};
use crate::metrics::{Metrics, ReasonLabels};
use crate::random;
use crate::status::{ConnectionMetrics, Status};
use crate::store::Store;
use crate::store::recorder::Recorder;
use crate::store::upstream::{ConnectionState, GapStep};

/// A socket that we asked to close ends within this, or is left.
const SOCKET_ENDS_WITHIN: Duration = Duration::from_secs(3);
/// Deletions at the end take at most this long; what is left is deleted by the next process.
const DELETIONS_WITHIN: Duration = Duration::from_secs(3);
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
pub struct Terminate(pub Ending);

/// One thing that arrived on a socket of an epoch.
struct Arrival(u64, Incoming);

/// A socket that is open.
struct OpenSocket {
    speaker: Speaker,
    reader: SpawnHandle,
    /// Resolves when the reader has let go of the socket.
    ended: oneshot::Receiver<()>,
}

/// The actor of one connection.
pub struct ConnectionActor {
    deps: Deps,
    assignment: Assignment,
    upstream: Rc<dyn Upstream>,
    tokens: Tokens,
    session: Session,
    token: Option<Held>,
    socket: Option<OpenSocket>,
    /// The update just handled could not be handed on.
    queue_full: bool,
    /// What is not yet written down.
    journal: Journal,
    /// The session is over; the actor ends when everything is written down.
    finished: bool,
}

impl ConnectionActor {
    /// An actor that starts to connect when it is started.
    #[must_use]
    pub fn new(deps: Deps, assignment: Assignment, upstream: Rc<dyn Upstream>, tokens: Tokens) -> Self {
        let session = Session::new(assignment.heartbeat, assignment.leftovers.clone());
        let journal = Journal::new(assignment.watcher());
        Self {
            deps,
            assignment,
            upstream,
            tokens,
            session,
            token: None,
            socket: None,
            queue_full: false,
            journal,
            finished: false,
        }
    }

    /// Tells the session what happened in an epoch, and does what it decides.
    fn feed(&mut self, epoch: u64, input: Input, ctx: &mut Context<Self>) {
        let now = Now { at: clock::now(), tick: Instant::now() };
        let before = self.session.phase();
        let effects = self.session.on(epoch, input, now, random::unit());
        for effect in effects {
            self.carry_out(effect, now, ctx);
        }
        if std::mem::take(&mut self.queue_full) {
            // Before another frame is handled: that one's moment would pass for the last one with sight.
            let full = self.session.on(epoch, Input::QueueFull, now, random::unit());
            for effect in full {
                self.carry_out(effect, now, ctx);
            }
        }
        let after = self.session.phase();
        if (before == Phase::Open) != (after == Phase::Open) {
            if after == Phase::Open {
                self.deps.metrics.upstream_connected.inc();
            } else {
                self.deps.metrics.upstream_connected.dec();
            }
        }
        self.publish();
        self.write(ctx);
    }

    fn carry_out(&mut self, effect: Effect, now: Now, ctx: &mut Context<Self>) {
        match effect {
            Effect::GetToken { instead_of } => self.get_token(instead_of, ctx),
            Effect::Verify => self.call(ctx, |upstream, token| async move {
                Input::Verified(upstream.verify(&token.secret).await)
            }),
            Effect::List => {
                self.call(
                    ctx,
                    |upstream, token| async move { Input::Listed(upstream.list(&token.secret).await) },
                );
            }
            Effect::Delete(ids) => self.call(ctx, |upstream, token| async move {
                Input::Deleted(delete(&*upstream, &token, ids).await)
            }),
            Effect::Provision => {
                let wanted = Wanted {
                    agent_id: self.assignment.agent_id.0.clone(),
                    topics: self.assignment.topics.clone(),
                    heartbeat_interval: self.assignment.heartbeat,
                };
                self.call(ctx, |upstream, token| async move {
                    Input::Provisioned(upstream.provision(&token.secret, &wanted).await)
                });
            }
            Effect::Dial(provisioned) => self.dial(provisioned, ctx),
            Effect::Say(text) => self.speak(|speaker| speaker.text(text), ctx),
            Effect::Ping(payload) => self.speak(|speaker| speaker.ping(payload), ctx),
            Effect::Close(code, reason) => {
                if let Some(socket) = &self.socket {
                    socket.speaker.close(code, reason);
                }
            }
            Effect::Drop => self.drop_socket(ctx),
            Effect::Record(update, text) => self.record(update, text, now),
            Effect::SetTimer(timer, after) => {
                let epoch = self.session.epoch();
                ctx.run_later(after, move |actor, ctx| actor.feed(epoch, Input::Timer(timer), ctx));
            }
            Effect::Audit(entry) => self.journal.tell(*entry),
            Effect::GapOpened { from, cause } => self.journal.gap(GapStep::Opened { from, cause }),
            Effect::GapClosed => self.journal.gap(GapStep::Closed { to: now.at }),
            Effect::Save => self.journal.save(),
            Effect::CountReconnect(reason) => {
                self.deps.metrics.upstream_reconnects.get_or_create(&ReasonLabels { reason }).inc();
            }
            Effect::CountOdd(reason) => {
                self.deps.metrics.frames_rejected.get_or_create(&ReasonLabels { reason }).inc();
            }
            Effect::CountRoundTrip(round_trip) => {
                self.deps.metrics.upstream_ping_seconds.observe(round_trip.as_secs_f64());
            }
            Effect::ShutDown(ids) => self.shut_down(ids, ctx),
            Effect::Finished => {
                self.finished = true;
                self.journal.save();
            }
        }
    }

    fn get_token(&self, instead_of: Option<TokenSerial>, ctx: &mut Context<Self>) {
        let epoch = self.session.epoch();
        let tokens = self.tokens.clone();
        let asked = async move { tokens.get(instead_of).await };
        ctx.spawn(asked.into_actor(self).map(move |answer, actor, ctx| {
            let input = match answer {
                Ok(held) => {
                    let serial = held.serial;
                    actor.token = Some(held);
                    Input::Token(Ok(serial))
                }
                Err(error) => Input::Token(Err(error)),
            };
            actor.feed(epoch, input, ctx);
        }));
    }

    /// Makes a call with the present token and feeds what comes of it.
    fn call<F, Fut>(&self, ctx: &mut Context<Self>, step: F)
    where
        F: FnOnce(Rc<dyn Upstream>, Held) -> Fut,
        Fut: Future<Output = Input> + 'static,
    {
        let epoch = self.session.epoch();
        let Some(token) = self.token.clone() else {
            return; // not reached: the session asks for a token before anything else
        };
        let step = step(self.upstream.clone(), token);
        ctx.spawn(step.into_actor(self).map(move |input, actor, ctx| actor.feed(epoch, input, ctx)));
    }

    fn dial(&self, provisioned: Provisioned, ctx: &mut Context<Self>) {
        let (epoch, upstream) = (self.session.epoch(), self.upstream.clone());
        let dialled = async move { upstream.dial(&provisioned).await };
        ctx.spawn(dialled.into_actor(self).map(move |answer, actor, ctx| {
            let input = match answer {
                // A socket that comes too late is dropped here, which closes it.
                Ok(socket) if epoch == actor.session.epoch() => {
                    actor.take_socket(epoch, socket, ctx);
                    Ok(())
                }
                Ok(_) => return,
                Err(error) => Err(error),
            };
            actor.feed(epoch, Input::Dialled(input), ctx);
        }));
    }

    fn take_socket(&mut self, epoch: u64, socket: Socket, ctx: &mut Context<Self>) {
        self.drop_socket(ctx);
        let speaker = socket.speaker();
        let (guard, ended) = oneshot::channel::<()>();
        let arrivals = stream::unfold((socket, guard), move |(mut socket, guard)| async move {
            let incoming = socket.next().await?;
            Some((Arrival(epoch, incoming), (socket, guard)))
        });
        let reader = ctx.add_stream(arrivals);
        self.socket = Some(OpenSocket { speaker, reader, ended });
    }

    fn drop_socket(&mut self, ctx: &mut Context<Self>) {
        if let Some(socket) = self.socket.take() {
            ctx.cancel_future(socket.reader);
        }
    }

    /// A peer that does not read what we say is as good as dead.
    fn speak(&mut self, say: impl FnOnce(&Speaker) -> bool, ctx: &mut Context<Self>) {
        if let Some(socket) = &self.socket
            && !say(&socket.speaker)
        {
            self.drop_socket(ctx);
            let epoch = self.session.epoch();
            let closed = Input::Closed(Closed::broken("the peer does not read"));
            self.feed_later(epoch, closed, ctx);
        }
    }

    fn record(&mut self, update: Update, text: String, now: Now) {
        let change = self.assignment.change(update, text, now.at);
        self.queue_full = self.deps.recorder.try_record(change).is_err();
    }

    /// Feeds an input once the present decision is carried out.
    fn feed_later(&self, epoch: u64, input: Input, ctx: &mut Context<Self>) {
        let later = std::future::ready(input).into_actor(self);
        ctx.spawn(later.map(move |input, actor, ctx| actor.feed(epoch, input, ctx)));
    }

    /// Ends the socket, deletes what we have upstream, and reports it.
    fn shut_down(&mut self, ids: Vec<String>, ctx: &mut Context<Self>) {
        let epoch = self.session.epoch();
        let (upstream, tokens) = (self.upstream.clone(), self.tokens.clone());
        let ended = self.socket.take().map(|socket| socket.ended);
        let gone = async move {
            if let Some(ended) = ended {
                let _ = timeout(SOCKET_ENDS_WITHIN, ended).await;
            }
            if ids.is_empty() {
                return Vec::new();
            }
            let deleting = delete_at_the_end(&*upstream, &tokens, ids);
            timeout(DELETIONS_WITHIN, deleting).await.unwrap_or_default()
        };
        ctx.spawn(gone.into_actor(self).map(move |results, actor, ctx| {
            actor.feed(epoch, Input::Deleted(results), ctx);
            actor.feed(epoch, Input::ShutDown, ctx);
        }));
    }

    /// Shows the figures of this moment.
    fn publish(&self) {
        let latency = self.session.latency();
        self.deps.status.set_connection(
            self.assignment.connection_id,
            ConnectionMetrics {
                average_latency_ms: latency.average_ms(),
                stability_rate: latency.stability_rate(),
                samples: latency.samples(),
                attempt_count: self.session.attempts(),
                proven_at: self.session.proven_at(),
            },
        );
    }

    /// Writes down what is not written yet, one write at a time; the next takes all that has come since.
    fn write(&mut self, ctx: &mut Context<Self>) {
        let (store, recorder) = (self.deps.store.clone(), self.deps.recorder.clone());
        let Some(write) = self.journal.next_write(store, recorder, self.state()) else {
            if self.finished && self.journal.is_settled() {
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

    fn state(&self) -> ConnectionState {
        ConnectionState {
            connection_id: self.assignment.connection_id,
            state: self.session.phase().as_str(),
            reason: self.session.reason().map(str::to_owned),
            attempts: self.session.attempts(),
            upstream_id: self.session.upstream_id().map(str::to_owned),
            stale: self.session.stale().to_vec(),
            opened_at: self.session.opened_at(),
            proven_at: self.session.proven_at(),
        }
    }
}

impl Actor for ConnectionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(from) = self.assignment.proven_at {
            // Until now nobody looked: a former process ended, however it did.
            self.journal.gap(GapStep::Opened { from, cause: "bridge_down" });
        }
        let first = self.assignment.ends_at_once.map_or(Input::Start, Input::Terminate);
        self.feed(0, first, ctx);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.deps.status.remove_connection(self.assignment.connection_id);
        self.deps.store.wake.connections_changed();
    }
}

impl Drop for ConnectionActor {
    /// A panic skips `stopped`; the gauge must not count a socket that is gone.
    fn drop(&mut self) {
        if self.session.phase() == Phase::Open {
            self.deps.metrics.upstream_connected.dec();
        }
    }
}

impl StreamHandler<Arrival> for ConnectionActor {
    fn handle(&mut self, Arrival(epoch, incoming): Arrival, ctx: &mut Self::Context) {
        let input = match incoming {
            Incoming::Text(text) => {
                let frame = self.upstream.read(&text);
                Input::Text(text, frame)
            }
            Incoming::Binary(bytes) => Input::Binary(bytes),
            Incoming::Ping => Input::Pinged,
            Incoming::Pong(payload) => Input::Ponged(payload),
            Incoming::Closed(closed) => Input::Closed(closed),
        };
        self.feed(epoch, input, ctx);
    }

    /// The end of a socket is an arrival of its own; the actor lives on.
    fn finished(&mut self, _ctx: &mut Self::Context) {}
}

impl Handler<Terminate> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, Terminate(ending): Terminate, ctx: &mut Self::Context) {
        let epoch = self.session.epoch();
        self.feed(epoch, Input::Terminate(ending), ctx);
    }
}
