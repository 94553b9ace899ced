//! Make before break: a connection gets a second socket before the first one ends, and drops the first only when the
//! second one sees.
//!
//! The second strand lives the whole life of a session: new token, new connection, topics, socket, resync. Then it takes
//! the first one's place. What it tells until then is held back: the first one tells the same, and may be behind, so that
//! its word would come too late. It is released when the first one's socket has ended, with all that was on its way. If the first one dies earlier, the second takes over at once, as far as it has come; there is a
//! gap then only if it is not open yet.

use std::time::Duration;

use actix::prelude::*;

use super::connection::{ConnectionActor, Place};
use super::strand::{Role, Strand, StrandId};
use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::genesys::session::{Ending, Input, Phase};
use crate::store::sight::GapStep;

/// Wait before a change that found no room in the queue is handed in again.
const ROOM_AGAIN: Duration = Duration::from_millis(200);

impl ConnectionActor {
    /// Starts a successor of the primary, unless there is one.
    pub(super) fn begin_handover(&mut self, id: StrandId, cause: &'static str, ctx: &mut Context<Self>) {
        if self.in_role(Role::Successor).is_some() {
            return;
        }
        let Some(primary) = self.strand(id).filter(|strand| strand.role == Role::Primary) else {
            return;
        };
        tracing::info!(cause, "a connection is being replaced while it lives");
        let session = primary.session.successor();
        let successor = self.strands_made;
        self.strands_made += 1;
        self.strands.push(Strand::new(successor, Role::Successor, session));
        self.feed(Place { strand: successor, epoch: 0 }, Input::Start, ctx);
    }

    /// Sight was lost on a strand: a gap begins if no other strand sees.
    pub(super) fn sight_lost(&mut self, role: Role, step: GapStep) {
        let covered = self.in_role(Role::Successor).is_some_and(Strand::is_open);
        if role == Role::Primary && !covered {
            self.journal.gap(step);
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
            .strands
            .extract_if(.., |strand| strand.role != Role::Primary && strand.has_ended())
            .map(|strand| strand.session.stale().to_vec())
            .collect();
        if let Some(primary) = self.strands.iter_mut().find(|strand| strand.role == Role::Primary) {
            // What could not be deleted is tried again by the one that goes on.
            ended.iter().for_each(|leftovers| primary.session.adopt(leftovers));
        }
    }

    /// Puts the successor in the primary's place.
    pub(super) fn hand_over(&mut self, ctx: &mut Context<Self>) {
        let Some(successor) = self.in_role(Role::Successor).map(|strand| strand.id) else {
            return;
        };
        let mut retired = None;
        for strand in &mut self.strands {
            if strand.role == Role::Primary {
                strand.role = Role::Retiring;
                retired = Some(Place { strand: strand.id, epoch: strand.session.epoch() });
            } else if strand.id == successor {
                strand.role = Role::Primary;
            }
        }
        self.journal.tell(Entry::new(clock::now(), Kind::ChannelRotated));
        if let Some(retired) = retired {
            self.feed(retired, Input::Terminate(Ending::Rotated), ctx);
        }
    }

    /// Whether a strand's place was taken.
    pub(super) fn is_retiring(&self, id: StrandId) -> bool {
        self.strands.iter().any(|strand| strand.id == id && strand.role == Role::Retiring)
    }

    /// Hands on what the primary has held back.
    pub(super) fn release(&mut self, ctx: &mut Context<Self>) {
        let recorder = self.deps.recorder.clone();
        let primary = self.strands.iter_mut().find(|strand| strand.role == Role::Primary);
        let Some(held_back) = primary.and_then(|primary| primary.held_back.as_mut()) else {
            return;
        };
        while let Some(change) = held_back.front() {
            if recorder.try_record(change.clone()).is_err() {
                ctx.run_later(ROOM_AGAIN, |actor, ctx| actor.release(ctx));
                return;
            }
            held_back.pop_front();
        }
        if let Some(primary) = self.strands.iter_mut().find(|strand| strand.role == Role::Primary) {
            primary.held_back = None;
        }
    }
}
