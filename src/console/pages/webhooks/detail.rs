//! One webhook: how it is, how its attempts ended, what waits behind what, and its settings.

use std::collections::BTreeMap;
use std::time::Duration;

use maud::{Markup, html};

use super::{health, lanes, recovery, settings_words};
use crate::console::charts::{Hue, bars, legend};
use crate::console::content::Content;
use crate::console::parts::{button, facts, since, table, time};
use crate::console::search::names::Names;
use crate::console::view::View;
use crate::console::{ROOT, Result};
use crate::domain::access::scope::Scope;
use crate::domain::delivery::signature::SecretKind;
use crate::domain::ids::WebhookId;
use crate::domain::webhook::state::WebhookState;
use crate::services;
use crate::services::webhooks::Hour;
use crate::store::views::lanes::OPEN_COUNTED;
use crate::store::webhooks::Webhook;
use crate::store::webhooks::secrets::SecretAge;

/// Outcome classes with the hue and the words that stand for them; others are told as the last one.
const HUES: [(&str, Hue, &str); 5] = [
    ("ok", Hue::Green, "taken (2xx)"),
    ("http_4xx", Hue::Amber, "refused (4xx)"),
    ("http_5xx", Hue::Red, "failed (5xx)"),
    ("timeout", Hue::Purple, "no answer in time"),
    ("", Hue::Gray, "others: no connection, no TLS, no address, …"),
];
/// How often it is looked at again: it reads more than other pages.
const REFRESH: Duration = Duration::from_secs(4);
/// Lanes that are shown.
const LANES_SHOWN: i64 = 20;

pub async fn show(view: View) -> Result<Content> {
    let id = WebhookId(view.id()?);
    let webhook = view.caller.store.webhook(id).await?;
    let waiting = services::webhooks::lanes(&view.caller, id, LANES_SHOWN).await?;
    let hours = services::webhooks::outcomes(&view.caller, id).await?;
    let attempts = view.caller.store.last_attempts(id, LANES_SHOWN).await?;
    let agents = attempts.iter().filter_map(|attempt| attempt.agent_id.clone()).map(|id| id.0);
    let names = Names::read(&view, std::iter::empty(), agents).await?;
    let secrets = view.caller.store.webhook_secrets(id).await?;
    let recoveries = recovery::of_webhook(&view, id).await?;
    let unsealed = services::webhooks::unsealed(&view.caller, &webhook)?;
    let mut page = Content::titled(health::name(&webhook));
    page.refresh = REFRESH;
    let now = page.live(
        "health",
        &html! {
            (cards(&webhook, &hours, waiting.open, waiting.oldest.first().map(|lane| lane.head.created_at)))
            @if view.may(Scope::Webhooks) { (actions(&webhook)) }
        },
    );
    let outcomes = page.live("outcomes", &outcomes(&hours));
    let lanes = page.live("lanes", &lanes::waiting(&waiting, id));
    let attempts = page.live("attempts", &lanes::attempts(&attempts, &names));
    let recoveries = page.live("recoveries", &recovery::list(&view, &recoveries));
    page.body = html! {
        p { code { (webhook.settings.url) } }
        (now)
        h2 { "Attempts in 24 hours" } (outcomes)
        h2 { "What waits" } (lanes)
        h2 { "Last attempts" } (attempts)
        h2 { "Recoveries" } (recoveries)
        h2 { "Secrets" } (ages(&secrets, unsealed.public_key.as_deref()))
        h2 { "Settings" } (settings(&webhook, unsealed.has_client_certificate))
    };
    Ok(page)
}

fn cards(webhook: &Webhook, hours: &[Hour], open: i64, oldest: Option<time::OffsetDateTime>) -> Markup {
    let fresh = hours.iter().rev().take(2).flat_map(|hour| &hour.outcomes);
    let (mut attempts, mut taken) = (0, 0);
    for outcome in fresh {
        attempts += outcome.attempts;
        taken += if outcome.outcome == "ok" { outcome.attempts } else { 0 };
    }
    html! {
        div.cards {
            div.card { h2 { "State" } p { (health::state(webhook)) } }
            div.card { h2 { "Circuit" } p { (health::circuit(webhook)) } }
            div.card { h2 { "Last failure" } p { (health::last_outcome(webhook)) } }
            div.card { h2 { "Open deliveries" }
                p { span.figure { (health::at_most(open, OPEN_COUNTED)) } @if let Some(oldest) = oldest { " oldest " (since(oldest)) } } }
            div.card { h2 { "Success, this hour and last" } p { (health::success(taken, attempts)) } }
        }
    }
}

