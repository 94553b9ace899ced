//! Make before break: a connection gets a second socket before the first one ends, and drops the first only when the
//! second one sees.
//!
//! The second strand lives the whole life of a session: new token, new connection, topics, socket, resync. Then it takes
//! the first one's place. What it tells until then is held back: the first one tells the same, and may be behind, so that
//! its word would come too late. It is released when the first one's socket has ended, with all that was on its way. If the
//! first one dies earlier, the second takes over at once, as far as it has come; there is a gap then only if it is not open
//! yet.
//!
//! If the first one's end was announced there is no time to read states: both tell everything for a while instead, and the
//! first one proves that it did (docs/adr/0029). If it cannot, they are read after all.

use std::time::Duration;

use actix::prelude::*;
use time::OffsetDateTime;

use crate::actors::connection::handover_buffer::{HandoverBuffer, Released};
use crate::actors::connection::link::{Link, LinkId, Role};
use crate::actors::connection::{ConnectionActor, Place};
use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::presence::PresenceChange;
use crate::domain::presence::connection::{CloseCause, GapCause, RotateCause};
use crate::genesys::protocol::{ErrorKind, Standing};
use crate::genesys::session::{Input, Phase};
use crate::metrics::ReasonLabels;
use crate::store::sources::gap_tracking::GapStep;

/// How long both sockets tell everything when no states are read: what was on its way to the first one when the second one
/// was subscribed must have arrived.
const OVERLAP: Duration = Duration::from_secs(2);
/// How often, and how far apart, a primary is looked at for the sign of life that it was asked for.
const SIGNS_AWAITED: u32 = 50;
const SIGN_APART: Duration = Duration::from_millis(100);
/// Wait before a change that found no room in the queue is handed in again.
const ROOM_AGAIN: Duration = Duration::from_millis(200);

impl ConnectionActor {
    /// Starts a successor of the primary when there is room for another channel, unless one is on its way.
    pub(super) fn begin_handover(&mut self, id: LinkId, cause: RotateCause, ctx: &mut Context<Self>) {
        if let Some(successor) = self.link(id).filter(|link| link.role == Role::Successor) {
            successor.wants_successor = Some(cause);
            return;
        }
        if self.in_role(Role::Successor).is_some() || self.waits_for_room {
            return;
        }
        tracing::info!(cause = cause.as_str(), "a connection is to be replaced while it lives");
        self.waits_for_room = true;
        let room = self.spare.clone().acquire_owned();
        ctx.spawn(room.into_actor(self).map(move |room, actor, ctx| {
            actor.waits_for_room = false;
            let primary = actor.link(id).filter(|link| link.role == Role::Primary && link.is_open());
            let Some(session) = primary.map(|primary| primary.session.successor()) else {
                return; // it has died meanwhile, and connects anew
            };
            let successor = actor.strands_made;
            actor.strands_made += 1;
            let mut link = Link::new(successor, Role::Successor, session);
            link.room = room.ok();
            link.in_a_hurry = cause == RotateCause::Maintenance;
            actor.links.push(link);
            actor.feed(Place { link: successor, epoch: 0 }, Input::Start, ctx);
        }));
    }

    /// Coverage was lost on a strand: a gap begins if no other strand sees, and is over already if one has seen since.
    pub(super) fn coverage_lost(&mut self, role: Role, from: OffsetDateTime, cause: GapCause) {
        if role != Role::Primary {
            return;
        }
        let other = self.in_role(Role::Successor).filter(|link| link.is_open());
        match other.and_then(|link| link.session.opened_at()) {
            None => self.journal.gap(GapStep::Opened { from, cause }),
            Some(to) if from < to => {
                self.journal.gap(GapStep::Opened { from, cause });
                self.journal.gap(GapStep::Closed { to });
            }
            Some(_) => {}
        }
    }

