//! Agents that Genesys does not let us watch, and why.

use actix_web::http::StatusCode;
use maud::{Markup, html};

use crate::api::http::page::{List, Paging, Place};
use crate::console::content::Content;
use crate::console::parts::{empty, maybe, or_none, pager, table, time};
use crate::console::search::names::Names;
use crate::console::search::{self, Fields, who};
use crate::console::view::View;
use crate::console::{Page, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::{ConnectionId, SourceId};
use crate::store::views::agents::RejectedTopic;

pub(super) const LIST: Page = Page::inner(Scope::Read, "/rejected-topics", |view| Box::pin(list(view)));

async fn list(view: View) -> Result<Content> {
    let sources = view.caller.store.source_names().await?;
    let (found, wrong) = search::found_or_wrong(read(&view))?;
    let mut page = Content::titled("What Genesys does not let us watch");
    let fields = Fields::new(&view, &wrong);
    let form = fields.form(
        "Search",
        &html! { (who::source_field(fields, &sources)) (fields.text("connection", "Connection", "Id")) },
    );
    let Some((source, connection, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        page.body = form;
        return Ok(page);
    };
    let after = paging.after_number();
    let rows = view.caller.store.rejected_topics(source, connection, after, paging.rows()).await?;
    let (rows, next) = paging.page(rows, None, |row| Place::Number(row.place));
    let agents = rows.iter().map(|row| row.agent_id.0.clone());
    let names = Names::read(&view, std::iter::empty(), agents).await?.with_sources(&sources);
    let shown = html! {
        @if rows.is_empty() { (empty("Genesys lets us watch everybody that we ask for.", None)) }
        @else {
            p.alert { "What to do: give the OAuth client a role with the permissions that are missing, in the division of these agents "
                "(Admin > Integrations > OAuth > Roles). It is asked again by itself." }
            (table_of(&rows, &names))
        }
    };
    let shown = page.live("rejected", &shown);
    page.body = html! { (form) (shown) (pager(&view, next.as_deref())) };
    Ok(page)
}

type Wanted = (Option<SourceId>, Option<ConnectionId>, Paging);

fn read(view: &View) -> Result<Wanted> {
    let mut query = view.query()?;
    let source = who::take_source(&mut query)?;
    let connection = query.id("connection")?.map(ConnectionId);
    Ok((source, connection, query.paging(List::RejectedTopics)?))
}

fn table_of(rows: &[RejectedTopic], names: &Names) -> Markup {
    let shown = html! {
        @for row in rows {
            tr id={ "rejected-" (row.place) } {
                th scope="row" { (names.agent(Some(&row.agent_id), Some(row.source_id))) }
                td { (row.reason) }
                td { (row.missing_permissions.join(", ")) }
                td { code { (or_none(row.topic.as_deref())) } }
                td { (names.source(Some(row.source_id))) " " a href=(links::connection(row.connection_id)) { "connection" } }
                td { (maybe(row.rejected_at, time)) }
            }
        }
    };
    table("Rejected agents", &["Agent", "Why", "Missing permissions", "Topic", "Source", "Since"], &shown)
}
