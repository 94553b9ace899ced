//! The settings of a webhook are changed in two steps: what differs is shown before it is saved. A change that
//! somebody else made in between is noticed by the webhook's version.

use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded;

use super::access_form::AccessForm;
use super::registration::{choices, warnings};
use super::settings_form::SettingsForm;
use super::{health, settings_fields, settings_words};
use crate::api::http::problem::ApiError;
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{self, Fields, hidden};
use crate::console::form::Form;
use crate::console::parts::time;
use crate::console::view::View;
use crate::console::{Result, links};
use crate::domain::delivery::settings::Verification;
use crate::domain::ids::WebhookId;
use crate::domain::webhook::{WebhookChanges, WebhookInput, WebhookSettings};
use crate::services;
use crate::store::webhooks::Webhook;

/// Settings that decide which events become deliveries.
const FILTERS: [&str; 8] =
    ["events", "agents", "topics", "presences", "sources", "queues", "routing_statuses", "transitions"];

/// What a change begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Begun {
    /// The version whose settings were shown.
    version: i64,
    /// Back from the differences to the form.
    again: String,
}

/// A form that was sent, held against the webhook as it is now.
enum Checked {
    /// It can be saved.
    Good(Box<WebhookChanges>),
    /// It is shown again.
    Shown(Done),
}

async fn webhook(view: &View) -> Result<Webhook> {
    Ok(view.caller.store.webhook(WebhookId(view.id()?)).await?)
}

fn address(webhook: &Webhook) -> String {
    links::webhook(webhook.webhook_id)
}

pub async fn show(view: View) -> Result<Content> {
    let webhook = webhook(&view).await?;
    draw(&view, &webhook, &SettingsForm::of(&webhook.settings), &Markup::default(), &Fields::default()).await
}

async fn draw(
    view: &View,
    webhook: &Webhook,
    form: &SettingsForm,
    said: &Markup,
    fields: &Fields,
) -> Result<Content> {
    let choices = choices(view).await?;
    let mut page = Content::titled(format!("Edit: {}", health::name(webhook)));
    page.body = html! {
        p { a href=(address(webhook)) { "Back to the webhook" } }
        (said)
        form.stack method="post" action={ (address(webhook)) "/edit" } {
            (fields.summary())
            input type="hidden" name="version" value=(webhook.version);
            (settings_fields::draw(form, fields, &choices))
            button.primary type="submit" { "See what changes" }
        }
    };
    Ok(page)
}

/// What is said to whoever edits what somebody else has changed meanwhile.
fn meanwhile(webhook: &Webhook, began_at: i64) -> Markup {
    html! {
        div.alert role="alert" {
            p { "Nothing was saved: somebody changed this webhook meanwhile, at " (time(webhook.updated_at)) ". It is at version "
                (webhook.version) "; you began with version " (began_at) "." }
            p { "What you typed stands below. See what it would change now, or "
                a href={ (address(webhook)) "/edit" } { "begin with the present settings" } "." }
        }
    }
}

/// Reads the form and holds it against the rules.
async fn read(view: &View, webhook: &Webhook, form: &SettingsForm, begun: &Begun) -> Result<Checked> {
    if begun.version != webhook.version {
        let said = meanwhile(webhook, begun.version);
        return Ok(Checked::Shown(Done::Conflict(
            draw(view, webhook, form, &said, &Fields::default()).await?,
        )));
    }
    let (input, wrong) = form.read(&view.caller).await?;
    let checked = services::webhooks::check(&view.caller, input, &webhook.settings);
    match fields::checked(wrong, checked) {
        Ok(changes) => Ok(Checked::Good(Box::new(changes))),
        Err(fields) => {
            let again = draw(view, webhook, form, &Markup::default(), &fields).await?;
            Ok(Checked::Shown(Done::Again(again)))
        }
    }
}

