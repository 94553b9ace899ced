//! The audit log: every step that was taken, searched and exported; one entry; checks of all of it
//! (`verifications`).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use maud::{Markup, html};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::api::http::download;
use crate::api::http::page::{List, Paging, Place};
use crate::api::http::problem::ApiError;
use crate::console::content::{Content, REFRESH};
use crate::console::parts::{Tone, badge, empty, facts, or_none, pager, source_text, table, time};
use crate::console::search::names::Names;
use crate::console::search::{self, A_TIME, Fields, take_time, who};
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, frame, links};
use crate::domain::access::scope::Scope;
use crate::domain::audit::{Kind, Level};
use crate::domain::ids::{ConnectionId, DeliveryId, EventId, TenantId};
use crate::services::audit::{ExportInput, Whose};
use crate::services::{self, sessions};
use crate::store::audit::{AuditFilter, AuditRow};
use crate::store::views::names::SourceName;

mod verifications;

pub(in crate::console) const PAGES: &[Page] = &[
    Page::named("Audit log", Scope::Audit, "/audit", |view| Box::pin(list(view))),
    Page::inner(Scope::Audit, "/audit/{id}", |view| Box::pin(one(view))),
    verifications::LIST,
    verifications::ONE,
];

pub(in crate::console) const ACTIONS: &[Action] = verifications::ACTIONS;

/// Characters of an entry's particulars that a row shows.
const SHOWN: usize = 140;
/// A search that takes long is repeated this many times its own time later.
const REST: u32 = 40;

async fn list(view: View) -> Result<Content> {
    let sources = view.caller.store.source_names().await?;
    let (found, wrong) = search::found_or_wrong(read(&view).await)?;
    let mut page = Content::titled("Audit log");
    let form = form(&view, Fields::new(&view, &wrong), &sources).await?;
    let Some((filter, paging)) = found else {
        page.status = StatusCode::BAD_REQUEST;
        page.body = html! { (form) (who::webhook_choice(&view, &who::webhooks_meant(&view).await?)) };
        return Ok(page);
    };
    let began = Instant::now();
    let read = view.caller.store.audit_entries(&filter, paging.after_number(), paging.rows()).await?;
    page.refresh = REFRESH.max(began.elapsed() * REST);
    let stopped_at = read.stopped_at.map(Place::Number);
    let (rows, next) = paging.page(read.rows, stopped_at, |row| Place::Number(row.audit_id));
    let webhooks = rows.iter().filter_map(|row| row.webhook_id);
    let agents = rows.iter().filter_map(|row| Some(row.agent_id.as_ref()?.0.clone()));
    let names = Names::read(&view, webhooks, agents).await?.with_sources(&sources);
    let list = html! {
        @if rows.is_empty() && next.is_some() {
            p { "Nothing was found in this stretch of the log; the search goes on with the next page." }
        } @else if rows.is_empty() {
            (empty("No entry is like this, as far back as the log is kept.", Some((&view.path, "See all entries"))))
        } @else { (table_of(&rows, &names)) }
    };
    // Older pages stay as they are.
    let list = if paging.after_number().is_none() { page.live("entries", &list) } else { list };
    page.body = html! {
        p.row {
            a href={ (ROOT) "/audit/verifications" } { "Check that nothing was altered" }
            a href="#export" { "Export" }
        }
        (form) (list) (pager(&view, next.as_deref())) (export_form(&view))
    };
    Ok(page)
}

async fn read(view: &View) -> Result<(AuditFilter, Paging)> {
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let levels = [Level::Info, Level::Warn, Level::Error].map(Level::as_str);
    let mut query = view.query()?;
    let filter = AuditFilter {
        agents: who::take_agents(view, &mut query).await?,
        webhook: who::take_webhook(view, &mut query).await?,
        source: who::take_source(&mut query)?,
        event: query.id("event")?.map(EventId),
        delivery: query.id("delivery")?.map(DeliveryId),
        connection: query.id("connection")?.map(ConnectionId),
        principal: query.text("principal")?,
        kind: query.word("kind", &kinds)?,
        level: query.word("level", &levels)?,
        since: take_time(&mut query, "since")?,
        until: take_time(&mut query, "until")?,
    };
    Ok((filter, query.paging(List::Audit)?))
}

