//! Checks of the whole audit log: begun here, followed live, ended early.

use maud::{Markup, html};
use serde::Deserialize;

use crate::api::http::page::{List, Place};
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{Fields, field};
use crate::console::form::Form;
use crate::console::parts::{Tone, badge, button, empty, facts, maybe, or_none, pager, span, table, time};
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::audit::seal::Head;
use crate::domain::audit::verification::VerificationState;
use crate::domain::ids::VerificationId;
use crate::domain::violation::Violation;
use crate::services::audit;
use crate::store::audit::verifications::Verification;

pub(super) const LIST: Page = Page::inner(Scope::Audit, "/audit/verifications", |view| {
    Box::pin(async move { list(&view, &Fields::default(), "").await })
});
pub(super) const ONE: Page =
    Page::inner(Scope::Audit, "/audit/verifications/{id}", |view| Box::pin(one(view)));

pub(super) const ACTIONS: &[Action] = &[
    Action::new(Scope::Audit, "/audit/verifications", |view, form| Box::pin(start(view, form))),
    Action::new(Scope::Audit, "/audit/verifications/{id}/cancel", |view, _| Box::pin(cancel(view))),
];

async fn list(view: &View, fields: &Fields, given: &str) -> Result<Content> {
    let paging = view.query()?.paging(List::Verifications)?;
    let before = paging.after_id().map(VerificationId);
    let rows = audit::verifications(&view.caller, before, paging.rows()).await?;
    let (rows, next) = paging.page(rows, None, |row| Place::Id(row.verification_id.0));
    let last = audit::head(&view.caller).await?;
    let mut page = Content::titled("Checks of the audit log");
    let shown = html! {
        @if rows.is_empty() {
            (empty("Nobody has asked for a check yet; it is begun above.", None))
        } @else { (table_of(&rows)) }
    };
    let shown = page.live("checks", &shown);
    page.body = html! {
        p { "The log is sealed every few seconds, and the seals form a chain. A check reads every entry and every seal of all "
            "tenants and finds the first one that is not as it was sealed. It takes its time, so that nothing else waits for it." }
        (facts(&[
            ("Last seal", html! { @match &last { Some(last) => (time(last.sealed_at)), None => "nothing is sealed yet" } }),
            ("Head, to be kept elsewhere", html! { @match &last { Some(last) => code { (last.head) }, None => span.none { "–" } } }),
        ]))
        (fields.summary())
        form.stack method="post" action={ (ROOT) "/audit/verifications" } {
            (fields.text(field("head", "A head that was kept elsewhere",
                "May be left empty. With it, a log whose end was cut off or that was made again is found too."), given))
            button.primary type="submit" { "Check the whole log" }
        }
        h2 { "Checks" }
        (shown) (pager(view, next.as_deref()))
    };
    Ok(page)
}

fn table_of(rows: &[Verification]) -> Markup {
    let shown = html! {
        @for row in rows {
            tr id={ "check-" (row.verification_id) } {
                th scope="row" { a href=(links::verification(row.verification_id)) { (time(row.started_at)) } }
                td { (verdict(row)) }
                td { (row.rows) " of " (row.rows_total) }
                td { (row.principal) }
                td { (maybe(row.ended_at, time)) }
            }
        }
    };
    table("Checks", &["Begun", "Verdict", "Entries that match", "Asked by", "Ended"], &shown)
}

fn verdict(row: &Verification) -> Markup {
    match (row.state, &row.fault) {
        (VerificationState::Running, _) => badge(Tone::Plain, &format!("running, {} %", percent(row))),
        (VerificationState::Done, None) => badge(Tone::Good, "as it was sealed"),
        (VerificationState::Done, Some(_)) => badge(Tone::Bad, "altered"),
        (VerificationState::Canceled, _) => badge(Tone::Warn, "canceled"),
        (VerificationState::Failed, _) => badge(Tone::Bad, "failed"),
    }
}

