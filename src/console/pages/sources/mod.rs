//! Sources: the Genesys organisations that are watched, and how they stand; one source, with its connections
//! and what Genesys does not let it watch. Adding and changing is in `change`, trying out in `examinations`,
//! connections in `connections`.

use maud::{Markup, html};

use crate::api::http::page::{List, Place};
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::parts::{
    Tone, answers, badge, button, empty, facts, maybe, or_none, pager, since, table, time,
};
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::SourceId;
use crate::domain::plural::plural;
use crate::domain::presence::remedies::remedy_of_text;
use crate::services;
use crate::store::sources::Source;
use crate::store::sources::connections::ConnectionFilter;
use crate::store::sources::health::Health;

mod change;
mod connections;
mod examinations;
mod rejected;

pub(super) const PAGES: &[Page] = &[
    Page::named("Sources", Scope::Read, "/sources", |view| Box::pin(list(view))),
    Page::inner(Scope::Read, "/sources/{id}", |view| Box::pin(one(view))),
    Page::inner(Scope::Sources, "/sources/{id}/delete", |view| Box::pin(ask(view))),
    change::NEW,
    change::EDIT,
    examinations::ONE,
    rejected::LIST,
    connections::LIST,
    connections::ONE,
    connections::TERMINATE,
];

pub(super) const ACTIONS: &[Action] = &[
    Action::new(Scope::Sources, "/sources/{id}/refresh", |view, _| Box::pin(refresh(view))),
    Action::new(Scope::Sources, "/sources/{id}/delete", |view, _| Box::pin(delete(view))),
    change::CREATE,
    change::UPDATE,
    examinations::EXAMINE,
    examinations::SAVE,
    connections::RESTART,
    connections::DO_TERMINATE,
];

/// Connections that a source's page lists.
const CONNECTIONS_MAX: i64 = 200;

async fn list(view: View) -> Result<Content> {
    let paging = view.query()?.paging(List::Sources)?;
    let after = paging.after_id().map(SourceId);
    let rows = view.caller.store.sources(after, paging.rows()).await?;
    let (rows, next) = paging.page(rows, None, |row| Place::Id(row.source_id.0));
    let may = view.may(Scope::Sources);
    let new = format!("{ROOT}/sources/new");
    let mut page = Content::titled("Sources");
    let shown = html! {
        @if rows.is_empty() && after.is_none() {
            (empty(
                "No Genesys organisation is watched yet. Add one: region, OAuth client, and whom to watch.",
                may.then_some((new.as_str(), "Add a source")),
            ))
        } @else { (table_of(&rows)) }
    };
    let shown = page.live("sources", &shown);
    page.body = html! {
        p.row {
            @if may { a.button.primary href=(new) { "Add a source" } }
            a href={ (ROOT) "/connections" } { "All connections" }
            a href={ (ROOT) "/rejected-topics" } { "What Genesys does not let us watch" }
        }
        (shown) (pager(&view, next.as_deref()))
    };
    Ok(page)
}

fn table_of(rows: &[Source]) -> Markup {
    let shown = html! {
        @for source in rows {
            @let health = &source.health.0;
            tr id={ "source-" (source.source_id) } {
                th scope="row" { a href=(links::source(source.source_id)) { (source.name) } }
                td { (state(health)) }
                td { (health.connections_open) " of " (health.connections) " open" }
                td { (health.agents_wanted)
                    @if health.agents_rejected > 0 { " " (badge(Tone::Bad, &format!("{} rejected", health.agents_rejected))) }
                    @if health.agents_over_limit > 0 { " " (badge(Tone::Bad, &format!("{} without room", health.agents_over_limit))) } }
                td { (maybe(health.roster_read_at, since)) }
                td { (or_none(source.region.as_deref().or(source.api_url.as_deref()))) }
            }
        }
    };
    table("Sources", &["Name", "State", "Connections", "Agents to watch", "Rosters read", "Where"], &shown)
}

fn state(health: &Health) -> Markup {
    html! {
        @match health.stale_since {
            Some(at) => { (badge(Tone::Bad, "stale")) " " (since(at)) },
            None if health.connections_open < health.connections => { (badge(Tone::Warn, "connecting")) },
            None => { (badge(Tone::Good, "live")) }
        }
        @if health.roster_error.is_some() { " " (badge(Tone::Warn, "rosters not read")) }
    }
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let source = view.caller.store.source(SourceId(view.id()?)).await?;
    let filter = ConnectionFilter { source: Some(source.source_id), ..ConnectionFilter::default() };
    let rows = view.caller.store.connections(&filter, None, CONNECTIONS_MAX).await?;
    let mut page = Content::titled(source.name.clone());
    let stands = html! {
        (health(&source))
        h2 { "Connections" }
        @if rows.is_empty() { (empty("There is none: nobody is to be watched yet.", None)) }
        @else { (connections::table_of(&view, &rows)) }
        @if i64::try_from(rows.len()) == Ok(CONNECTIONS_MAX) {
            p { a href=(links::with_query("/connections", &[("source", &source.source_id.to_string())])) { "All its connections" } }
        }
    };
    let stands = page.live("source", &stands);
    page.body = html! { (buttons(&view, &source)) (stands) h2 { "Settings" } (settings(&source)) (leads(&view, &source)) };
    Ok(page)
}

