//! The links of a connection and their roles: who stands for it, who takes over, what ended links leave
//! behind.

use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;

use crate::actors::connection::handover_buffer::HandoverBuffer;
use crate::actors::connection::link::{AttemptRef, Link, LinkId, Role};
use crate::domain::presence::PresenceChange;
use crate::domain::presence::connection::{CloseCause, RotateCause};
use crate::genesys::session::{Phase, Session};

/// The links of a connection. One of them is active, always; at most one is on standby.
pub struct Links {
    all: Vec<Link>,
    /// Links made so far, which is the next one's id.
    made: LinkId,
}

/// The standby has become the active link.
#[derive(Debug, PartialEq, Eq)]
pub struct Promotion {
    pub promoted: LinkId,
    /// The former active link; it has to end.
    pub drained: AttemptRef,
    /// Upstream wants the promoted link replaced too.
    pub rotate_again: Option<RotateCause>,
}

impl Links {
    /// An active link that has not started.
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self { all: vec![Link::new(0, Role::Active, session)], made: 1 }
    }

    /// `None` if the link has ended.
    #[must_use]
    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.all.iter().find(|link| link.id == id)
    }

    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.all.iter_mut().find(|link| link.id == id)
    }

    #[must_use]
    pub fn active(&self) -> Option<&Link> {
        self.in_role(Role::Active)
    }

    /// The active link if its socket is open.
    #[must_use]
    pub fn open_active(&self) -> Option<&Link> {
        self.active().filter(|link| link.is_open())
    }

    #[must_use]
    pub fn standby(&self) -> Option<&Link> {
        self.in_role(Role::Standby)
    }

    pub fn standby_mut(&mut self) -> Option<&mut Link> {
        self.all.iter_mut().find(|link| link.role == Role::Standby)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.all.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.all.iter_mut()
    }

    fn in_role(&self, role: Role) -> Option<&Link> {
        self.all.iter().find(|link| link.role == role)
    }

    fn active_mut(&mut self) -> Option<&mut Link> {
        self.all.iter_mut().find(|link| link.role == Role::Active)
    }

    #[must_use]
    pub fn is_draining(&self, id: LinkId) -> bool {
        self.get(id).is_some_and(|link| link.role == Role::Draining)
    }

    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.all.iter().all(Link::has_ended)
    }

    /// Adds a link that is to take the active one's place.
    pub fn add_standby(
        &mut self,
        session: Session,
        slot: Option<OwnedSemaphorePermit>,
        urgent: bool,
    ) -> AttemptRef {
        let mut link = Link::new(self.made, Role::Standby, session);
        (link.slot, link.urgent) = (slot, urgent);
        self.made += 1;
        let attempt = link.attempt();
        self.all.push(link);
        attempt
    }

    /// Puts the standby in the active link's place, if there is one.
    pub fn promote_standby(&mut self) -> Option<Promotion> {
        let standby = self.standby_mut()?;
        let (promoted, slot, rotate_again) = (standby.id, standby.slot.take(), standby.rotate_again.take());
        let active = self.active_mut()?;
        active.role = Role::Draining;
        // There are two channels until this one is gone.
        active.slot = slot;
        let drained = active.attempt();
        self.get_mut(promoted)?.role = Role::Active;
        Some(Promotion { promoted, drained, rotate_again })
    }

    /// Whether the active link has lost its socket and connects again, which a standby need not wait for.
    #[must_use]
    pub fn active_reconnects(&self) -> bool {
        !self.active().is_some_and(|active| {
            matches!(active.session.phase(), Phase::Open | Phase::Closing(_) | Phase::Ended(_))
        })
    }

    /// Drops links that have ended; the active one deletes what they left upstream.
    pub fn drop_ended(&mut self) {
        let ended: Vec<Vec<String>> = self
            .all
            .extract_if(.., |link| link.role != Role::Active && link.has_ended())
            .map(|link| link.session.stale().to_vec())
            .collect();
        if let Some(active) = self.active_mut() {
            ended.iter().for_each(|leftovers| active.session.adopt(leftovers));
        }
    }

    /// Upstream ids of the links besides the active one, for the next process if this one is killed.
    pub fn upstream_ids_of_others(&self) -> impl Iterator<Item = String> {
        self.all.iter().filter(|link| link.role != Role::Active).flat_map(|link| {
            link.session.stale().iter().cloned().chain(link.session.upstream_id().map(str::to_owned))
        })
    }

    /// Since when the standby's socket is open; `None` unless it is.
    #[must_use]
    pub fn standby_open_since(&self) -> Option<OffsetDateTime> {
        self.standby().filter(|link| link.is_open())?.session.opened_at()
    }

    /// In which order to close all links, and why: the active one last, since another link that is open
    /// meanwhile covers its agents.
    #[must_use]
    pub fn close_order(&self, cause: CloseCause) -> Vec<(AttemptRef, CloseCause)> {
        let (active, others): (Vec<_>, Vec<_>) = self.all.iter().partition(|link| link.role == Role::Active);
        let others = others.into_iter().map(|link| (link.attempt(), CloseCause::Rotated));
        others.chain(active.into_iter().map(|link| (link.attempt(), cause))).collect()
    }

    /// Changes that the active link reported before it took over, until they are released.
    pub fn active_buffer(&mut self) -> Option<&mut HandoverBuffer> {
        self.active_mut()?.handover_buffer.as_mut()
    }

    /// From now on the active link's changes are recorded at once.
    pub fn drop_active_buffer(&mut self) {
        if let Some(active) = self.active_mut() {
            active.handover_buffer = None;
        }
    }

    #[must_use]
    pub fn any_buffers(&self) -> bool {
        self.all.iter().any(|link| link.handover_buffer.is_some())
    }

    /// A change was recorded: links that buffer drop their own report of it.
    pub fn saw(&mut self, change: &PresenceChange) {
        let buffers = self.all.iter_mut().filter_map(|link| link.handover_buffer.as_mut());
        buffers.for_each(|buffer| buffer.saw(change));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use time::macros::datetime;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::genesys::protocol::KeepaliveConfig;
    use crate::genesys::session::{Input, Now};

    fn session(leftovers: &[&str]) -> Session {
        let keepalive = KeepaliveConfig {
            silence: Duration::from_secs(35),
            ping_every: Duration::from_secs(17),
            ping_text: None,
            probe_every: None,
            resync: false,
        };
        Session::new(keepalive, leftovers.iter().map(|id| (*id).to_owned()).collect())
    }

    fn end(links: &mut Links, attempt: AttemptRef) {
        let now = Now { at: datetime!(2026-11-24 09:00 UTC), tick: Instant::now() };
        let session = &mut links.get_mut(attempt.link).unwrap().session;
        drop(session.on(attempt.epoch, Input::Terminate(CloseCause::Rotated), now, 0.0));
        drop(session.on(session.epoch(), Input::ShutDown, now, 0.0));
    }

    #[test]
    fn a_promotion_swaps_the_roles_and_keeps_the_slot_until_the_former_link_is_gone() {
        let mut links = Links::new(session(&[]));
        assert_eq!(links.promote_standby(), None);
        let slots = Arc::new(Semaphore::new(1));
        let slot = slots.clone().try_acquire_owned().ok();
        let standby = links.add_standby(session(&[]), slot, false);
        links.standby_mut().unwrap().rotate_again = Some(RotateCause::Maintenance);
        let former = links.active().unwrap().attempt();

        let promotion = links.promote_standby().unwrap();
        let rotate_again = Some(RotateCause::Maintenance);
        assert_eq!(promotion, Promotion { promoted: standby.link, drained: former, rotate_again });
        assert_eq!(links.active().unwrap().id, standby.link);
        assert!(links.is_draining(former.link) && links.standby().is_none());

        assert_eq!(slots.available_permits(), 0);
        end(&mut links, former);
        links.drop_ended();
        assert_eq!(slots.available_permits(), 1);
    }

    #[test]
    fn the_active_link_deletes_what_ended_links_left_upstream() {
        let mut links = Links::new(session(&["own"]));
        let standby = links.add_standby(session(&["left"]), None, false);
        assert_eq!(links.upstream_ids_of_others().collect::<Vec<_>>(), ["left"]);
        end(&mut links, standby);
        links.drop_ended();
        assert!(links.get(standby.link).is_none());
        assert_eq!(links.active().unwrap().session.stale(), ["own", "left"]);
        assert_eq!(links.upstream_ids_of_others().count(), 0);
    }

    #[test]
    fn an_active_link_that_ended_stays() {
        let mut links = Links::new(session(&[]));
        let active = links.active().unwrap().attempt();
        end(&mut links, active);
        links.drop_ended();
        assert!(links.all_ended() && links.active().is_some() && !links.active_reconnects());
    }

    #[test]
    fn the_active_link_is_closed_last_and_alone_with_the_cause() {
        let mut links = Links::new(session(&[]));
        let active = links.active().unwrap().attempt();
        let standby = links.add_standby(session(&[]), None, false);
        assert_eq!(
            links.close_order(CloseCause::Terminated),
            [(standby, CloseCause::Rotated), (active, CloseCause::Terminated)]
        );
    }

    #[test]
    fn only_a_standby_buffers() {
        let mut links = Links::new(session(&[]));
        assert!(!links.any_buffers());
        let _ = links.add_standby(session(&[]), None, true);
        assert!(links.any_buffers() && links.active_buffer().is_none());
        let _ = links.promote_standby();
        assert!(links.active_buffer().is_some());
        links.drop_active_buffer();
        assert!(!links.any_buffers());
    }
}
