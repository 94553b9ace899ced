//! Make before break: a connection gets a second socket before the first one ends, and drops the first one
//! only when the second one covers all agents.
//!
//! The standby link lives the whole life of a session: new token, new connection, topics, socket, resync.
//! Then it takes the active link's place. Its changes are buffered until then: the active link reports the
//! same, and may be behind, so that its report would come too late. The buffer is released when the active
//! link's socket has ended, with all that was on its way. If the active link dies earlier, the standby takes
//! over at once, as far as it has come; there is a gap then only if it is not open yet.
//!
//! If upstream has announced the end of the active link, there is no time to read states: both links report
//! everything for a while instead, and the active one proves that it did (docs/adr/0029). If it cannot,
//! states are read after all.

use std::time::Duration;

use actix::prelude::*;
use time::OffsetDateTime;

use crate::actors::connection::ConnectionActor;
use crate::actors::connection::handover_buffer::{HandoverBuffer, Released};
use crate::actors::connection::link::{AttemptRef, Link, LinkId, Role};
use crate::actors::connection::links::Promotion;
use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::presence::connection::{CloseCause, RotateCause};
use crate::genesys::protocol::{ErrorKind, Standing};
use crate::genesys::session::{Input, Phase};

/// How long both sockets report everything when no states are read: what was on its way to the active one
/// when the standby was subscribed must have arrived.
const OVERLAP: Duration = Duration::from_secs(2);
/// How often, and how far apart, an active link is checked for the sign of life that it was asked for.
const SIGNS_AWAITED: u32 = 50;
const SIGN_APART: Duration = Duration::from_millis(100);
/// Wait before a change that found no room in the queue is handed in again.
const ROOM_AGAIN: Duration = Duration::from_millis(200);

impl ConnectionActor {
    /// Starts a standby when there is a slot for another channel, unless one is on its way.
    pub(super) fn begin_handover(&mut self, id: LinkId, cause: RotateCause, ctx: &mut Context<Self>) {
        if let Some(standby) = self.links.get_mut(id).filter(|link| link.role == Role::Standby) {
            standby.rotate_again = Some(cause);
            return;
        }
        if self.links.standby().is_some() || self.awaits_slot {
            return;
        }
        let connection = self.assignment.connection_id;
        tracing::debug!(%connection, cause = cause.as_str(), "replacing a connection while it is open");
        self.awaits_slot = true;
        let slot = self.spare_slots.clone().acquire_owned();
        ctx.spawn(slot.into_actor(self).map(move |slot, actor, ctx| {
            actor.awaits_slot = false;
            let active = actor.links.open_active().filter(|active| active.id == id);
            let Some(session) = active.map(|active| active.session.successor()) else {
                return; // it has died meanwhile, and connects again
            };
            let urgent = cause == RotateCause::Maintenance;
            let standby = actor.links.add_standby(session, slot.ok(), urgent);
            actor.feed(standby, Input::Start, ctx);
        }));
    }

    /// A socket has opened: the present states are read, unless the active link can prove soon that it
    /// reports everything.
    pub(super) fn catch_up(&mut self, attempt: AttemptRef, ctx: &mut Context<Self>) {
        let covered = self.links.open_active().is_some();
        let Some(link) = self.links.get_mut(attempt.link) else { return };
        link.states_unread = covered && link.role == Role::Standby && link.urgent;
        if !link.states_unread {
            return self.start_resync(attempt, self.assignment.agents.ids(), ctx);
        }
        self.ask_for_sign_of_life(attempt, ctx);
        ctx.run_later(OVERLAP, move |actor, ctx| actor.end_overlap(attempt, ctx));
    }

    /// Both sockets have reported everything for a while.
    fn end_overlap(&mut self, attempt: AttemptRef, ctx: &mut Context<Self>) {
        let Some(standby) = self.links.get(attempt.link) else { return };
        let same_socket = standby.attempt() == attempt && standby.is_open();
        if !same_socket || standby.role != Role::Standby || standby.resync.is_some() {
            return; // it has ended, or took over and reads states, or hands over when it has read them
        }
        let answers = standby.session.proven_at() > standby.session.opened_at();
        if answers && self.active_reports_as_much(standby) {
            self.prove_and_hand_over(ctx);
        } else {
            self.read_after_all(ctx);
        }
    }

    fn ask_for_sign_of_life(&mut self, attempt: AttemptRef, ctx: &mut Context<Self>) {
        if let Some(ping) = self.upstream.keepalive(self.assignment.heartbeat).ping_text {
            self.send(attempt, |sender| sender.text(ping.to_owned()), ctx);
        }
    }

    /// Whether the active link listens to every agent that this link listens to.
    fn active_reports_as_much(&self, link: &Link) -> bool {
        self.links.active().is_some_and(|active| {
            let newcomers = link.subscribed.without(&active.subscribed);
            newcomers.is_empty() && active.rejected.is_subset(&link.rejected)
        })
    }

