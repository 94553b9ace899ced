//! Every webhook with its health at a glance.

use actix_web::http::StatusCode;
use maud::{Markup, html};

use super::health;
use crate::api::http::page::{List, Paging, Place};
use crate::console::content::Content;
use crate::console::parts::{empty, maybe, pager, since, table};
use crate::console::search::{self, Fields};
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::WebhookId;
use crate::domain::webhook::state::WebhookState;
use crate::services;
use crate::store::views::lanes::{OPEN_COUNTED_IN_LIST, Traffic};
use crate::store::webhooks::{Webhook, WebhookFilter};

const FAILING: [(&str, &str); 2] = [("true", "failed"), ("false", "did not fail")];

pub async fn show(view: View) -> Result<Content> {
    let (found, wrong) = search::found_or_wrong(read(&view))?;
    let mut page = Content::titled("Webhooks");
    let form = form(Fields::new(&view, &wrong));
    let Some((filter, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        page.body = form;
        return Ok(page);
    };
    let after = paging.after_id().map(WebhookId);
    let rows = view.caller.store.webhooks(&filter, after, paging.rows()).await?;
    let (webhooks, next) = paging.page(rows, None, |webhook| Place::Id(webhook.webhook_id.0));
    let ids: Vec<WebhookId> = webhooks.iter().map(|webhook| webhook.webhook_id).collect();
    let traffic = services::webhooks::traffic(&view.caller, &ids).await?;
    let rows = html! { @for webhook in &webhooks { (row(webhook, traffic.get(&webhook.webhook_id))) } };
    let head =
        ["Webhook", "State", "Circuit", "Last failure", "Open", "Oldest", "Success, this hour and last"];
    let list =
        html! { @if webhooks.is_empty() { (none(&view)) } @else { (table("Webhooks", &head, &rows)) } };
    let list = page.live("webhooks", &list);
    page.body = html! {
        @if view.may(Scope::Webhooks) {
            p { a.button.primary href={ (ROOT) "/webhooks/new" } { "Register a webhook" } }
        }
        (form) (list)
        (pager(&view, next.as_deref()))
    };
    Ok(page)
}

fn read(view: &View) -> Result<(WebhookFilter, Paging)> {
    let mut query = view.query()?;
    let filter = WebhookFilter {
        state: query.word("state", WebhookState::WORDS)?.and_then(|word| WebhookState::from_name(&word)),
        failing: query.boolean("failing")?,
        text: query.text("text")?,
    };
    Ok((filter, query.paging(List::Webhooks)?))
}

fn form(fields: Fields<'_>) -> Markup {
    let states: Vec<_> =
        WebhookState::WORDS.iter().map(|word| ((*word).to_owned(), (*word).to_owned())).collect();
    let failing = FAILING.map(|(value, words)| (value.to_owned(), words.to_owned()));
    fields.form(
        "Search",
        &html! {
            (fields.text("text", "Webhook", "Any part of its address or description"))
            (fields.choice("state", "State", "any", &states))
            (fields.choice("failing", "Last attempt", "any", &failing))
        },
    )
}

fn none(view: &View) -> Markup {
    if view.address() != view.path {
        return empty("No webhook is like that.", Some((view.path.as_str(), "Show all")));
    }
    let next = view.may(Scope::Webhooks).then_some(("/console/webhooks/new", "Register the first one"));
    empty("Nobody is told of presence changes yet. A webhook tells a receiver of yours.", next)
}

fn row(webhook: &Webhook, traffic: Option<&Traffic>) -> Markup {
    let (id, url) = (webhook.webhook_id, &webhook.settings.url);
    let name = health::name(webhook);
    html! {
        tr id={ "webhook-" (id) } {
            th scope="row" {
                a href=(links::webhook(id)) { (name) }
                @if name != url.as_str() { div.hint { (url) } }
            }
            td { (health::state(webhook)) }
            td.words { (health::circuit(webhook)) }
            td.words { (health::last_outcome(webhook)) }
            @match traffic {
                Some(traffic) => {
                    td { (health::at_most(traffic.open, OPEN_COUNTED_IN_LIST)) }
                    td { (maybe(traffic.oldest, since)) }
                    td { (health::success(traffic.taken, traffic.attempts)) }
                }
                None => { td {} td {} td {} }
            }
        }
    }
}
