//! Deliver again what a webhook missed: asked for by a form, with its progress and a way to stop it.

use maud::{Markup, html};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::health;
use crate::clock;
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{self, Field, Fields, field, items};
use crate::console::form::Form;
use crate::console::parts::{Tone, badge, empty, maybe, since, table, time};
use crate::console::search::{A_TIME, read_time};
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::delivery::recovery::{RecoveryFailure, RecoveryState};
use crate::domain::ids::{RecoveryId, WebhookId};
use crate::domain::plural::plural;
use crate::domain::violation::Violation;
use crate::services;
use crate::services::recoveries::RecoveryInput;
use crate::store::recovery::requests::{Recovery, RecoveryFilter};

/// Recoveries that are shown of one webhook.
const SHOWN: i64 = 5;
/// How far back, in hours; empty: a time is given.
const BACK: [(&str, &str); 5] = [
    ("1", "the last hour"),
    ("6", "the last 6 hours"),
    ("24", "the last day"),
    ("168", "the last 7 days"),
    ("", "since the time below"),
];
const WHAT: [(&str, &str); 2] = [
    ("failed", "only what was given up, too old, or ended when it was disabled"),
    ("all", "everything that matches its filters, also what it was told already"),
];
const SINCE: Field<'_> = field("since", "Since", A_TIME);
const UNTIL: Field<'_> = field("until", "Until", "Events before this time; empty: until now.");

/// The form, as it was sent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RecoverForm {
    hours: String,
    since: String,
    until: String,
    what: String,
    agents: String,
}

#[derive(Deserialize)]
struct CancelForm {
    recovery: String,
}

/// The last recoveries of a webhook, newest first.
pub async fn of_webhook(view: &View, id: WebhookId) -> Result<Vec<Recovery>> {
    let filter = RecoveryFilter { recovery: None, webhook: Some(id), state: None };
    Ok(view.caller.store.recoveries(&filter, None, SHOWN).await?)
}

/// The recoveries with their progress, and a button that ends one that runs.
pub fn list(view: &View, recoveries: &[Recovery]) -> Markup {
    if recoveries.is_empty() {
        return empty("No recovery was requested yet.", None);
    }
    let rows = html! {
        @for recovery in recoveries {
            tr id={ "recovery-" (recovery.recovery_id) } {
                th scope="row" { a href=(links::recovery(recovery.recovery_id)) { (time(recovery.since)) " – " (time(recovery.until)) } }
                td { @match (&recovery.states, recovery.only_failed) {
                         (Some(states), _) => { "what ended as " (states.join(", ")) },
                         (None, true) => "what failed",
                         (None, false) => "everything",
                     }
                     @if !recovery.agents.is_empty() { ", " (plural(recovery.agents.len(), "agent", "agents")) } }
                td { (state(recovery)) }
                td { (recovery.recovered) }
                td { (recovery.skipped) }
                td { (since(recovery.requested_at)) }
                td { (maybe(recovery.ended_at, since)) }
                td { @if recovery.ended_at.is_none() && view.may(Scope::Webhooks) {
                    form.inline method="post" action={ (ROOT) "/webhooks/" (recovery.webhook_id) "/recover/cancel" } {
                        input type="hidden" name="recovery" value=(recovery.recovery_id);
                        button type="submit" { "Cancel" }
                    }
                } }
            }
        }
    };
    let head = ["Events", "Which", "State", "Opened again", "Left out", "Requested", "Ended", "Cancel"];
    table("Recoveries", &head, &rows)
}

fn state(recovery: &Recovery) -> Markup {
    let tone = match recovery.state() {
        RecoveryState::Running => Tone::Warn,
        RecoveryState::Done => Tone::Good,
        RecoveryState::Failed => Tone::Bad,
    };
    html! {
        (badge(tone, recovery.state().as_str()))
        @if let Some(reason) = recovery.reason { " " (why(reason)) }
    }
}

fn why(reason: RecoveryFailure) -> &'static str {
    match reason {
        RecoveryFailure::WebhookGone => "the webhook was removed",
        RecoveryFailure::WebhookDisabled => "the webhook was disabled",
        RecoveryFailure::WebhookUnverified => "its receiver must be verified first",
        RecoveryFailure::Cancelled => "cancelled",
        RecoveryFailure::TooSlow => "the database did not answer in time",
        RecoveryFailure::Refused => "the database refused",
    }
}

