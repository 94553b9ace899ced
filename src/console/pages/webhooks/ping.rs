//! A test ping, and what the receiver answered.

use maud::{Markup, html};
use serde_json::Value;
use uuid::Uuid;

use super::health;
use crate::api::http::problem::ApiError;
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::form::Form;
use crate::console::parts::{Tone, badge, button, source_text, table, time};
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::{DeliveryId, WebhookId};
use crate::store::views::deliveries::{AttemptRow, DeliveryRow};
use crate::store::webhooks::Webhook;

/// Sends a ping from a page that must not be left: it shows a secret. Without JavaScript the answer opens in
/// another tab; `ping.js` brings it here.
pub fn from_here(webhook: &Webhook) -> Markup {
    let address = format!("{ROOT}/webhooks/{}/ping", webhook.webhook_id);
    html! {
        @if webhook.state.takes_part() {
            p { "Start a receiver, then send it a test ping; what it answers shows here." }
            form.inline method="post" action=(address) target="_blank" data-answer="ping-here" {
                button type="submit" { "Send a test ping" }
            }
            div #ping-here aria-live="polite" {}
        } @else {
            p { "Its receiver is asked first whether it wants the POSTs; then it gets them. Its page says how that goes." }
        }
    }
}

pub async fn show(view: View) -> Result<Content> {
    let webhook = view.caller.store.webhook(WebhookId(view.id()?)).await?;
    let mut page = Content::titled(format!("Test ping: {}", health::name(&webhook)));
    let address = links::webhook(webhook.webhook_id);
    let answer = match view.given("delivery") {
        given if given.is_empty() => {
            html! { p { "A test ping is a POST without an agent. What the receiver answers shows here." } }
        }
        given => {
            let id = DeliveryId(Uuid::try_parse(&given).map_err(|_| ApiError::not_found())?);
            let delivery = view.caller.store.delivery(id).await?;
            if delivery.webhook_id != Some(webhook.webhook_id) {
                return Err(ApiError::not_found());
            }
            let attempts = view.caller.store.attempts(id).await?;
            page.live("ping", &answer(&webhook, &delivery, &attempts))
        }
    };
    page.body = html! {
        p { a href=(address) { "Back to the webhook" } }
        (answer)
        @if view.may(Scope::Webhooks) { p { (button(&format!("{address}/ping"), "Send a test ping")) } }
    };
    Ok(page)
}

/// How the ping stands. `data-done` says that nothing more will come.
fn answer(webhook: &Webhook, delivery: &DeliveryRow, attempts: &[AttemptRow]) -> Markup {
    let (tone, said) = match (delivery.state.as_str(), attempts.last()) {
        ("delivered", _) => (Tone::Good, "Your receiver took it."),
        ("waiting" | "sending" | "blocked", None) => (Tone::Plain, "It is on its way."),
        ("waiting" | "sending" | "blocked", Some(_)) => (
            Tone::Bad,
            "Your receiver did not take it. It is tried again later; you can send another ping at once.",
        ),
        ("paused", _) => (Tone::Warn, "The webhook is paused: the ping leaves after resume."),
        _ => (Tone::Bad, "It was not taken."),
    };
    let rows = html! {
        @for attempt in attempts {
            tr {
                th scope="row" { (time(attempt.at)) }
                td { (badge(if attempt.outcome.as_deref() == Some("ok") { Tone::Good } else { Tone::Bad },
                            attempt.outcome.as_deref().unwrap_or("unknown"))) }
                td { @match attempt.status { Some(status) => (status), None => span.none { "none" } } }
                td { @if let Some(ms) = attempt.duration_ms { (ms) " ms" } }
                td { (attempt.data.get("reason").and_then(Value::as_str).unwrap_or_default()) }
            }
        }
    };
    html! {
        p data-done[delivery.ended_at.is_some()] { (badge(tone, &delivery.state)) " " (said) }
        @if delivery.ended_at.is_none() && webhook.health.hold_until.is_some() {
            p { "Its circuit is " (health::circuit(webhook)) }
        }
        @if !attempts.is_empty() {
            (table("Attempts", &["Ended", "Outcome", "Status", "Took", "Why"], &rows))
        }
        @if let Some(last) = attempts.last() { (refusal(last)) }
        p { a href=(links::delivery(delivery.delivery_id)) { "The whole delivery" } }
    }
}

/// What a receiver said that did not take it, as far as it is kept.
fn refusal(attempt: &AttemptRow) -> Markup {
    let head = attempt.data.get("answer_head").and_then(Value::as_array);
    let head: Vec<&str> = head.into_iter().flatten().filter_map(|line| line.as_str()).collect();
    html! {
        @if !head.is_empty() {
            p { "It answered with the headers" }
            (source_text("Headers of the answer", &head.join("\n")))
        }
        @if let Some(body) = attempt.data.get("answer").and_then(Value::as_str) {
            p { "and began its answer with" }
            (source_text("First bytes of the answer", body))
        }
    }
}

/// Sends one.
pub async fn send(view: View, _: Form) -> Result<Done> {
    let id = WebhookId(view.id()?);
    let (_, delivery) = view.caller.store.create_test_ping(id, view.caller.principal.as_str()).await?;
    let to = format!("{ROOT}/webhooks/{id}/ping?delivery={delivery}");
    Ok(Done::Go { to, notice: "A test ping is on its way.".to_owned() })
}
