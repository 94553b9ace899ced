//! A webhook is registered: guided by a form, and then shown its secret with what to do next.

use maud::{Markup, html};
use serde::Deserialize;

use super::access_form::{self, AccessForm};
use super::settings_fields::{self, Choices};
use super::settings_form::SettingsForm;
use super::{health, ping, samples};
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{self, Fields, field};
use crate::console::form::Form;
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::delivery::signature::SigningKey;
use crate::domain::secret::Secret;
use crate::domain::violation::Violation;
use crate::domain::webhook::{WebhookChanges, WebhookSettings};
use crate::services;
use crate::store::webhooks::Webhook;

/// Sources that a form offers; with more, they are named by the REST API alone.
const SOURCES_OFFERED: i64 = 100;

/// What only a registration has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OnlyNew {
    snapshot: String,
    secret: Option<Secret>,
}

pub async fn show(view: View) -> Result<Content> {
    let settings = SettingsForm::of(&WebhookSettings::default());
    draw(&view, &settings, &AccessForm::default(), &OnlyNew::default(), &Fields::default()).await
}

/// The sources that a webhook can be confined to.
pub async fn choices(view: &View) -> Result<Choices> {
    let sources = view.caller.store.sources(None, SOURCES_OFFERED).await?;
    let named = sources.into_iter().map(|source| (source.source_id.to_string(), source.name));
    Ok(Choices { sources: named.collect() })
}

async fn draw(
    view: &View,
    settings: &SettingsForm,
    access: &AccessForm,
    new: &OnlyNew,
    fields: &Fields,
) -> Result<Content> {
    let choices = choices(view).await?;
    let mut page = Content::titled("Register a webhook");
    page.body = html! {
        p { "The address is all that is needed. You get a secret, code that verifies, and a test ping next." }
        form.stack method="post" action={ (ROOT) "/webhooks/new" } {
            (fields.summary())
            (settings_fields::draw(settings, fields, &choices))
            details open[fields.is_wrong(&access_form::NAMES)] { summary { "How the receiver lets us in" } (access.draw(fields, true)) }
            details open[fields.is_wrong(&["secret"])] { summary { "A secret of your own" }
                (fields.secret(field("secret", "Secret", "whsec_ and the base64 of 24 to 64 bytes. Empty: one is made."))) }
            (fields.ticks(field("snapshot", "At the start", ""), &[&new.snapshot],
                &[("yes", "send the present state of every agent that matches")]))
            button.primary type="submit" { "Register" }
        }
    };
    Ok(page)
}

/// Registers it, or says what is wrong.
pub async fn register(view: View, sent: Form) -> Result<Done> {
    let (settings, access): (SettingsForm, AccessForm) = (sent.read()?, sent.read()?);
    let new: OnlyNew = sent.read()?;
    let (mut input, mut wrong) = settings.read(&view.caller).await?;
    let (access_input, access_wrong) = access.read();
    input.access = access_input;
    wrong.extend(access_wrong);
    let secret = read_secret(new.secret.as_ref(), &mut wrong);
    let checked = services::webhooks::check(&view.caller, input, &WebhookSettings::default());
    let changes = match fields::checked(wrong, checked) {
        Ok(changes) => changes,
        Err(fields) => return Ok(Done::Again(draw(&view, &settings, &access, &new, &fields).await?)),
    };
    let warnings = warnings(&view, &changes, &WebhookSettings::default()).await?;
    match services::webhooks::create(&view.caller, &changes, secret, !new.snapshot.is_empty()).await {
        Ok((webhook, secret)) => Ok(Done::Show(registered(&view, &webhook, &secret, &warnings)?)),
        Err(error) => {
            let fields = Fields::refused(error.into())?;
            Ok(Done::Again(draw(&view, &settings, &access, &new, &fields).await?))
        }
    }
}

/// A secret that was given. The text itself is never told back.
pub fn read_secret(given: Option<&Secret>, wrong: &mut Vec<Violation>) -> Option<SigningKey> {
    let text = given.map(|secret| secret.expose().trim()).filter(|text| !text.is_empty())?;
    let key = SigningKey::parse(text).ok();
    if key.is_none() {
        wrong.push(Violation::new("secret", "is not whsec_ and the base64 of 24 to 64 bytes"));
    }
    key
}

/// What can never match among the filters of what will be.
pub async fn warnings(view: &View, changes: &WebhookChanges, present: &WebhookSettings) -> Result<Markup> {
    let found = services::webhooks::never_matching(&view.caller, &changes.over(present)).await?;
    Ok(html! {
        @if !found.is_empty() {
            div.warning role="note" {
                p { "Some of what the filters ask for can never match as things are:" }
                ul { @for warning in &found { li { code { (warning.field) } " " (warning.what) } } }
            }
        }
    })
}

fn registered(view: &View, webhook: &Webhook, secret: &SigningKey, warnings: &Markup) -> Result<Content> {
    let unsealed = services::webhooks::unsealed(&view.caller, webhook)?;
    let mut page = Content::titled(format!("Registered: {}", health::name(webhook)));
    page.body = html! {
        (warnings)
        (samples::with_secret(secret, &webhook.settings, unsealed.public_key.as_deref()))
        h2 { "Try it" }
        (ping::from_here(webhook))
        p { a.button href=(links::webhook(webhook.webhook_id)) { "Go to the webhook" } }
    };
    Ok(page)
}