pub async fn show(view: View) -> Result<Content> {
    let failing_since = view.caller.store.webhook(WebhookId(view.id()?)).await?.health.failing_since;
    let form = match failing_since {
        Some(at) => RecoverForm { since: crate::api::http::page::at(at), ..RecoverForm::default() },
        None => RecoverForm { hours: "1".to_owned(), ..RecoverForm::default() },
    };
    draw(&view, &form, &Fields::default()).await
}

async fn draw(view: &View, form: &RecoverForm, fields: &Fields) -> Result<Content> {
    let webhook = view.caller.store.webhook(WebhookId(view.id()?)).await?;
    let recoveries = of_webhook(view, webhook.webhook_id).await?;
    let mut page = Content::titled(format!("Recover: {}", health::name(&webhook)));
    let progress = page.live("recoveries", &list(view, &recoveries));
    let address = format!("{ROOT}/webhooks/{}", webhook.webhook_id);
    page.body = html! {
        p { a href=(address) { "Back to the webhook" } }
        h2 { "Its last recoveries" }
        (progress)
        h2 { "Send again what it missed" }
        p { "Changes that arrived in this time and match its present filters are delivered again, under the same ids and in order. "
            "Receivers that drop ids they have seen do nothing twice." }
        form.stack method="post" action={ (address) "/recover" } {
            (fields.summary())
            (fields.choice(field("hours", "Which", ""), &form.hours, &BACK))
            (fields.text(SINCE, &form.since))
            (fields.text(UNTIL, &form.until))
            (fields.choice(field("what", "What of it", ""), &form.what, &WHAT))
            (fields.lines(field("agents", "Agents", "Only these, one on each line; empty: all."), &form.agents))
            button.primary type="submit" { "Recover" }
        }
    };
    Ok(page)
}

/// Asks for a recovery.
pub async fn recover(view: View, sent: Form) -> Result<Done> {
    let id = WebhookId(view.id()?);
    let form: RecoverForm = sent.read()?;
    let mut wrong = Vec::new();
    let since = match form.hours.trim() {
        "" => moment(SINCE, &form.since, &mut wrong),
        hours => match hours.parse::<u16>() {
            Ok(hours) => Some(clock::now() - Duration::hours(hours.into())),
            Err(_) => {
                wrong.push(Violation::new("hours", "is none of the choices"));
                None
            }
        },
    };
    let input = RecoveryInput {
        since,
        until: moment(UNTIL, &form.until, &mut wrong),
        only_failed: Some(form.what != "all"),
        agents: Some(items(&form.agents)),
    };
    let wanted = match fields::checked(wrong, services::recoveries::check(id, input)) {
        Ok(wanted) => wanted,
        Err(fields) => return Ok(Done::Again(draw(&view, &form, &fields).await?)),
    };
    if let Err(error) = view.caller.store.request_recovery(&wanted, view.caller.principal.as_str()).await {
        return Ok(Done::Again(draw(&view, &form, &Fields::refused(error.into())?).await?));
    }
    let to = format!("{ROOT}/webhooks/{id}/recover");
    Ok(Done::Go { to, notice: "The recovery has begun.".to_owned() })
}

/// A time that was typed; nothing if it was left empty.
fn moment(field: Field<'_>, text: &str, wrong: &mut Vec<Violation>) -> Option<OffsetDateTime> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let moment = read_time(text, clock::now());
    if moment.is_none() {
        wrong.push(Violation::new(field.name, "is no time such as 2026-01-31 09:30 (UTC), 15m, 2h or 3d"));
    }
    moment
}

/// Ends a recovery that runs.
pub async fn cancel(view: View, sent: Form) -> Result<Done> {
    let id = WebhookId(view.id()?);
    let form: CancelForm = sent.read()?;
    let recovery = uuid::Uuid::try_parse(&form.recovery)
        .map_err(|_| crate::api::http::problem::ApiError::not_found())?;
    services::recoveries::cancel(&view.caller, RecoveryId(recovery)).await?;
    let to = format!("{ROOT}/webhooks/{id}/recover");
    Ok(Done::Go { to, notice: "The recovery ends.".to_owned() })
}
