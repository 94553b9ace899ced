//! The steps of a delivery, drawn one below the other.

use maud::{Markup, html};

use crate::console::parts::{Tone, badge, sentence, span, time};
use crate::domain::explain::Step;

/// Steps, oldest first, each with the time since the one before.
pub fn of(steps: &[Step]) -> Markup {
    html! {
        ol.timeline {
            @for (at, step) in steps.iter().enumerate() {
                li {
                    (time(step.at))
                    @if let Some(before) = at.checked_sub(1).and_then(|before| steps.get(before)) {
                        " " span.hint { "+" (span(before.at, step.at)) }
                    }
                    " " (badge(tone(step), step.what))
                    p { (sentence(&step.detail)) }
                }
            }
        }
    }
}

/// How a step went.
pub fn tone(step: &Step) -> Tone {
    let entry = step.entry.as_ref();
    match (
        step.what,
        entry.and_then(|entry| entry.outcome.as_deref()),
        entry.and_then(|e| e.end_state.as_deref()),
    ) {
        ("attempt", Some("ok"), _) | (_, _, Some("delivered")) => Tone::Good,
        ("attempt", ..) | (_, _, Some("dead" | "expired" | "webhook_gone" | "webhook_disabled")) => Tone::Bad,
        _ => Tone::Plain,
    }
}
