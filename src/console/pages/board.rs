//! The presence board: every agent's present state, a page at a time.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use maud::{Markup, html};

use super::presence;
use crate::api::http::agent_query::take_agent_filter;
use crate::api::http::page::{List, Paging, Place};
use crate::console::content::Content;
use crate::console::parts::{Tone, badge, empty, maybe, pager, since, since_quietly, table};
use crate::console::search::{self, Fields};
use crate::console::view::View;
use crate::console::{Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::store::sources::Source;
use crate::store::views::agents::{AgentFilter, AgentRow, PresenceCount};

pub(super) const PAGES: &[Page] = &[Page::named("Board", Scope::Read, "/board", |view| Box::pin(show(view)))];

/// Sources that the filter offers.
const SOURCES_MAX: i64 = 200;
/// Queues that a row names; the agent's page has all.
const QUEUES_SHOWN: usize = 3;
/// Letters of a queue's id that a row shows.
const QUEUE_LETTERS: usize = 8;

async fn show(view: View) -> Result<Content> {
    let sources = view.caller.store.sources(None, SOURCES_MAX).await?;
    let (found, wrong) = search::found_or_wrong(read(&view))?;
    let mut page = Content::titled("Presence board");
    let form = form(&view, Fields::new(&view, &wrong), &sources);
    let Some((filter, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        page.body = form;
        return Ok(page);
    };
    let store = &view.caller.store;
    let rows = store.agents(&filter, paging.after_number(), paging.rows()).await?;
    let (agents, next) = paging.page(rows, None, |agent| Place::Number(agent.agent_key));
    let are_all = filter.presence.is_none() && paging.after_number().is_none() && next.is_none();
    let counts = if are_all { count(&agents) } else { store.agents_by_presence(&filter).await? };
    let counts = page.live("counts", &counted(&view, &counts));
    let list = page.live("agents", &list(&view, &agents, &sources));
    page.body = html! { (counts) (form) (list) (pager(&view, next.as_deref())) };
    Ok(page)
}

fn read(view: &View) -> Result<(AgentFilter, Paging)> {
    let mut query = view.query()?;
    let filter = take_agent_filter(&mut query)?;
    Ok((filter, query.paging(List::Agents)?))
}

/// Counts agents by presence, most first, without asking the database to look through all of them again.
fn count(agents: &[AgentRow]) -> Vec<PresenceCount> {
    let mut counts: BTreeMap<Option<&str>, i64> = BTreeMap::new();
    for agent in agents {
        *counts.entry(agent.presence.as_deref()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts
        .into_iter()
        .map(|(presence, agents)| PresenceCount { presence: presence.map(str::to_owned), agents })
        .collect();
    counts.sort_by_key(|count| Reverse(count.agents));
    counts
}

/// How many are in each presence, each a link to them.
fn counted(view: &View, counts: &[PresenceCount]) -> Markup {
    let all: i64 = counts.iter().map(|count| count.agents).sum();
    let given = view.given("presence");
    html! {
        nav.counts aria-label="Agents by state" {
            a href=(view.with("presence", None)) aria-current=[given.is_empty().then_some("true")] {
                "All " b { (all) }
            }
            @for PresenceCount { presence, agents } in counts {
                @if let Some(presence) = presence {
                    a href=(view.with("presence", Some(presence)))
                        aria-current=[(given == *presence).then_some("true")] {
                        (presence::word(presence)) " " b { (agents) }
                    }
                } @else {
                    span { "Unknown " b { (agents) } }
                }
            }
        }
    }
}

fn form(view: &View, fields: Fields<'_>, sources: &[Source]) -> Markup {
    let named: Vec<_> =
        sources.iter().map(|source| (source.source_id.to_string(), source.name.clone())).collect();
    let coverage =
        [("true".to_owned(), "covered".to_owned()), ("false".to_owned(), "not covered".to_owned())];
    fields.form(
        "Search",
        &html! {
            (fields.text("name", "Name", "Any part of it"))
            (fields.choice("presence", "State", "any", &presence::choices()))
            (fields.text("queue", "Queue", "Its id"))
            @if sources.len() > 1 || !view.given("source").is_empty() { (fields.choice("source", "Source", "any", &named)) }
            (fields.choice("connected", "Coverage", "any", &coverage))
            (fields.text("external_id", "External id", "The whole id"))
        },
    )
}

fn list(view: &View, agents: &[AgentRow], sources: &[Source]) -> Markup {
    if agents.is_empty() {
        return if view.address() != view.path {
            empty("No agent is like this.", Some((&view.path, "Show all agents")))
        } else if sources.is_empty() {
            let add = format!("{ROOT}/sources");
            let add = view.may(Scope::Sources).then_some((add.as_str(), "Add a source"));
            empty("Nobody is watched yet: there is no source of agents.", add)
        } else {
            let look = format!("{ROOT}/sources");
            empty(
                "No agent was heard of yet: the sources are read, or name nobody.",
                Some((&look, "See how the sources stand")),
            )
        };
    }
    let several = sources.len() > 1;
    let mut head = vec!["Agent", "State", "Since", "Queues", "Coverage"];
    if several {
        head.push("Source");
    }
    let rows = html! {
        @for agent in agents {
            tr id={ "agent-" (agent.agent_key) } {
                th scope="row" { (named(agent)) }
                td { (state(agent)) }
                td { (maybe(agent.since, since)) }
                td { (queues(view, agent)) }
                td { (coverage(agent)) }
                @if several { td { (agent.source_name) } }
            }
        }
    };
    table("Agents", &head, &rows)
}

/// Name and ids, and where its page is.
fn named(agent: &AgentRow) -> Markup {
    html! {
        a href=(links::agent(&agent.agent_id, Some(agent.source_id))) {
            (agent.name.as_deref().unwrap_or(&agent.agent_id.0))
        }
        @if let Some(external) = &agent.external_id { " " span.hint { (external) } }
    }
}

/// The presence, and what else tells whether work can be given.
pub(super) fn state(agent: &AgentRow) -> Markup {
    let part = agent.state.presence.as_ref().map(|presence| &presence.value);
    html! {
        (presence::shown(agent.presence.as_deref(), part.and_then(|part| part.label.as_deref())))
        @if let Some(routing) = &agent.state.routing {
            @if agent.presence.as_deref() == Some("ON_QUEUE") {
                " " span.hint { (presence::routing_word(&routing.value)) }
            }
        }
        @if agent.state.out_of_office.as_ref().is_some_and(|out| out.value) { " " (badge(Tone::Plain, "out of office")) }
        @if agent.erased_at.is_some() { " " (badge(Tone::Plain, "erased")) }
    }
}

/// Queues that the agent works in now: each leads to who else does.
fn queues(view: &View, agent: &AgentRow) -> Markup {
    let Some(queues) = &agent.state.queues else {
        return html! { span.none title="Genesys has not told the queues of this agent" { "not told" } };
    };
    let more = queues.value.len().saturating_sub(QUEUES_SHOWN);
    html! {
        @for queue in queues.value.iter().take(QUEUES_SHOWN) {
            a.mono href=(view.with("queue", Some(queue))) title=(queue) {
                (queue.chars().take(QUEUE_LETTERS).collect::<String>())
            } " "
        }
        @if queues.value.is_empty() { span.none { "none" } }
        @if more > 0 { a href=(links::agent(&agent.agent_id, Some(agent.source_id))) { "+" (more) } }
    }
}

/// Whether the agent is covered, and when that was proven last.
pub(super) fn coverage(agent: &AgentRow) -> Markup {
    html! {
        @if agent.connected {
            "proven " (maybe(agent.proven_at, since_quietly))
        } @else if !agent.watched {
            (badge(Tone::Plain, "not watched"))
        } @else if let Some(why) = &agent.rejected {
            (badge(Tone::Bad, "not covered")) " " span.hint { "Genesys refuses: " (why) }
        } @else {
            (badge(Tone::Bad, "not covered"))
            @if let Some(proven_at) = agent.proven_at { " " span.hint { "last proven " (since(proven_at)) } }
        }
    }
}