/// What its owner can do, as its state lets it.
fn actions(webhook: &Webhook) -> Markup {
    let at = |what: &str| format!("{ROOT}/webhooks/{}/{what}", webhook.webhook_id);
    let takes_part = webhook.state.takes_part();
    html! {
        div.row role="group" aria-label="What you can do" {
            @match webhook.state {
                WebhookState::Active => (button(&at("pause"), "Pause")),
                WebhookState::Paused => (button(&at("resume"), "Resume")),
                WebhookState::Disabled => (button(&at("enable"), "Enable")),
                WebhookState::Unverified => (button(&at("enable"), "Ask its receiver again")),
            }
            @if takes_part {
                (button(&at("ping"), "Send a test ping"))
                (button(&at("snapshot"), "Send a snapshot"))
                a.button href=(at("recover")) { "Recover" }
            }
            a.button href=(at("edit")) { "Edit settings" }
            a.button href=(at("access")) { "Headers and credentials" }
            a.button href=(at("rotate")) { "Rotate the secret" }
            a.button href=(at("delete")) { "Delete" }
        }
    }
}

/// The hue of an outcome, with its place in [`HUES`].
fn place_of(outcome: &str) -> usize {
    HUES.iter().position(|(known, ..)| *known == outcome).unwrap_or(HUES.len() - 1)
}

fn outcomes(hours: &[Hour]) -> Markup {
    let columns: Vec<BTreeMap<usize, u64>> = hours.iter().map(by_place).collect();
    let mut sums: BTreeMap<usize, u64> = BTreeMap::new();
    for (place, count) in columns.iter().flatten() {
        *sums.entry(*place).or_default() += count;
    }
    let all: u64 = sums.values().sum();
    if all == 0 {
        return html! { p.empty { "No attempt in the last 24 hours. Attempts show here some seconds after they ended." } };
    }
    let told: Vec<(Hue, String)> = sums
        .iter()
        .filter_map(|(place, count)| {
            HUES.get(*place).map(|(_, hue, words)| (*hue, format!("{count} {words}")))
        })
        .collect();
    let stacks: Vec<Vec<(Hue, u64)>> = columns
        .iter()
        .map(|column| column.iter().filter_map(|(p, n)| HUES.get(*p).map(|(_, hue, _)| (*hue, *n))).collect())
        .collect();
    let words: Vec<&str> = told.iter().map(|(_, words)| words.as_str()).collect();
    let says = format!("Attempts in each of the last 24 hours: {}", words.join(", "));
    let entries: Vec<(Hue, &str)> = told.iter().map(|(hue, words)| (*hue, words.as_str())).collect();
    html! {
        div.card {
            (bars(&stacks, &says))
            div.axis { @if let Some(first) = hours.first() { (time(first.hour)) } span { "now" } }
            (legend(&entries))
        }
        details { summary { "By hour" } (by_hour(hours)) }
    }
}

fn by_place(hour: &Hour) -> BTreeMap<usize, u64> {
    let mut counts = BTreeMap::new();
    for outcome in &hour.outcomes {
        *counts.entry(place_of(&outcome.outcome)).or_default() +=
            u64::try_from(outcome.attempts).unwrap_or(0);
    }
    counts
}

fn by_hour(hours: &[Hour]) -> Markup {
    let rows = html! {
        @for hour in hours.iter().rev() {
            @for of in &hour.outcomes {
                tr { th scope="row" { (time(hour.hour)) } td { (of.outcome) } td { (of.attempts) }
                     td { (of.duration_ms / of.attempts.max(1)) " ms" } }
            }
        }
    };
    table("Attempts by hour", &["Hour", "Outcome", "Attempts", "On average"], &rows)
}

fn ages(secrets: &[SecretAge], public_key: Option<&str>) -> Markup {
    let rows = html! {
        @for secret in secrets {
            tr {
                th scope="row" { @match secret.kind { SecretKind::Hmac => "v1: shared secret", SecretKind::Ed25519 => "v1a: key pair" } }
                td { (since(secret.created_at)) }
                td { @match secret.expires_at { None => "until it is replaced", Some(at) => { "until " (time(at)) } } }
            }
        }
    };
    html! {
        (table("Secrets that sign", &["Secret", "Created", "Signs"], &rows))
        @if let Some(key) = public_key { p { "Public key of its v1a signatures:" } pre data-copy { (key) } }
    }
}

fn settings(webhook: &Webhook, has_certificate: bool) -> Markup {
    let mut rows: Vec<(&str, Markup)> = settings_words::of(&webhook.settings)
        .into_iter()
        .map(|setting| (setting.label, html! { (setting.value) }))
        .collect();
    let headers =
        if webhook.header_names.is_empty() { "none".to_owned() } else { webhook.header_names.join(", ") };
    rows.push(("Headers of its own", html! { (headers) }));
    rows.push(("Credentials", html! { (webhook.auth_kind) }));
    rows.push(("Client certificate", html! { @if has_certificate { "yes" } @else { "none" } }));
    rows.push(("Version", html! { (webhook.version) }));
    rows.push(("Registered", time(webhook.created_at)));
    rows.push(("Changed", time(webhook.updated_at)));
    facts(&rows)
}