    /// A socket has opened: the present states are read, unless the primary can prove soon that it tells everything.
    pub(super) fn catch_up(&mut self, place: Place, ctx: &mut Context<Self>) {
        let covered = self.in_role(Role::Primary).is_some_and(Link::is_open);
        let Some(link) = self.link(place.link) else { return };
        link.unread = covered && link.role == Role::Successor && link.in_a_hurry;
        if !link.unread {
            return self.start_resync(place, self.assignment.agents.ids(), ctx);
        }
        if let Some(ping) = self.upstream.keepalive(self.assignment.heartbeat).ping_text {
            self.speak(place, |sender| sender.text(ping.to_owned()), ctx);
        }
        ctx.run_later(OVERLAP, move |actor, ctx| {
            let Some(successor) = actor.link(place.link) else { return };
            let goes_on = successor.session.epoch() == place.epoch && successor.is_open();
            let answers = successor.session.proven_at() > successor.session.opened_at();
            if !goes_on || successor.role != Role::Successor || successor.resync.is_some() {
                return; // it has come to an end, or has taken over and reads, or will hand over when it has read
            }
            if answers && actor.primary_tells_as_much(place.link) {
                actor.prove_and_hand_over(ctx);
            } else {
                actor.read_after_all(ctx);
            }
        });
    }

    /// Whether the primary listens to everybody that this strand listens to.
    fn primary_tells_as_much(&self, id: LinkId) -> bool {
        let link = self.links.iter().find(|link| link.id == id);
        link.zip(self.in_role(Role::Primary)).is_some_and(|(link, primary)| {
            let newcomers = link.subscribed.without(&primary.subscribed);
            newcomers.is_empty() && primary.rejected.is_subset(&link.rejected)
        })
    }

    /// Reads what nobody has read although it would have been needed.
    fn read_after_all(&mut self, ctx: &mut Context<Self>) {
        let agents = self.assignment.agents.ids();
        let Some(link) = self.links.iter_mut().find(|link| link.unread && link.is_open()) else {
            return;
        };
        link.unread = false;
        let place = Place { link: link.id, epoch: link.session.epoch() };
        self.start_resync(place, agents, ctx);
    }

    /// Hands over when the primary has proven that it saw until now. If it has not, it was blind for a while, and that is
    /// told: its channel may be gone, or its socket silent, without having been noticed yet.
    pub(super) fn prove_and_hand_over(&mut self, ctx: &mut Context<Self>) {
        let Some(primary) = self.in_role(Role::Primary).filter(|primary| primary.is_open()) else {
            return self.hand_over(ctx);
        };
        let place = Place { link: primary.id, epoch: primary.session.epoch() };
        let Some(asked) = self.ask_standing(place) else { return self.hand_over(ctx) };
        let asked_at = clock::now();
        if let Some(ping) = self.upstream.keepalive(self.assignment.heartbeat).ping_text {
            self.speak(place, |sender| sender.text(ping.to_owned()), ctx);
        }
        ctx.spawn(asked.into_actor(self).map(move |listens, actor, ctx| {
            let standing = actor.standing(place, listens);
            let blind = match &standing {
                Ok(standing) => matches!(standing, Standing::Gone | Standing::Taken { .. }),
                Err(error) => error.kind == ErrorKind::Unauthorized,
            };
            let unread = actor.in_role(Role::Successor).is_some_and(|successor| successor.unread);
            if blind {
                actor.feed(place, Input::Probed(standing), ctx); // which hands over
            } else if unread && !matches!(standing, Ok(Standing::Whole)) {
                actor.read_after_all(ctx);
            } else {
                actor.await_sign_of_life(place, asked_at, SIGNS_AWAITED, ctx);
            }
        }));
    }

    fn await_sign_of_life(
        &mut self,
        place: Place,
        asked_at: OffsetDateTime,
        tries: u32,
        ctx: &mut Context<Self>,
    ) {
        let Some(primary) = self.link(place.link).filter(|link| link.role == Role::Primary) else {
            return; // it has died meanwhile, and its place is taken
        };
        let (lives, phase) = (primary.is_open(), primary.session.phase());
        let proven = primary.session.proven_at().is_some_and(|at| at >= asked_at);
        if matches!(phase, Phase::Closing(_) | Phase::Ended(_)) {
            return; // all of it ends
        }
        if lives && !self.in_role(Role::Successor).is_some_and(Link::is_open) {
            return; // there is nobody to hand over to any more; the next one proves anew
        }
        if proven && let Some(successor) = self.links.iter_mut().find(|s| s.role == Role::Successor) {
            successor.unread = false;
        }
        if !lives || proven {
            self.hand_over(ctx);
        } else if tries == 0 {
            self.feed(place, Input::Unproven, ctx); // which hands over
        } else {
            ctx.run_later(SIGN_APART, move |actor, ctx| {
                actor.await_sign_of_life(place, asked_at, tries - 1, ctx);
            });
        }
    }

