//! How a webhook is, in a word and a colour. Shared by its list and its page.

use maud::{Markup, html};

use crate::clock;
use crate::console::parts::{Tone, badge, since, time};
use crate::domain::delivery::circuit::{Circuit, OPENS_AFTER};
use crate::domain::webhook::state::{DisableReason, StateReason, WebhookState};
use crate::store::webhooks::Webhook;

/// Its state, with the reason where there is one.
pub fn state(webhook: &Webhook) -> Markup {
    let tone = match webhook.state {
        WebhookState::Active => Tone::Good,
        WebhookState::Paused | WebhookState::Unverified => Tone::Warn,
        WebhookState::Disabled => Tone::Bad,
    };
    let why = match webhook.state_reason {
        None => "",
        Some(StateReason::VerificationPending) => ": its receiver has not agreed yet",
        Some(StateReason::Disabled(DisableReason::Gone)) => ": its receiver answered 410",
        Some(StateReason::Disabled(DisableReason::Failing)) => ": it failed for too long",
    };
    html! { (badge(tone, webhook.state.as_str())) (why) }
}

/// Its circuit: whether its receiver is left alone, and until when.
pub fn circuit(webhook: &Webhook) -> Markup {
    let health = &webhook.health;
    let failures = u32::try_from(health.failures).unwrap_or(0);
    let circuit = Circuit { failures, failing_since: health.failing_since, hold_until: health.hold_until };
    let held = health.hold_until.filter(|_| circuit.holds(clock::now()));
    html! {
        @match (held, failures) {
            (Some(until), _) => { (badge(Tone::Bad, "open")) ", next try " (time(until)) }
            (None, 0) => (badge(Tone::Good, "closed")),
            (None, n) if n >= OPENS_AFTER => { (badge(Tone::Warn, "trying")) " one POST at a time" }
            (None, n) => { (badge(Tone::Warn, "closed")) " " (n) @if n == 1 { " failure" } @else { " failures" } " in a row" }
        }
        @if let Some(at) = health.failing_since { " · fails since " (since(at)) }
        @if let Some(at) = health.probe_at { " · asked again " (time(at)) }
    }
}

/// What its receiver's last failure was.
pub fn last_outcome(webhook: &Webhook) -> Markup {
    let health = &webhook.health;
    html! {
        @match &health.last_outcome {
            Some(outcome) => {
                (badge(Tone::Bad, outcome))
                @if let Some(reason) = &health.last_reason { " " (reason) }
            }
            None => span.none { "no failure since its last success" },
        }
    }
}

/// A count that stops at a ceiling.
pub fn at_most(count: i64, ceiling: i64) -> Markup {
    html! { (count) @if count >= ceiling { "+" } }
}

/// How many of the attempts succeeded. Fewer than all are never told as 100 %.
pub fn success(taken: i64, attempts: i64) -> Markup {
    html! {
        @if attempts == 0 {
            span.none { "no attempts" }
        } @else {
            (taken.saturating_mul(100) / attempts) " % of " (attempts)
        }
    }
}

/// What people call it: the first line of its description, or its address.
pub fn name(webhook: &Webhook) -> &str {
    let first = webhook.settings.description.lines().map(str::trim).find(|line| !line.is_empty());
    first.unwrap_or(&webhook.settings.url)
}