fn buttons(view: &View, source: &Source) -> Markup {
    let address = links::source(source.source_id);
    html! {
        @if view.may(Scope::Sources) {
            div.row {
                (button(&format!("{address}/refresh"), "Read the rosters now"))
                (button(&format!("{address}/examine"), "Examine the way to Genesys"))
                @if source.is_from_environment() {
                    span.hint { "It is set by the environment of the process and changed there." }
                } @else {
                    a.button href={ (address) "/edit" } { "Edit settings" }
                    a.button href={ (address) "/delete" } { "Delete" }
                }
            }
        }
    }
}

fn health(source: &Source) -> Markup {
    let health = &source.health.0;
    let rejected = links::with_query("/rejected-topics", &[("source", &source.source_id.to_string())]);
    html! {
        p.verdict { (state(health)) }
        @if let Some(at) = health.stale_since {
            p.alert { "There has been no live connection since " (time(at)) ": changes of presence are not seen. "
                "The connections below say why; examining the way to Genesys finds what is wrong step by step." }
        }
        @if let Some(error) = &health.roster_error {
            p.alert { "The last reading of a roster failed: " (error) ". The agents of the last good one are watched further."
                @if let Some(remedy) = remedy_of_text("rosters", error) { " What to do: " (remedy) "." } }
        }
        @if health.agents_rejected > 0 {
            p.alert { "Genesys does not let us watch " a href=(rejected) { (plural(health.agents_rejected, "agent", "agents")) }
                ". What to do: give the OAuth client a role in the division of these agents (Admin > Integrations > OAuth > Roles)." }
        }
        @if health.agents_over_limit > 0 {
            p.alert { (plural(health.agents_over_limit, "agent has", "agents have")) " no room on the channels of this OAuth client. "
                "What to do: watch the rest through a second source with an OAuth client of its own." }
        }
        (facts(&[
            ("Agents to watch", html! { (health.agents_wanted) }),
            ("Connections", html! { (health.connections_open) " of " (health.connections) " open" }),
            ("Rosters read", maybe(health.roster_read_at, since)),
        ]))
    }
}

fn settings(source: &Source) -> Markup {
    let listed = |items: &[String]| {
        html! { @match items.len() {
            0 => span.none { "–" },
            1..=3 => { (items.join(", ")) },
            many => details { summary { (many) } (items.join(", ")) }
        } }
    };
    facts(&[
        ("Region", or_none(source.region.as_deref())),
        ("Address of the API", or_none(source.api_url.as_deref())),
        ("Address of tokens", or_none(source.login_url.as_deref())),
        ("OAuth client", html! { code { (source.client_id) } }),
        ("Protocol", html! { (source.protocol) }),
        ("Every active user", html! { @if source.all_users { "yes" } @else { "no" } }),
        ("Queues", listed(&source.queues)),
        ("Groups", listed(&source.groups)),
        ("Agents by id", listed(&source.agents)),
        ("Topics", html! { code { (source.topic_matrix.0) } }),
        ("Language of labels", html! { (source.language) }),
        ("Stale after", html! { (source.stale_after_seconds) " s without a live connection" }),
        ("Rosters are read", html! { "every " (source.roster_interval_seconds) " s" }),
        (
            "Comes from",
            html! { @if source.is_from_environment() { "the environment of the process" } @else { "the API" } },
        ),
        ("Added", time(source.created_at)),
        ("Changed", html! { (time(source.updated_at)) ", version " (source.version) }),
        ("Id", html! { code { (source.source_id) } }),
    ])
}

fn leads(view: &View, source: &Source) -> Markup {
    let id = source.source_id.to_string();
    let of = |path: &str| links::with_query(path, &[("source", &id)]);
    html! {
        p.row {
            a href=(of("/board")) { "Its agents" }
            a href=(of("/events")) { "Its changes" }
            a href=(of("/gaps")) { "Its gaps" }
            a href=(of("/rejected-topics")) { "What it may not watch" }
            @if view.may(Scope::Audit) {
                a href=(of("/audit")) { "Its audit entries" }
                a href=(of("/quarantine")) { "What was not understood" }
            }
        }
    }
}

async fn refresh(view: View) -> Result<Done> {
    let source =
        view.caller.store.refresh_source(SourceId(view.id()?), view.caller.principal.as_str()).await?;
    let notice = "The rosters are read now; agents that joined or left follow within seconds.".to_owned();
    Ok(Done::Go { to: links::source(source.source_id), notice })
}

async fn ask(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let source = view.caller.store.source(SourceId(view.id()?)).await?;
    let address = links::source(source.source_id);
    let mut page = Content::titled(format!("Delete source {}?", source.name));
    page.body = html! {
        p { "Its connections end, and its agents are not watched any more. Its events and audit entries stay, and what is open is "
            "still delivered. It cannot be taken back; it can be added again, as another source." }
        (answers(&format!("{address}/delete"), "Delete", &address))
    };
    Ok(page)
}

async fn delete(view: View) -> Result<Done> {
    let id = SourceId(view.id()?);
    services::sources::delete(&view.caller, id).await?;
    Ok(Done::Go { to: format!("{ROOT}/sources"), notice: "The source is deleted.".to_owned() })
}
