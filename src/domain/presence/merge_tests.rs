#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use time::Duration;

use super::*;
use crate::domain::presence::agent_state::PresencePart;
use crate::domain::presence::agent_state::testing::{START, both, presence};

fn live() -> Seen {
    Seen { origin: Origin::Live, at: START, known_at: None }
}

#[test]
fn the_newer_time_wins_part_by_part() {
    let mut known = both("AVAILABLE", 5, "OFF_QUEUE", 5);
    let reported = both("AWAY", 4, "IDLE", 6);
    assert_eq!(known.merge(&reported, live()), Merged::Changed(vec![Part::RoutingStatus]));
    assert_eq!(known, both("AVAILABLE", 5, "IDLE", 6));
}

#[test]
fn older_is_stale_and_what_is_known_is_a_duplicate() {
    let mut known = presence("AVAILABLE", Some(5));
    assert_eq!(known.merge(&presence("AWAY", Some(4)), live()), Merged::Stale);
    assert_eq!(known.merge(&presence("AVAILABLE", Some(5)), live()), Merged::Duplicate);
    assert_eq!(known, presence("AVAILABLE", Some(5)));
}

#[test]
fn of_one_time_another_value_counts_and_a_former_one_does_not() {
    let changed = || Merged::Changed(vec![Part::Presence]);
    let mut known = AgentState::default();
    assert_eq!(known.merge(&presence("AVAILABLE", Some(5)), live()), changed());
    assert_eq!(known.merge(&presence("AWAY", Some(5)), live()), changed());
    assert_eq!(known.merge(&presence("AVAILABLE", Some(5)), live()), Merged::Duplicate);
    assert_eq!(known.merge(&presence("AWAY", Some(5)), live()), Merged::Duplicate);
    // As a process does that ends here and starts again.
    let text = serde_json::to_string(&known).unwrap();
    let mut known: AgentState = serde_json::from_str(&text).unwrap();
    assert_eq!(known.merge(&presence("AVAILABLE", Some(5)), live()), Merged::Duplicate);
    assert_eq!(known.without_history(), presence("AWAY", Some(5)));
    assert_eq!(known.merge(&presence("AVAILABLE", Some(6)), live()), changed());
    assert_eq!(known, presence("AVAILABLE", Some(6)), "of a time that is over nothing is kept");
}

#[test]
fn every_part_and_the_message_count_by_themselves_at_one_time() {
    let at = Some(START);
    let of = |message: &str, status: &str, out: bool, queue: &str| AgentState {
        presence: Some(Timed::new(
            PresencePart { message: Some(message.to_owned()), ..PresencePart::default() },
            at,
        )),
        routing: Some(Timed::new(status.to_owned(), at)),
        out_of_office: Some(Timed::new(out, at)),
        queues: Some(Timed::new(vec!["q-0".to_owned(), queue.to_owned()], at)),
    };
    let parts = vec![Part::Presence, Part::RoutingStatus, Part::OutOfOffice, Part::ActiveQueues];
    let (first, second) = (of("lunch", "IDLE", false, "q-1"), of("dinner", "INTERACTING", true, "q-2"));
    let mut known = first.clone();
    assert_eq!(known.merge(&second, live()), Merged::Changed(parts));
    let mut again = first.clone();
    again.queues.as_mut().unwrap().value.reverse();
    assert_eq!(known.merge(&again, live()), Merged::Duplicate);
    assert_eq!(known.without_history(), second);
}

#[test]
fn of_one_time_an_answer_wins_if_nothing_was_pushed_since_the_question() {
    let mut known = presence("AVAILABLE", Some(5));
    let _ = known.merge(&presence("AWAY", Some(5)), live());
    let known_at = Some(START);
    let early = Seen { origin: Origin::Resync, at: START - Duration::seconds(1), known_at };
    for answer in ["AVAILABLE", "MEAL"] {
        assert_eq!(known.merge(&presence(answer, Some(5)), early), Merged::Stale, "{answer}");
    }
    let later = Seen { at: START + Duration::seconds(1), ..early };
    assert_eq!(known.merge(&presence("AWAY", Some(5)), later), Merged::Duplicate);
    let back = known.merge(&presence("AVAILABLE", Some(5)), later);
    assert_eq!(back, Merged::Changed(vec![Part::Presence]), "the agent went back: no push told of it");
    assert_eq!(known.merge(&presence("AWAY", Some(5)), live()), Merged::Duplicate, "a twin is no news");
}

