//! How one webhook's receiver does, as this process sees it: its circuit, the places that its POSTs may take,
//! and whether its owner knows that it fails.

use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::delivery::circuit::{Circuit, OPENS_AFTER};
use crate::domain::delivery::slots::{self, Risk, SLOW_AFTER, WINDOW_FIRST, WINDOW_UNPROVEN};

/// How the receiver of one webhook does.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Failures in a row, and the hold that they lead to.
    pub circuit: Circuit,
    /// Its present address has accepted a POST.
    is_proven: bool,
    /// Places that it may have: one more with each POST that it accepts, half as many after a failure.
    window: usize,
    /// A notice that it fails was sent, and none that it recovered.
    noticed: bool,
}

/// What an accepted POST changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its circuit is another one, or it is proven from now on.
    pub changed: bool,
    /// Its circuit was open.
    pub was_failing: bool,
    /// A notice that it fails was sent before.
    pub was_noticed: bool,
}

impl Receiver {
    /// A receiver of which nothing else is known.
    #[must_use]
    pub fn new(is_proven: bool) -> Self {
        let window = if is_proven { WINDOW_FIRST } else { WINDOW_UNPROVEN };
        Self { circuit: Circuit::default(), is_proven, window, noticed: false }
    }

    /// Whether its present address has accepted a POST.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Takes over what was read about it, besides its circuit; `same_address`: what was known before is of
    /// this address.
    pub fn on_read(&mut self, is_proven: bool, noticed: bool, same_address: bool) {
        self.noticed |= noticed;
        // Its first success may not be written yet.
        self.is_proven = is_proven || (self.is_proven && same_address);
    }

    /// It accepted a POST.
    pub fn accept(&mut self) -> Accepted {
        let was_failing = self.is_failing();
        let is_first = !std::mem::replace(&mut self.is_proven, true);
        self.window = self.window.saturating_add(1).clamp(WINDOW_FIRST, slots::ALL);
        let changed = self.circuit.succeed() || is_first;
        Accepted { changed, was_failing, was_noticed: std::mem::take(&mut self.noticed) }
    }

    /// A POST failed at `now`; `rest` is how long the receiver asked to be left alone. Says whether a hold
    /// began that its owner is to be told of: with each one, so that the notice is sent at last even if the
    /// database was unavailable.
    pub fn fail(&mut self, now: OffsetDateTime, rest: Option<Duration>, jitter: f64) -> bool {
        let hold_before = self.circuit.hold_until;
        let least = if self.is_proven { WINDOW_FIRST } else { WINDOW_UNPROVEN };
        self.window = (self.window / 2).max(least);
        self.circuit.fail(now, rest, jitter);
        let begins_hold = self.is_failing() && self.circuit.hold_until != hold_before;
        self.noticed |= begins_hold;
        begins_hold
    }

    /// Whether its circuit is open, or is being tried.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.circuit.failures >= OPENS_AFTER
    }

    /// Places that it may have, by what it accepted so far.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// How likely it is that it keeps its places for long; `oldest_post` is how long its oldest POST has been
    /// under way.
    #[must_use]
    pub fn risk(&self, oldest_post: Option<Duration>) -> Risk {
        if !self.is_proven {
            Risk::Unproven
        } else if self.circuit.failures > 0 || oldest_post.is_some_and(|age| age > SLOW_AFTER) {
            Risk::Suspect
        } else {
            Risk::Low
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 15:00:00 UTC);

    #[test]
    fn the_window_grows_with_each_success_and_halves_with_each_failure() {
        let mut receiver = Receiver::new(false);
        assert_eq!(receiver.window(), WINDOW_UNPROVEN);
        for _ in 0..9 {
            receiver.accept();
        }
        assert_eq!(receiver.window(), WINDOW_FIRST + 8);
        receiver.fail(NOW, None, 0.0);
        assert_eq!(receiver.window(), (WINDOW_FIRST + 8) / 2);
        receiver.fail(NOW, None, 0.0);
        assert_eq!(receiver.window(), WINDOW_FIRST, "a proven one keeps what it began with");
    }

    #[test]
    fn only_the_first_success_and_those_after_a_failure_change_anything() {
        let mut receiver = Receiver::new(false);
        let accepted = |changed| Accepted { changed, was_failing: false, was_noticed: false };
        assert_eq!(receiver.accept(), accepted(true), "it is proven now");
        assert_eq!(receiver.accept(), accepted(false));
        receiver.fail(NOW, None, 0.0);
        assert_eq!(receiver.accept(), accepted(true));
    }

    #[test]
    fn its_owner_is_told_of_each_hold_and_once_of_its_end() {
        let mut receiver = Receiver::new(true);
        let told: Vec<_> = (0..OPENS_AFTER + 2).map(|_| receiver.fail(NOW, None, 0.0)).collect();
        assert_eq!(
            told,
            [false, false, false, false, true, false, false],
            "one hold, whatever was under way"
        );
        let after = receiver.circuit.hold_until.unwrap_or(NOW);
        assert!(receiver.fail(after, None, 0.0), "the try after it failed: the next hold");
        assert_eq!(receiver.accept(), Accepted { changed: true, was_failing: true, was_noticed: true });
        assert!(!receiver.accept().was_noticed);
    }

    #[test]
    fn an_address_that_is_new_must_prove_itself_again() {
        let mut receiver = Receiver::new(false);
        receiver.accept();
        receiver.on_read(false, false, true);
        assert!(receiver.is_proven(), "its success is not written yet");
        receiver.on_read(false, false, false);
        assert!(!receiver.is_proven());
        assert_eq!(receiver.risk(None), Risk::Unproven);
    }

    #[test]
    fn who_fails_or_answers_late_is_suspect() {
        let mut receiver = Receiver::new(true);
        assert_eq!(receiver.risk(Some(SLOW_AFTER)), Risk::Low);
        assert_eq!(receiver.risk(Some(SLOW_AFTER + Duration::from_millis(1))), Risk::Suspect);
        receiver.fail(NOW, None, 0.0);
        assert_eq!(receiver.risk(None), Risk::Suspect);
    }
}