    /// After anything that happened: the successor takes over if it must or can, and who has ended is let go.
    pub(super) fn settle_roles(&mut self, ctx: &mut Context<Self>) {
        let primary_lives = self.in_role(Role::Primary).is_some_and(|primary| {
            matches!(primary.session.phase(), Phase::Open | Phase::Closing(_) | Phase::Ended(_))
        });
        if !primary_lives {
            self.hand_over(ctx);
        }
        let ended: Vec<Vec<String>> = self
            .links
            .extract_if(.., |link| link.role != Role::Primary && link.has_ended())
            .map(|link| link.session.stale().to_vec())
            .collect();
        if let Some(primary) = self.links.iter_mut().find(|link| link.role == Role::Primary) {
            // What could not be deleted is tried again by the one that goes on.
            ended.iter().for_each(|leftovers| primary.session.adopt(leftovers));
        }
    }

    /// Puts the successor in the primary's place.
    pub(super) fn hand_over(&mut self, ctx: &mut Context<Self>) {
        let Some(successor) = self.in_role(Role::Successor).map(|link| link.id) else {
            return;
        };
        let mut retired = None;
        let (mut room, wants_successor) =
            self.link(successor).map_or((None, None), |link| (link.room.take(), link.wants_successor.take()));
        for link in &mut self.links {
            if link.role == Role::Primary {
                link.role = Role::Retiring;
                // There are two channels until this one is gone.
                link.room = room.take();
                retired = Some(Place { link: link.id, epoch: link.session.epoch() });
            } else if link.id == successor {
                link.role = Role::Primary;
            }
        }
        self.journal.tell(Entry::new(clock::now(), Kind::ChannelRotated));
        if let Some(retired) = retired {
            self.feed(retired, Input::Terminate(CloseCause::Rotated), ctx);
        }
        // The former primary died before it could prove that it told everything.
        self.read_after_all(ctx);
        if let Some(cause) = wants_successor {
            self.begin_handover(successor, cause, ctx);
        }
    }

    /// Whether a strand's place was taken.
    pub(super) fn is_retiring(&self, id: LinkId) -> bool {
        self.links.iter().any(|link| link.id == id && link.role == Role::Retiring)
    }

    /// Records what the primary has buffered, as far as the link that it replaced has not reported it.
    pub(super) fn release(&mut self, ctx: &mut Context<Self>) {
        while let Some(released) = self.primary_buffer().and_then(HandoverBuffer::release) {
            let Released::New(change) = released else {
                let seen_twice = ReasonLabels { reason: "handover" };
                self.deps.metrics.states_dropped.get_or_create(&seen_twice).inc();
                continue;
            };
            if self.deps.recorder.try_record(change.clone()).is_err() {
                // The rest waits behind it.
                if let Some(buffer) = self.primary_buffer() {
                    buffer.put_back(change);
                }
                ctx.run_later(ROOM_AGAIN, |actor, ctx| actor.release(ctx));
                return;
            }
            self.saw(&change);
        }
        if let Some(primary) = self.primary() {
            primary.handover_buffer = None;
        }
    }

    /// A change was recorded: every link that buffers drops its own report of it.
    pub(super) fn saw(&mut self, change: &PresenceChange) {
        let buffers = self.links.iter_mut().filter_map(|link| link.handover_buffer.as_mut());
        buffers.for_each(|buffer| buffer.saw(change));
    }

    fn primary(&mut self) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.role == Role::Primary)
    }

    fn primary_buffer(&mut self) -> Option<&mut HandoverBuffer> {
        self.primary()?.handover_buffer.as_mut()
    }
}