    /// Reads present states that were left unread in the hope of a proof.
    fn read_after_all(&mut self, ctx: &mut Context<Self>) {
        let agents = self.assignment.agents.ids();
        let unread = self.links.iter_mut().find(|link| link.states_unread && link.is_open());
        let Some(link) = unread else { return };
        link.states_unread = false;
        let attempt = link.attempt();
        self.start_resync(attempt, agents, ctx);
    }

    /// Hands over when the active link has proven that it received everything until now. Without that proof
    /// it missed updates for a while, and a gap says so: its channel may be gone, or its socket silent,
    /// without anybody having noticed yet.
    pub(super) fn prove_and_hand_over(&mut self, ctx: &mut Context<Self>) {
        let Some(attempt) = self.links.open_active().map(Link::attempt) else {
            return self.hand_over(ctx);
        };
        let Some(asked) = self.ask_standing(attempt) else { return self.hand_over(ctx) };
        let asked_at = clock::now();
        self.ask_for_sign_of_life(attempt, ctx);
        ctx.spawn(asked.into_actor(self).map(move |listens, actor, ctx| {
            let standing = actor.standing(attempt, listens);
            let missed_updates = match &standing {
                Ok(standing) => matches!(standing, Standing::Gone | Standing::Taken { .. }),
                Err(error) => error.kind == ErrorKind::Unauthorized,
            };
            let unread = actor.links.standby().is_some_and(|standby| standby.states_unread);
            if missed_updates {
                actor.feed(attempt, Input::Probed(standing), ctx); // which hands over
            } else if unread && !matches!(standing, Ok(Standing::Whole)) {
                actor.read_after_all(ctx);
            } else {
                actor.await_sign_of_life(attempt, asked_at, SIGNS_AWAITED, ctx);
            }
        }));
    }

    fn await_sign_of_life(
        &mut self,
        attempt: AttemptRef,
        asked_at: OffsetDateTime,
        tries: u32,
        ctx: &mut Context<Self>,
    ) {
        let Some(active) = self.links.get(attempt.link).filter(|link| link.role == Role::Active) else {
            return; // it has died meanwhile, and the standby took its place
        };
        let (open, phase) = (active.is_open(), active.session.phase());
        let proven = active.session.proven_at().is_some_and(|at| at >= asked_at);
        if matches!(phase, Phase::Closing(_) | Phase::Ended(_)) {
            return; // the whole connection ends
        }
        if open && self.links.standby_open_since().is_none() {
            return; // the standby is gone; the next one proves again
        }
        if proven && let Some(standby) = self.links.standby_mut() {
            standby.states_unread = false;
        }
        if !open || proven {
            self.hand_over(ctx);
        } else if tries == 0 {
            self.feed(attempt, Input::Unproven, ctx); // which hands over
        } else {
            ctx.run_later(SIGN_APART, move |actor, ctx| {
                actor.await_sign_of_life(attempt, asked_at, tries - 1, ctx);
            });
        }
    }

    /// After each input: the standby takes over if it must, and links that have ended are dropped.
    pub(super) fn settle_roles(&mut self, ctx: &mut Context<Self>) {
        if self.links.active_reconnects() {
            self.hand_over(ctx);
        }
        self.links.drop_ended();
    }

    /// Puts the standby in the active link's place.
    fn hand_over(&mut self, ctx: &mut Context<Self>) {
        let Some(Promotion { promoted, drained, rotate_again }) = self.links.promote_standby() else {
            return;
        };
        self.journal.audit(Entry::new(clock::now(), Kind::ChannelRotated));
        self.deps.status.socket_handed_over(self.assignment.source_id);
        self.feed(drained, Input::Terminate(CloseCause::Rotated), ctx);
        // If the former link died before it could prove that it reported everything.
        self.read_after_all(ctx);
        if let Some(cause) = rotate_again {
            self.begin_handover(promoted, cause, ctx);
        }
    }

    /// Records the changes that the active link has buffered, except those that the former one reported.
    pub(super) fn release_buffer(&mut self, ctx: &mut Context<Self>) {
        while let Some(released) = self.links.active_buffer().and_then(HandoverBuffer::release) {
            let Released::New(change) = released else {
                self.deps.metrics.states_dropped.of("handover").inc();
                continue;
            };
            if self.deps.recorder.try_record(change.as_ref().clone()).is_err() {
                // The rest waits behind it.
                if let Some(buffer) = self.links.active_buffer() {
                    buffer.put_back(*change);
                }
                ctx.run_later(ROOM_AGAIN, |actor, ctx| actor.release_buffer(ctx));
                return;
            }
            self.links.saw(&change);
        }
        self.links.drop_active_buffer();
    }
}