/// Shows what the form would change.
pub async fn compare(view: View, sent: Form) -> Result<Done> {
    let (webhook, form, begun): (_, SettingsForm, Begun) =
        (webhook(&view).await?, sent.read()?, sent.read()?);
    if !begun.again.is_empty() {
        return Ok(Done::Show(draw(&view, &webhook, &form, &Markup::default(), &Fields::default()).await?));
    }
    let changes = match read(&view, &webhook, &form, &begun).await? {
        Checked::Good(changes) => changes,
        Checked::Shown(done) => return Ok(done),
    };
    let after = changes.over(&webhook.settings);
    if after == webhook.settings {
        let said = html! { p.warning role="status" { "Nothing differs from the present settings." } };
        return Ok(Done::Show(draw(&view, &webhook, &form, &said, &Fields::default()).await?));
    }
    let warnings = warnings(&view, &changes, &webhook.settings).await?;
    let mut page = Content::titled(format!("Save? {}", health::name(&webhook)));
    page.body = html! {
        p { "This is what changes. Nothing is saved yet." }
        (settings_words::difference(&webhook.settings, &after))
        (consequences(&webhook.settings, &after))
        (warnings)
        form method="post" action={ (address(&webhook)) "/save" } {
            input type="hidden" name="version" value=(webhook.version);
            (hidden(&pairs(&form)?))
            div.row {
                button.primary type="submit" { "Save" }
                button type="submit" name="again" value="yes" formaction={ (address(&webhook)) "/edit" } { "Edit further" }
                a href=(address(&webhook)) { "Leave it as it is" }
            }
        }
    };
    Ok(Done::Show(page))
}

/// The fields of a form with their values.
fn pairs(form: &SettingsForm) -> Result<Vec<(String, String)>> {
    let text = serde_html_form::to_string(form).map_err(ApiError::internal)?;
    Ok(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
}

/// What follows from a change besides the change itself.
fn consequences(before: &WebhookSettings, after: &WebhookSettings) -> Markup {
    let changed = before.fields_changed_by(after);
    let asks = after.verification != Verification::None
        && changed.iter().any(|field| ["url", "verification"].contains(field));
    let filters = changed.iter().any(|field| FILTERS.contains(field));
    html! {
        ul {
            @if changed.contains(&"url") { li { "Open deliveries go to the new address." } }
            @if asks { li { "It gets nothing until its receiver has agreed: it is asked at once." } }
            @if filters { li { "The new filters count for events that are stored from now on." } }
        }
    }
}

/// Saves what was shown.
pub async fn save(view: View, sent: Form) -> Result<Done> {
    let (webhook, form, begun): (_, SettingsForm, Begun) =
        (webhook(&view).await?, sent.read()?, sent.read()?);
    let changes = match read(&view, &webhook, &form, &begun).await? {
        Checked::Good(changes) => changes,
        Checked::Shown(done) => return Ok(done),
    };
    services::webhooks::update(&view.caller, webhook.webhook_id, Some(begun.version), &changes).await?;
    let after = changes.over(&webhook.settings);
    let changed = webhook.settings.fields_changed_by(&after).join(", ");
    Ok(Done::Go { to: address(&webhook), notice: format!("Saved: {changed}.") })
}

pub async fn show_access(view: View) -> Result<Content> {
    let webhook = webhook(&view).await?;
    Ok(draw_access(&webhook, &AccessForm::default(), &Markup::default(), &Fields::default()))
}

fn draw_access(webhook: &Webhook, form: &AccessForm, said: &Markup, fields: &Fields) -> Content {
    let headers = &webhook.header_names;
    let mut page = Content::titled(format!("Headers and credentials: {}", health::name(webhook)));
    page.body = html! {
        p { a href=(address(webhook)) { "Back to the webhook" } }
        (said)
        p { "Headers of its own: " @if headers.is_empty() { "none" } @else { (headers.join(", ")) }
            ". Credentials: " (webhook.auth_kind) ". Their values are never shown." }
        form.stack method="post" action={ (address(webhook)) "/access" } {
            (fields.summary())
            input type="hidden" name="version" value=(webhook.version);
            (form.draw(fields, false))
            button.primary type="submit" { "Save" }
        }
    };
    page
}

/// Saves headers, credentials and certificate. Values cannot be compared by eye, so this takes one step.
pub async fn save_access(view: View, sent: Form) -> Result<Done> {
    let (webhook, form, begun): (_, AccessForm, Begun) = (webhook(&view).await?, sent.read()?, sent.read()?);
    if begun.version != webhook.version {
        let said = meanwhile(&webhook, begun.version);
        return Ok(Done::Conflict(draw_access(&webhook, &form, &said, &Fields::default())));
    }
    let (access, wrong) = form.read();
    let input = WebhookInput { access, ..WebhookInput::default() };
    let checked = services::webhooks::check(&view.caller, input, &webhook.settings);
    let changes = match fields::checked(wrong, checked) {
        Ok(changes) => changes,
        Err(fields) => return Ok(Done::Again(draw_access(&webhook, &form, &Markup::default(), &fields))),
    };
    services::webhooks::update(&view.caller, webhook.webhook_id, Some(begun.version), &changes).await?;
    Ok(Done::Go { to: address(&webhook), notice: "Headers and credentials are saved.".to_owned() })
}
