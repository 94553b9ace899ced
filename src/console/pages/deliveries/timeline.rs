//! The steps of a delivery, drawn one below the other, with what is kept of each attempt.

use std::time::Duration;

use maud::{Markup, html};
use serde_json::Value;

use crate::console::parts::{Tone, badge, facts, lasting, sentence, source_text, span, time};
use crate::domain::explain::{EntryFacts, Step};

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
                    @if let Some(entry) = step.entry.as_ref().filter(|_| step.what == "attempt") { (attempt(entry)) }
                }
            }
        }
    }
}

/// How a step went.
fn tone(step: &Step) -> Tone {
    let entry = step.entry.as_ref();
    let outcome = entry.and_then(|entry| entry.outcome.as_deref());
    match (step.what, outcome, entry.and_then(|entry| entry.end_state.as_deref())) {
        ("attempt", Some("ok"), _) | (_, _, Some("delivered")) => Tone::Good,
        ("attempt", ..) | (_, _, Some("dead" | "expired" | "webhook_gone" | "webhook_disabled")) => Tone::Bad,
        _ => Tone::Plain,
    }
}

/// What the entry of an attempt holds, as people read it.
fn attempt(entry: &EntryFacts) -> Markup {
    let text = |name: &str| entry.data.get(name).and_then(Value::as_str);
    let took = entry.duration_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    let mut known: Vec<(&str, Markup)> = Vec::new();
    if let Some(took) = took {
        known.push(("Started", time(entry.at - took)));
        known.push(("Took", html! { (lasting(took)) }));
    }
    for (name, called) in [
        ("sent_at", "Time in its body"),
        ("retry_at", "Next try"),
        ("format", "Format"),
        ("batch", "In the batch"),
        ("halved_into", "Goes again in the half"),
    ] {
        if let Some(value) = text(name) {
            known.push((called, html! { (sentence(value)) }));
        }
    }
    if let Some(superseded) = entry.data.get("superseded").and_then(Value::as_u64) {
        known.push(("Older states that it stands for", html! { (superseded) }));
    }
    let head = entry.data.get("answer_head").and_then(Value::as_array);
    let head: Vec<&str> = head.into_iter().flatten().filter_map(Value::as_str).collect();
    html! {
        @if !known.is_empty() { (facts(&known)) }
        @if !head.is_empty() {
            p.hint { "The head of the answer, without cookies" }
            (source_text("Head of the answer", &head.join("\n")))
        }
        @if let Some(answer) = text("answer") {
            p.hint { "The answer began with" }
            (source_text("First bytes of the answer", answer))
        }
    }
}
