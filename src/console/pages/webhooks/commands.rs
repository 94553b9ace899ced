//! What the owner of a webhook does with it: pause, resume, enable, snapshot, another secret, the end.

use maud::html;
use serde::Deserialize;

use super::registration::read_secret;
use super::{health, samples};
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{self, Fields, field};
use crate::console::form::Form;
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::ids::WebhookId;
use crate::domain::secret::Secret;
use crate::domain::violation::Violation;
use crate::services;
use crate::store::webhooks::Webhook;

/// How long a former secret signs on, in seconds.
const GRACE: [(&str, &str); 5] = [
    ("86400", "a day, then the former one ends"),
    ("3600", "an hour, then the former one ends"),
    ("604800", "7 days, then the former one ends"),
    ("60", "a minute, then the former one ends"),
    ("0", "not at all: the former one ends at once, because somebody may know it"),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RotateForm {
    overlap_seconds: String,
    secret: Option<Secret>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DeleteForm {
    name: String,
}

fn id(view: &View) -> Result<WebhookId> {
    Ok(WebhookId(view.id()?))
}

fn done(webhook: &Webhook, notice: &str) -> Done {
    Done::Go { to: links::webhook(webhook.webhook_id), notice: notice.to_owned() }
}

pub async fn pause(view: View, _: Form) -> Result<Done> {
    let webhook = view.caller.store.pause_webhook(id(&view)?, view.caller.principal.as_str()).await?;
    Ok(done(&webhook, "It is paused: deliveries wait until it is resumed."))
}

pub async fn resume(view: View, _: Form) -> Result<Done> {
    let webhook = view.caller.store.resume_webhook(id(&view)?, view.caller.principal.as_str()).await?;
    Ok(done(&webhook, "It is resumed: what waited leaves now."))
}

pub async fn enable(view: View, _: Form) -> Result<Done> {
    let webhook = view.caller.store.enable_webhook(id(&view)?, view.caller.principal.as_str()).await?;
    let notice = if webhook.state.takes_part() {
        "It is enabled and gets a snapshot. What it missed meanwhile comes by a recovery."
    } else {
        "Its receiver is asked again."
    };
    Ok(done(&webhook, notice))
}

pub async fn snapshot(view: View, _: Form) -> Result<Done> {
    let webhook = view.caller.store.request_snapshot(id(&view)?, view.caller.principal.as_str()).await?;
    Ok(done(&webhook, "It is sent the present state of every agent that matches."))
}

pub async fn show_rotation(view: View) -> Result<Content> {
    let webhook = view.caller.store.webhook(id(&view)?).await?;
    Ok(draw_rotation(&webhook, &RotateForm::default(), &Fields::default()))
}

fn draw_rotation(webhook: &Webhook, form: &RotateForm, fields: &Fields) -> Content {
    let address = links::webhook(webhook.webhook_id);
    let mut page = Content::titled(format!("Rotate the secret: {}", health::name(webhook)));
    page.body = html! {
        p { a href=(address) { "Back to the webhook" } }
        p { "It gets another secret, which is shown once. As long as both sign, a receiver that knows either accepts every POST." }
        form.stack method="post" action={ (address) "/rotate" } {
            (fields.summary())
            (fields.choice(field("overlap_seconds", "The former secret signs too for", ""), &form.overlap_seconds, &GRACE))
            (fields.secret(field("secret", "A secret of your own", "whsec_ and the base64 of 24 to 64 bytes. Empty: one is made.")))
            button.primary type="submit" { "Rotate" }
        }
    };
    page
}

pub async fn rotate(view: View, sent: Form) -> Result<Done> {
    let (id, form): (_, RotateForm) = (id(&view)?, sent.read()?);
    let mut wrong = Vec::new();
    let secret = read_secret(form.secret.as_ref(), &mut wrong);
    let seconds = fields::integer("overlap_seconds", &form.overlap_seconds, &mut wrong);
    let overlap = match fields::checked(wrong, services::webhooks::check_overlap(seconds)) {
        Ok(overlap) => overlap,
        Err(fields) => {
            let webhook = view.caller.store.webhook(id).await?;
            return Ok(Done::Again(draw_rotation(&webhook, &form, &fields)));
        }
    };
    let (webhook, secret) = services::webhooks::rotate_secret(&view.caller, id, secret, overlap).await?;
    let unsealed = services::webhooks::unsealed(&view.caller, &webhook)?;
    let mut page = Content::titled(format!("Another secret: {}", health::name(&webhook)));
    page.body = html! {
        (samples::with_secret(&secret, &webhook.settings, unsealed.public_key.as_deref()))
        p { a.button href=(links::webhook(webhook.webhook_id)) { "Go to the webhook" } }
    };
    Ok(Done::Show(page))
}

pub async fn show_deletion(view: View) -> Result<Content> {
    let webhook = view.caller.store.webhook(id(&view)?).await?;
    Ok(draw_deletion(&webhook, "", &Fields::default()))
}

fn draw_deletion(webhook: &Webhook, typed: &str, fields: &Fields) -> Content {
    let name = health::name(webhook);
    let address = links::webhook(webhook.webhook_id);
    let mut page = Content::titled(format!("Delete webhook {name}?"));
    page.body = html! {
        p { "This cannot be undone:" }
        ul {
            li { "Its secrets are destroyed. No POST to " code { (webhook.settings.url) } " begins any more." }
            li { "What is still open ends undelivered, as " code { "webhook_gone" } "." }
            li { "What was delivered stays in the audit log." }
        }
        form.stack method="post" action={ (address) "/delete" } {
            (fields.summary())
            p { "Its name is: " strong { (name) } }
            (fields.text(field("name", "Type its name to delete it", ""), typed))
            div.row { button.danger type="submit" { "Delete" } a href=(address) { "Keep it" } }
        }
    };
    page
}

pub async fn delete(view: View, sent: Form) -> Result<Done> {
    let (id, form): (_, DeleteForm) = (id(&view)?, sent.read()?);
    let webhook = view.caller.store.webhook(id).await?;
    if form.name.trim() != health::name(&webhook).trim() {
        let fields = Fields::wrong(Violation::new("name", "is not its name"));
        return Ok(Done::Again(draw_deletion(&webhook, &form.name, &fields)));
    }
    view.caller.store.delete_webhook(id, view.caller.principal.as_str()).await?;
    let notice = format!("{} is deleted.", health::name(&webhook));
    Ok(Done::Go { to: format!("{ROOT}/webhooks"), notice })
}