async fn form(view: &View, fields: Fields<'_>, sources: &[SourceName]) -> Result<Markup> {
    let own = |text: &str| (text.to_owned(), text.to_owned());
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| own(kind.as_str())).collect();
    let levels = [Level::Info, Level::Warn, Level::Error].map(|level| own(level.as_str()));
    let webhook = who::webhook_field(view, fields).await?;
    let is_narrow =
        ["event", "delivery", "connection", "principal"].iter().any(|name| !view.given(name).is_empty());
    Ok(fields.form(
        "Search",
        &html! {
            (who::agent_field(fields))
            (webhook)
            (who::source_field(fields, sources))
            (fields.choice("kind", "Kind", "any", &kinds))
            (fields.choice("level", "Level", "any", &levels))
            (fields.text("since", "Since", A_TIME))
            (fields.text("until", "Until", ""))
            details.more open[is_narrow] {
                summary { "More filters" }
                (fields.text("principal", "Principal", "Who asked for it, such as api-key:crm"))
                (fields.text("event", "Event", "Id"))
                (fields.text("delivery", "Delivery", "Id"))
                (fields.text("connection", "Connection", "Id"))
            }
        },
    ))
}

fn table_of(rows: &[AuditRow], names: &Names) -> Markup {
    let shown = html! {
        @for row in rows {
            tr id={ "entry-" (row.audit_id) } {
                th scope="row" { a href=(links::audit_entry(row.audit_id)) { (time(row.at)) } }
                td { (level(&row.level)) " " code { (row.kind) } }
                td { (about(row, names)) }
                td { (or_none(row.principal.as_deref())) }
                td.words { (particulars(row)) }
            }
        }
    };
    table("Entries", &["When", "What", "About", "Asked by", "Particulars"], &shown)
}

fn level(word: &str) -> Markup {
    match word {
        "ERROR" => badge(Tone::Bad, "error"),
        "WARN" => badge(Tone::Warn, "warning"),
        _ => html! {},
    }
}

fn about(row: &AuditRow, names: &Names) -> Markup {
    html! {
        @if row.agent_id.is_some() { (names.agent(row.agent_id.as_ref(), row.source_id)) " " }
        @if row.webhook_id.is_some() { (names.webhook(row.webhook_id)) " " }
        @if row.agent_id.is_none() && row.source_id.is_some() { (names.source(row.source_id)) " " }
        @if let Some(id) = row.connection_id { a href=(links::connection(id)) { "connection" } " " }
        @if let Some(id) = row.event_id { a href=(links::event(id)) { "event" } " " }
        @if let Some(id) = row.delivery_id { a href=(links::delivery(id)) { "delivery" } }
    }
}

fn particulars(row: &AuditRow) -> Markup {
    let mut said = Vec::new();
    said.extend(row.attempt.map(|attempt| format!("attempt {attempt}")));
    said.extend(row.outcome.clone());
    said.extend(row.status.map(|status| format!("status {status}")));
    said.extend(row.end_state.clone());
    said.extend(row.duration_ms.map(|ms| format!("{ms} ms")));
    if let Some(fields) = row.data.as_object().filter(|fields| !fields.is_empty()) {
        let fields = fields.iter().map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name} {text}"),
            None => format!("{name} {value}"),
        });
        said.extend(fields);
    }
    let mut text = said.join(", ");
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    html! { span.hint { (text) } }
}

fn export_form(view: &View) -> Markup {
    html! {
        h2 #export { "Export" }
        p { "Sealed entries as lines of JSON, oldest first, as " code { "presence-bridge audit export" } " writes them." }
        form.filters method="get" action={ (ROOT) "/audit/export" } {
            div.field {
                label for="export-until" { "Until" }
                input id="export-until" name="until" aria-describedby="export-until-about" spellcheck="false";
                span.hint #export-until-about { (A_TIME) }
            }
            div.field {
                label for="export-after" { "Behind entry" }
                input id="export-after" name="after" inputmode="numeric" aria-describedby="export-after-about";
                span.hint #export-after-about { "Id of the last line that you have" }
            }
            @if view.caller.principal.is_operator() {
                div.field {
                    label for="export-tenant" { "Whose" }
                    select id="export-tenant" name="tenant" {
                        option value="" { "our own tenant" }
                        option value="all" { "every tenant" }
                    }
                }
            }
            button type="submit" { "Download" }
        }
    }
}