#[test]
fn a_time_that_cannot_be_never_becomes_the_bar() {
    let year = 365 * 86_400;
    let changed = || Merged::Changed(vec![Part::Presence]);
    let mut known = presence("AVAILABLE", Some(-10));
    let ahead = presence("AWAY", Some(year));
    assert_eq!(known.times_ahead(&ahead, live()), [(Part::Presence, START + Duration::seconds(year))]);
    assert_eq!(known.merge(&ahead, live()), changed());
    assert_eq!(known.time_of(Part::Presence), None);
    assert!(known.times_ahead(&ahead, live()).is_empty(), "it was noted");
    assert_eq!(known.merge(&ahead, live()), Merged::Duplicate);
    assert_eq!(
        known.merge(&presence("OFFLINE", Some(-11)), live()),
        Merged::Stale,
        "the bar is where it was"
    );
    assert_eq!(known.merge(&presence("AVAILABLE", Some(-10)), live()), Merged::Duplicate, "a twin");
    assert_eq!(known.merge(&presence("BUSY", Some(-5)), live()), changed());
    assert_eq!(known.merge(&ahead, live()), Merged::Duplicate, "nor is its twin news");
    assert_eq!(known.without_history(), presence("BUSY", Some(-5)));
    // Clocks differ by seconds, and that is no fault.
    assert_eq!(known.merge(&presence("MEAL", Some(200)), live()), changed());
    assert_eq!(known.merge(&presence("BUSY", Some(100)), live()), Merged::Stale);
}

#[test]
fn a_twin_is_no_news_once_its_time_can_be() {
    let mut known = presence("AVAILABLE", Some(-10));
    let ahead = presence("AWAY", Some(360));
    let _ = known.merge(&ahead, live());
    let _ = known.merge(&presence("BUSY", Some(10)), live());
    let later = Seen { at: START + Duration::seconds(120), ..live() };
    assert_eq!(known.merge(&ahead, later), Merged::Duplicate);
    assert_eq!(known.without_history(), presence("BUSY", Some(10)));
    let changed = Merged::Changed(vec![Part::Presence]);
    assert_eq!(known.merge(&presence("MEAL", Some(20)), later), changed, "and its time is no bar");
}

#[test]
fn an_agent_whom_a_former_version_froze_thaws() {
    let mut known = presence("AVAILABLE", Some(365 * 86_400));
    assert_eq!(known.merge(&presence("AWAY", Some(1)), live()), Merged::Changed(vec![Part::Presence]));
    assert_eq!(known, presence("AWAY", Some(1)));
    let mut known = presence("AVAILABLE", Some(365 * 86_400));
    assert_eq!(known.merge(&presence("AWAY", None), live()), Merged::Changed(vec![Part::Presence]));
    assert_eq!(known.merge(&presence("BUSY", Some(1)), live()), Merged::Changed(vec![Part::Presence]));
}

#[test]
fn the_values_of_one_time_are_remembered_up_to_a_limit() {
    let mut known = AgentState::default();
    for value in 0..1000 {
        let merged = known.merge(&presence(&format!("P{value}"), Some(0)), live());
        assert_eq!(merged, Merged::Changed(vec![Part::Presence]));
    }
    assert!(serde_json::to_string(&known).unwrap().len() < 1000);
    assert_eq!(known.merge(&presence("P990", Some(0)), live()), Merged::Duplicate);
}

#[test]
fn the_same_state_at_a_later_time_is_no_change_but_its_time_is_kept() {
    let mut known = presence("AVAILABLE", Some(5));
    assert_eq!(known.merge(&presence("AVAILABLE", Some(9)), live()), Merged::Duplicate);
    assert_eq!(known.merge(&presence("AWAY", Some(7)), live()), Merged::Stale);
}

#[test]
fn a_label_is_no_change() {
    let mut known = presence("AVAILABLE", Some(5));
    let mut reported = presence("AVAILABLE", Some(6));
    reported.presence.as_mut().unwrap().value.label = Some("Ready".to_owned());
    assert_eq!(known.merge(&reported, live()), Merged::Duplicate);
    assert_eq!(known.presence.unwrap().value.label.as_deref(), Some("Ready"));
}

