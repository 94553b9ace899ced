//! A change of the system presence as a filter names it: `AWAY -> ON_QUEUE`, with `*` for any presence.

use crate::domain::presence::canonical_presence;

/// Stands for any presence.
const ANY: &str = "*";

/// One spelling for each change; `None` if the text names none.
#[must_use]
pub fn canonical_transition(text: &str) -> Option<String> {
    let (from, to) = text.split_once("->")?;
    let side = |text: &str| match text.trim() {
        ANY => Some(ANY.to_owned()),
        presence => canonical_presence(presence),
    };
    Some(between(&side(from)?, &side(to)?))
}

/// The two sides of a change in our spelling; `None` stands for any presence.
#[must_use]
pub fn sides(transition: &str) -> [Option<&str>; 2] {
    let (from, to) = transition.split_once(" -> ").unwrap_or((transition, ANY));
    [from, to].map(|side| Some(side).filter(|side| *side != ANY))
}

/// Every name of what an event did to the presence; none if it did not change it. From an unknown presence
/// it came from any.
#[must_use]
pub fn transitions_of(previous: Option<&str>, presence: Option<&str>) -> Vec<String> {
    let Some(presence) = presence.filter(|presence| previous != Some(presence)) else {
        return Vec::new();
    };
    let mut names = vec![between(ANY, presence), between(ANY, ANY)];
    if let Some(previous) = previous {
        names.extend([between(previous, presence), between(previous, ANY)]);
    }
    names
}

fn between(from: &str, to: &str) -> String {
    format!("{from} -> {to}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_has_one_spelling() {
        for (text, wanted) in [
            ("away->On Queue", Some("AWAY -> ON_QUEUE")),
            ("* -> AVAILABLE", Some("* -> AVAILABLE")),
            ("OnQueue -> *", Some("ON_QUEUE -> *")),
            ("ON_QUEUE", None),
            ("-> ON_QUEUE", None),
        ] {
            assert_eq!(canonical_transition(text).as_deref(), wanted, "{text}");
        }
        assert_eq!(sides("* -> AVAILABLE"), [None, Some("AVAILABLE")]);
    }

    #[test]
    fn only_a_change_of_the_presence_is_a_transition() {
        let of = |previous, presence| transitions_of(previous, presence).join(", ");
        assert_eq!(
            of(Some("AWAY"), Some("BUSY")),
            "* -> BUSY, * -> *, AWAY -> BUSY, AWAY -> *",
            "each name that a filter may have for it"
        );
        assert_eq!(of(None, Some("BUSY")), "* -> BUSY, * -> *");
        assert_eq!(of(Some("BUSY"), Some("BUSY")), "");
        assert_eq!(of(Some("BUSY"), None), "");
    }
}