fn percent(row: &Verification) -> i64 {
    let (done, total) = (row.rows + row.rows_dropped, row.rows_total.max(1));
    (done.saturating_mul(100) / total).clamp(0, 100)
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let id = VerificationId(view.id()?);
    let row = audit::verification(&view.caller, id).await?;
    let mut page = Content::titled("Check of the audit log");
    let stands = html! {
        p.verdict { (verdict(&row)) " " (sentence(&row)) }
        @if row.state == VerificationState::Running {
            progress max="100" value=(percent(&row)) aria-label="Part of the log that is checked" { (percent(&row)) " %" }
        }
        (facts(&[
            ("Seals that hold", html! { (row.seals) " of " (row.seals_total) }),
            ("Entries that match", html! { (row.rows) " of " (row.rows_total) }),
            ("Of those, particulars erased", html! { (row.rows_erased) }),
            ("Dropped by retention", html! { (row.rows_dropped) }),
            ("Not sealed yet at the end", html! { (row.unsealed) }),
            ("Head that a failover lost", html! { @match &row.lost_head { Some(head) => code { (head) }, None => span.none { "–" } } }),
            ("Head, as far as it holds", html! { @match &row.head { Some(head) => code { (head) }, None => span.none { "–" } } }),
        ]))
        @if row.state == VerificationState::Running {
            p { (button(&format!("{}/cancel", links::verification(id)), "End it early")) }
        }
    };
    let stands = page.live("check", &stands);
    page.body = html! {
        (stands)
        (facts(&[
            ("Asked by", html! { (row.principal) }),
            ("Begun", time(row.started_at)),
            ("Head that was given", or_none(row.expected_head.as_deref())),
        ]))
        p { a href={ (ROOT) "/audit/verifications" } { "All checks" } }
    };
    Ok(page)
}

fn sentence(row: &Verification) -> Markup {
    let fault = row.fault.as_ref().map(|fault| fault["text"].as_str().unwrap_or_default());
    html! {
        @match (row.state, fault) {
            (VerificationState::Running, _) => "Everything was as it was sealed so far.",
            (VerificationState::Done, None) => {
                "Every entry is as it was sealed."
                @if let Some(ended) = row.ended_at { " The check took " (span(row.started_at, ended)) "." }
            },
            (VerificationState::Done, Some(fault)) => {
                "The log was altered: " (fault) ". Up to there it is as it was sealed. Keep this database as it is, and see who may write to it."
                @if let Some(entry) = row.fault.as_ref().and_then(|fault| fault["id"].as_i64()) {
                    " " a href=(links::audit_entry(entry)) { "See the entry" }
                }
            },
            (VerificationState::Canceled, _) => "It was ended early; everything was as it was sealed up to there.",
            (VerificationState::Failed, _) => { "The log could not be read to its end: " (row.failure.as_deref().unwrap_or_default()) "." },
        }
    }
}

#[derive(Debug, Deserialize)]
struct Given {
    #[serde(default)]
    head: String,
}

async fn start(view: View, form: Form) -> Result<Done> {
    let given = form.read::<Given>()?.head;
    let head = match given.trim() {
        "" => None,
        text => match text.parse::<Head>() {
            Ok(head) => Some(head),
            Err(what) => {
                let fields = Fields::wrong(Violation::new("head", what));
                return Ok(Done::Again(list(&view, &fields, &given).await?));
            }
        },
    };
    match audit::start_verification(&view.caller, head).await {
        Ok(started) => Ok(Done::Go {
            to: links::verification(started.verification_id),
            notice: "The check has begun.".to_owned(),
        }),
        Err(error) => {
            let fields = Fields::refused(error.into())?;
            Ok(Done::Again(list(&view, &fields, &given).await?))
        }
    }
}

async fn cancel(view: View) -> Result<Done> {
    let row = audit::cancel_verification(&view.caller, VerificationId(view.id()?)).await?;
    let notice = "It ends with its next step.".to_owned();
    Ok(Done::Go { to: links::verification(row.verification_id), notice })
}
