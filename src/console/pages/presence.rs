//! How presences are called and coloured on every page.

use maud::{Markup, html};

use crate::console::charts::Hue;
use crate::console::parts::{Tone, badge};
use crate::domain::presence::{SYSTEM_PRESENCES, canonical_presence};

/// A presence in words: `ON_QUEUE` is "On queue"; custom ones are as somebody called them.
pub fn word(presence: &str) -> String {
    if !SYSTEM_PRESENCES.contains(&presence) {
        return presence.to_owned();
    }
    let small = presence.to_lowercase().replace('_', " ");
    let mut letters = small.chars();
    letters.next().map_or(small.clone(), |first| first.to_uppercase().chain(letters).collect())
}

/// A routing status in words, such as "off queue".
pub fn routing_word(status: &str) -> String {
    status.to_lowercase().replace('_', " ")
}

/// A presence as a badge, with the organisation's own word for it if it has one.
pub fn shown(presence: Option<&str>, label: Option<&str>) -> Markup {
    let Some(presence) = presence else { return badge(Tone::Plain, "Unknown") };
    let tone = match presence {
        "ON_QUEUE" | "AVAILABLE" => Tone::Good,
        "BUSY" | "MEETING" | "TRAINING" => Tone::Warn,
        _ => Tone::Plain,
    };
    let own = label.filter(|label| canonical_presence(label).as_deref() != Some(presence));
    html! { (badge(tone, &word(presence))) @if let Some(own) = own { " " span.hint { (own) } } }
}

/// Its colour in charts. Presences of a kind share one: their words tell them apart.
pub fn hue(presence: &str) -> Hue {
    match presence {
        "ON_QUEUE" => Hue::Green,
        "AVAILABLE" => Hue::Blue,
        "BUSY" => Hue::Pink,
        "MEETING" | "TRAINING" => Hue::Purple,
        "BREAK" | "MEAL" => Hue::Teal,
        "AWAY" | "IDLE" => Hue::Amber,
        _ => Hue::Gray,
    }
}

/// The choices of a filter: each presence of the platform and its word.
pub fn choices() -> Vec<(String, String)> {
    SYSTEM_PRESENCES.iter().map(|presence| ((*presence).to_owned(), word(presence))).collect()
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn presences_of_the_platform_have_words_and_others_are_their_own() {
        assert_eq!(word("ON_QUEUE"), "On queue");
        assert_eq!(word("AVAILABLE"), "Available");
        assert_eq!(word("Coffee_With Ann"), "Coffee_With Ann");
    }
}
