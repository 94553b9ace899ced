//! What is searched for among deliveries, and the form that asks for it.

use maud::{Markup, html};

use crate::api::http::page::{List, Paging};
use crate::console::Result;
use crate::console::search::{A_TIME, Fields, take_time, who};
use crate::console::view::View;
use crate::domain::ids::EventId;
use crate::store::views::deliveries::DeliveryFilter;
use crate::store::views::names::SourceName;

/// States that can be searched for, and what they are called.
const STATES: [(&str, &str); 13] = [
    ("open", "open, whatever it waits for"),
    ("waiting", "waiting"),
    ("sending", "sending"),
    ("blocked", "blocked by an older one"),
    ("paused", "paused"),
    ("ended", "ended, however"),
    ("delivered", "delivered"),
    ("dead", "dead: given up"),
    ("expired", "expired: too old"),
    ("superseded", "superseded by a newer state"),
    ("webhook_disabled", "webhook disabled"),
    ("webhook_gone", "webhook gone"),
    ("erased", "person erased"),
];

/// What the address asks for.
///
/// # Errors
/// What is wrong with it, or if the database does not answer.
pub async fn read(view: &View) -> Result<(DeliveryFilter, Paging)> {
    let mut query = view.query()?;
    let filter = DeliveryFilter {
        delivery: None,
        webhook: who::take_webhook(view, &mut query).await?,
        agents: who::take_agents(view, &mut query).await?,
        source: who::take_source(&mut query)?,
        event: query.id("event")?.map(EventId),
        state: query.word("state", &STATES.map(|(word, _)| word))?,
        since: take_time(&mut query, "since")?,
        until: take_time(&mut query, "until")?,
    };
    Ok((filter, query.paging(List::Deliveries)?))
}

/// The form.
///
/// # Errors
/// If the database does not answer.
pub async fn form(view: &View, fields: Fields<'_>, sources: &[SourceName]) -> Result<Markup> {
    let states = STATES.map(|(word, called)| (word.to_owned(), called.to_owned()));
    let webhook = who::webhook_field(view, fields).await?;
    Ok(fields.form(
        "Search",
        &html! {
            (who::agent_field(fields))
            (webhook)
            (who::source_field(fields, sources))
            (fields.choice("state", "State", "any", &states))
            (fields.text("since", "Event since", A_TIME))
            (fields.text("until", "Event until", ""))
            @if !view.given("event").is_empty() { (fields.text("event", "Event", "Id of the event")) }
        },
    ))
}