#[test]
fn without_a_time_a_push_is_believed_and_an_answer_only_if_nothing_was_pushed_since_the_question() {
    let mut known = presence("AVAILABLE", Some(5));
    assert_eq!(known.merge(&presence("AVAILABLE", None), live()), Merged::Duplicate);
    let asked = Seen { origin: Origin::Resync, at: START, known_at: Some(START + Duration::seconds(1)) };
    assert_eq!(known.merge(&presence("AWAY", None), asked), Merged::Stale);
    let asked = Seen { known_at: Some(START - Duration::seconds(1)), ..asked };
    assert_eq!(known.merge(&presence("AWAY", None), asked), Merged::Changed(vec![Part::Presence]));
    assert_eq!(known.merge(&presence("MEAL", None), live()), Merged::Changed(vec![Part::Presence]));
}

/// What becomes an event when these arrive in this order.
fn events_of(arrivals: impl IntoIterator<Item = (i64, u8)>) -> (Vec<(i64, u8)>, AgentState) {
    let mut known = AgentState::default();
    let mut events = Vec::new();
    for (second, value) in arrivals {
        let report = presence(&format!("P{value}"), Some(second));
        if matches!(known.merge(&report, live()), Merged::Changed(_)) {
            events.push((second, value));
        }
    }
    (events, known.without_history())
}

proptest! {
    /// Two sockets report the same, one behind the other as it happens: each value of each time is one event,
    /// in the order in which it was reported first, and the end is what one socket alone would have told.
    #[test]
    fn twins_make_no_event_and_change_no_end(
        told in proptest::collection::vec((0..4_i64, 0..5_u8), 1..20),
        turns in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let mut told = told;
        told.sort_by_key(|(second, _)| *second);
        let (mut one, mut other) = (told.iter(), told.iter());
        let mut arrivals: Vec<(i64, u8)> = turns
            .iter()
            .filter_map(|turn| if *turn { one.next() } else { other.next() })
            .copied()
            .collect();
        arrivals.extend(one.chain(other).copied());
        let alone = events_of(told.iter().copied());
        prop_assert_eq!(&events_of(arrivals), &alone);
        let mut each = alone.0.clone();
        each.sort_unstable();
        each.dedup();
        prop_assert_eq!(each.len(), alone.0.len(), "no value is news twice at one time");
    }

    /// A value that was not recorded with its time wins at once, unless a newer time is known.
    #[test]
    fn a_new_value_of_the_newest_time_always_wins(
        told in proptest::collection::vec((0..3_i64, 0..5_u8), 1..20),
        value in 5..9_u8,
    ) {
        let newest = told.iter().map(|(second, _)| *second).max().unwrap();
        let (events, end) = events_of(told.into_iter().chain([(newest, value)]));
        prop_assert_eq!(events.last(), Some(&(newest, value)));
        prop_assert_eq!(end, presence(&format!("P{value}"), Some(newest)));
    }

    /// Whatever was pushed before, an answer of the newest time that was asked for later is the end.
    #[test]
    fn an_answer_asked_for_later_is_the_end(
        told in proptest::collection::vec((0..3_i64, 0..5_u8), 1..20),
        value in 0..9_u8,
    ) {
        let newest = told.iter().map(|(second, _)| *second).max().unwrap();
        let mut known = AgentState::default();
        for (second, value) in told {
            let _ = known.merge(&presence(&format!("P{value}"), Some(second)), live());
        }
        let asked = Seen { origin: Origin::Resync, at: START, known_at: Some(START) };
        let _ = known.merge(&presence(&format!("P{value}"), Some(newest)), asked);
        prop_assert_eq!(known.without_history(), presence(&format!("P{value}"), Some(newest)));
    }

    /// Whatever the order of arrival, and however often each arrives, the newest state remains.
    #[test]
    fn the_end_does_not_depend_on_the_order(
        mut order in Just((0..12_i64).chain(0..12).collect::<Vec<_>>()).prop_shuffle(),
        first in 0..12_i64,
    ) {
        order.insert(0, first);
        let mut known = AgentState::default();
        for second in order {
            let _ = known.merge(&both(&format!("P{second}"), second, &format!("R{second}"), second), live());
        }
        prop_assert_eq!(known.without_history(), both("P11", 11, "R11", 11));
    }
}
