//! Trying all deliveries again that match a search: first how many there are and of which webhooks, and then,
//! once that is confirmed, a recovery for each of them.

use actix_web::http::StatusCode;
use maud::{Markup, html};

use super::filter;
use crate::api::http::page::at;
use crate::api::http::problem::ApiError;
use crate::clock;
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::form::Form;
use crate::console::parts::{Tone, badge, empty, table};
use crate::console::search::names::Names;
use crate::console::search::{self, Fields, who};
use crate::console::view::View;
use crate::console::{ROOT, Result, links};
use crate::domain::plural::plural;
use crate::services::deliveries::{Retried, RetryInput, check_retry, retry_matching};

/// Ends that can be undone for many at once, as the search names them.
const STATES: [&str; 4] = ["dead", "expired", "webhook_disabled", "superseded"];

/// Whether what a search finds can be tried again all at once: not the deliveries of one event, nor open ones.
pub fn is_possible(view: &View) -> bool {
    let state = view.given("state");
    let is_ended = ["", "ended"].contains(&state.as_str()) || STATES.contains(&state.as_str());
    is_ended && view.given("event").is_empty()
}

/// What would be tried again, and a button that does it.
///
/// # Errors
/// If the database does not answer.
pub async fn ask(view: View) -> Result<Content> {
    let mut page = Content::titled("Try all that match again");
    let (found, wrong) = search::found_or_wrong(look(&view).await)?;
    let sources = view.caller.store.source_names().await?;
    let form = filter::form(&view, Fields::new(&view, &wrong), &sources).await?;
    let Some((wanted, found)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        let meant = who::webhook_choice(&view, &who::webhooks_meant(&view).await?);
        page.body = html! { (form) (meant) };
        return Ok(page);
    };
    let names = Names::read(&view, found.iter().map(|of| of.webhook_id), std::iter::empty()).await?;
    page.body = html! {
        (form)
        @if found.is_empty() {
            (empty(
                "Nothing that ended without success is like this.",
                Some((&format!("{ROOT}/deliveries"), "Search among all deliveries")),
            ))
        } @else { (confirm(&view, &wanted, &found, &names)) }
    };
    Ok(page)
}

async fn look(view: &View) -> Result<(RetryInput, Vec<Retried>)> {
    let wanted = read(view).await?;
    let found = retry_matching(&view.caller, wanted.clone(), true).await?;
    Ok((wanted, found))
}

async fn read(view: &View) -> Result<RetryInput> {
    let (filter, _) = filter::read(view).await?;
    if filter.event.is_some() {
        return Err(ApiError::parameter("event", "does not go with it; try its deliveries again one by one"));
    }
    let states = match filter.state {
        None => None,
        Some(all) if all == "ended" => None,
        Some(state) if STATES.contains(&state.as_str()) => Some(vec![state]),
        Some(_) => {
            let none =
                "is none of those that can be tried again: dead, expired, webhook disabled, superseded";
            return Err(ApiError::parameter("state", none));
        }
    };
    let input = RetryInput {
        webhook: filter.webhook,
        agent: None,
        agents: filter.agents.unwrap_or_default(),
        source: filter.source,
        states,
        since: filter.since,
        // What ends while somebody reads the question is not part of the answer.
        until: Some(filter.until.unwrap_or_else(clock::now)),
    };
    check_retry(input).map_err(|wrong| ApiError::fields(&wrong))
}

fn confirm(view: &View, wanted: &RetryInput, found: &[Retried], names: &Names) -> Markup {
    let rows = html! {
        @for of in found {
            tr id={ "webhook-" (of.webhook_id) } {
                th scope="row" { (names.webhook(Some(of.webhook_id))) }
                td { @if of.at_least { "at least " } (of.deliveries) }
                td { @match &of.refused {
                    None => (badge(Tone::Good, "is tried again")),
                    Some(why) => { (badge(Tone::Warn, "stays")) " " (why) },
                } }
            }
        }
    };
    let (deliveries, at_least, webhooks) = sum(found);
    let hidden = [
        ("agent", view.given("agent")),
        ("webhook", wanted.webhook.map(|id| id.to_string()).unwrap_or_default()),
        ("source", wanted.source.map(|id| id.to_string()).unwrap_or_default()),
        ("state", view.given("state")),
        ("since", wanted.since.map(at).unwrap_or_default()),
        ("until", wanted.until.map(at).unwrap_or_default()),
    ];
    html! {
        p { strong { (totals(deliveries, at_least, webhooks)) } " would be tried again." }
        (table("Webhooks", &["Webhook", "Deliveries", "What happens"], &rows))
        p.hint {
            "They are opened again under their ids, so a receiver that keeps ids sees which it knows. Those of one agent "
            "keep their order. Each webhook gets a recovery, which says how far it is and can be cancelled; what it has "
            "opened by then stays open."
        }
        form method="post" action={ (ROOT) "/deliveries/retry" } {
            @for (name, value) in &hidden { @if !value.is_empty() { input type="hidden" name=(name) value=(value); } }
            p.row {
                @if webhooks > 0 {
                    button.primary type="submit" { "Try " (count(deliveries, at_least)) " again" }
                }
                a.button href=(links::with_query("/deliveries", &[("state", &view.given("state"))])) { "Leave them" }
            }
        }
    }
}

fn count(deliveries: i64, at_least: bool) -> String {
    let counted = plural(deliveries, "delivery", "deliveries");
    if at_least { format!("at least {counted}") } else { counted }
}

fn totals(deliveries: i64, at_least: bool, webhooks: i64) -> String {
    format!("{} to {}", count(deliveries, at_least), plural(webhooks, "webhook", "webhooks"))
}

/// Deliveries that are not refused, whether there are more, and of how many webhooks.
fn sum(found: &[Retried]) -> (i64, bool, i64) {
    let taken = || found.iter().filter(|of| of.refused.is_none());
    (
        taken().map(|of| of.deliveries).sum(),
        taken().any(|of| of.at_least),
        i64::try_from(taken().count()).unwrap_or(i64::MAX),
    )
}

/// Tries again what was confirmed.
///
/// # Errors
/// If the database does not answer.
pub async fn act(view: View, form: Form) -> Result<Done> {
    let view = view.asking(&form.read::<Vec<(String, String)>>()?);
    let wanted = match search::found_or_wrong(read(&view).await)? {
        (Some(wanted), _) => wanted,
        (None, _) => return Ok(Done::Again(ask(view).await?)),
    };
    let done = retry_matching(&view.caller, wanted, false).await?;
    if done.is_empty() {
        return Ok(Done::Again(ask(view).await?));
    }
    let (deliveries, at_least, webhooks) = sum(&done);
    let kept = i64::try_from(done.len()).unwrap_or(i64::MAX) - webhooks;
    let mut notice = format!("{} tried again.", totals(deliveries, at_least, webhooks));
    if kept > 0 {
        notice.push_str(&format!(
            " Of {} nothing is: disabled, unverified, or with a recovery that runs.",
            plural(kept, "webhook", "webhooks")
        ));
    }
    let mut begun = done.iter().filter_map(|of| of.recovery.as_ref());
    let to = match (begun.next(), begun.next()) {
        (Some(only), None) => links::recovery(only.recovery_id),
        _ => format!("{ROOT}/recoveries"),
    };
    Ok(Done::Go { to, notice })
}
