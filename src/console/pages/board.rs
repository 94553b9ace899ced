//! The presence board: every agent's present state.

use maud::html;

use crate::api::http::page::{List, Place};
use crate::console::content::Content;
use crate::console::parts::{Tone, badge, empty, maybe, or_none, pager, since, table};
use crate::console::view::View;
use crate::console::{Page, Result};
use crate::domain::access::scope::Scope;

pub(super) const PAGES: &[Page] = &[Page::named("Board", Scope::Read, "/board", |view| Box::pin(show(view)))];

async fn show(view: View) -> Result<Content> {
    let paging = view.query()?.paging(List::Agents)?;
    let rows = view.caller.store.agents(None, None, None, paging.after_number(), paging.rows()).await?;
    let (agents, next) = paging.page(rows, None, |agent| Place::Number(agent.agent_key));
    let mut page = Content::titled("Board");
    let rows = html! {
        @for agent in &agents {
            tr id={ "agent-" (agent.agent_key) } {
                th scope="row" { (or_none(agent.name.as_deref())) }
                td { (badge(Tone::Plain, agent.presence.as_deref().unwrap_or("unknown"))) }
                td { (maybe(agent.since, since)) }
            }
        }
    };
    let list = html! {
        @if agents.is_empty() {
            (empty("Nobody is watched yet.", None))
        } @else {
            (table("Agents", &["Agent", "State", "Since"], &rows))
        }
    };
    let list = page.live("agents", &list);
    page.body = html! { (list) (pager(&view, next.as_deref())) };
    Ok(page)
}
