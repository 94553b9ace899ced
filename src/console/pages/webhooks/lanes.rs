//! What waits behind what at a webhook, and how its last attempts ended.

use maud::{Markup, html};

use crate::api::http::page::at;
use crate::console::links;
use crate::console::parts::{Tone, badge, empty, or_none, sentence, since, table, time};
use crate::console::search::names::Names;
use crate::domain::explain::Verdict;
use crate::domain::ids::{AgentId, WebhookId};
use crate::services;
use crate::store::views::lanes::{BEHIND_COUNTED, LANES_COUNTED, Lanes, LastAttempt};

/// The lanes whose heads have waited longest.
pub fn waiting(lanes: &Lanes, webhook: WebhookId) -> Markup {
    if lanes.oldest.is_empty() {
        return empty("Nothing waits: it was told everything that it asks for.", None);
    }
    let rows = html! {
        @for lane in &lanes.oldest {
            @let (verdict, reason) = services::webhooks::why_waits(lanes, lane, at);
            tr id={ "lane-" (lane.delivery_id) } {
                th scope="row" { (agent(lane.agent_id.as_ref(), lane.agent_name.as_deref())) }
                td { (since(lane.head.created_at)) }
                td.words { (badge(tone(verdict), verdict.as_str())) " " (sentence(&reason)) }
                td { (lane.head.attempt) }
                td { (lane.behind) @if lane.behind >= BEHIND_COUNTED { "+" } }
                td {
                    a href=(links::delivery(lane.delivery_id)) { "Delivery" } " "
                    a href=(links::explain(lane.event_id, webhook)) { "Explain" }
                }
            }
        }
    };
    let shown = lanes.oldest.len();
    html! {
        p.hint {
            "A lane holds the open deliveries of one agent, in order: only the oldest of them can be sent. "
            @if i64::try_from(shown).unwrap_or(0) < lanes.lanes {
                "The " (shown) " that have waited longest of " (lanes.lanes)
                @if lanes.lanes >= LANES_COUNTED { " that were looked at" } ":"
            }
        }
        (table("Lanes", &["Agent", "Waits", "Why", "Attempts", "Behind it", "More"], &rows))
    }
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Sending => Tone::Good,
        Verdict::Held => Tone::Bad,
        Verdict::Paused | Verdict::Waiting => Tone::Warn,
        _ => Tone::Plain,
    }
}

fn agent(id: Option<&AgentId>, name: Option<&str>) -> Markup {
    html! {
        @match id {
            None => "test pings and notices",
            Some(id) => a href=(links::agent(id, None)) { (name.unwrap_or(&id.0)) },
        }
    }
}

/// The last attempts, newest first.
pub fn attempts(attempts: &[LastAttempt], names: &Names) -> Markup {
    if attempts.is_empty() {
        return empty("Nothing was sent yet.", None);
    }
    let rows = html! {
        @for attempt in attempts {
            tr id=[attempt.delivery_id.map(|id| format!("attempt-{id}-{}", attempt.attempt.unwrap_or(0)))] {
                th scope="row" {
                    @match attempt.delivery_id {
                        Some(id) => a href=(links::delivery(id)) { (time(attempt.at)) },
                        None => (time(attempt.at)),
                    }
                }
                td {
                    @if attempt.agent_id.is_some() { (names.agent(attempt.agent_id.as_ref(), None)) }
                    @else { "test pings and notices" }
                }
                td { (attempt.attempt.unwrap_or(1)) }
                td.words { (outcome(attempt)) }
                td { @if let Some(ms) = attempt.duration_ms { (ms) " ms" } }
                td { (or_none(attempt.end_state.as_deref())) }
            }
        }
    };
    table("Last attempts", &["Ended", "Agent", "Attempt", "Outcome", "Took", "Delivery ended as"], &rows)
}

fn outcome(attempt: &LastAttempt) -> Markup {
    let word = attempt.outcome.as_deref().unwrap_or("unknown");
    let tone = if word == "ok" { Tone::Good } else { Tone::Bad };
    html! {
        (badge(tone, word))
        @if let Some(status) = attempt.status { " status " (status) }
        @if let Some(reason) = &attempt.reason { ": " (reason) }
    }
}