/// The file that the form asks for.
pub(in crate::console) async fn export(view: View, request: HttpRequest) -> HttpResponse {
    let sent = async {
        view.caller.principal.must_have(Scope::Audit)?;
        let mut query = view.query()?;
        let input = ExportInput {
            after: query.number("after")?.unwrap_or(0),
            until: take_time(&mut query, "until")?,
            whose: match query.id_or_word("tenant", "all")? {
                None => Whose::Own,
                Some(None) => Whose::All,
                Some(Some(id)) => Whose::Of(TenantId(id)),
            },
        };
        query.finish()?;
        let (caller, session) = (view.caller.clone(), view.session);
        let still_valid = async move || sessions::is_open(&caller, session).await;
        download::audit_log(&request, &view.caller, input, still_valid).await
    };
    sent.await.unwrap_or_else(|error: ApiError| frame::failed(&view, &error))
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let id: i64 = view.text()?.parse().map_err(|_| ApiError::not_found())?;
    let row = view.caller.store.audit_entry(id).await?;
    let sources = view.caller.store.source_names().await?;
    let agent = row.agent_id.as_ref().map(|agent| agent.0.clone());
    let names =
        Names::read(&view, row.webhook_id.into_iter(), agent.into_iter()).await?.with_sources(&sources);
    let sealed = if view.caller.principal.tenant() == TenantId::DEFAULT {
        let last = services::audit::head(&view.caller).await?;
        Some(last.is_some_and(|last| last.last_audit_id >= id))
    } else {
        None
    };
    let mut page = Content::titled(format!("Entry {id}"));
    let link = |address: Option<String>, text: Option<String>| {
        html! { @match (address, text) { (Some(to), Some(text)) => a href=(to) { (text) }, _ => span.none { "–" } } }
    };
    let ms = row.duration_ms.map(|ms| format!("{ms} ms"));
    let data = serde_json::to_string_pretty(&row.data).unwrap_or_default();
    page.body = html! {
        (facts(&[
            ("When", time(row.at)),
            ("Kind", html! { code { (row.kind) } " " (level(&row.level)) }),
            ("Asked by", or_none(row.principal.as_deref())),
            ("Source", names.source(row.source_id)),
            ("Connection", link(row.connection_id.map(links::connection), row.connection_id.map(|id| id.to_string()))),
            ("Agent", names.agent(row.agent_id.as_ref(), row.source_id)),
            ("Webhook", names.webhook(row.webhook_id)),
            ("Event", link(row.event_id.map(links::event), row.event_id.map(|id| id.to_string()))),
            ("Delivery", link(row.delivery_id.map(links::delivery), row.delivery_id.map(|id| id.to_string()))),
            ("Attempt", or_none(row.attempt.map(|attempt| attempt.to_string()).as_deref())),
            ("Outcome", or_none(row.outcome.as_deref())),
            ("Status", or_none(row.status.map(|status| status.to_string()).as_deref())),
            ("End of the delivery", or_none(row.end_state.as_deref())),
            ("Took", or_none(ms.as_deref())),
        ]))
        @if let Some(sealed) = sealed {
            p { @if sealed { (badge(Tone::Good, "sealed")) " A seal covers this entry: altering it would be found." }
                @else { (badge(Tone::Plain, "not sealed yet")) " The next seal covers it, within seconds." } }
        }
        @if let Some(kept) = row.data.get("quarantine").and_then(Value::as_str).and_then(|id| uuid::Uuid::try_parse(id).ok()) {
            p { a href={ (ROOT) "/quarantine/" (kept) } { "The bytes that were not understood" } }
        }
        h2 { "Particulars" }
        (source_text("Particulars as JSON", &data))
        p.row {
            @let around = format!("{ROOT}/audit?until={}", until(row.at));
            a href=(around) { "Entries up to this one" }
            a href={ (ROOT) "/audit" } { "The whole log" }
        }
    };
    Ok(page)
}

/// The time just behind an entry, for an address.
fn until(at: OffsetDateTime) -> String {
    crate::api::http::page::at(at + time::Duration::milliseconds(1)).replace('+', "%2B")
}
