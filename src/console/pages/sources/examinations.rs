//! An examination of a source's settings: its steps, live, and then the settings can be kept.

use maud::{Markup, html};

use super::change;
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::parts::{Tone, badge, facts, or_none, time};
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::{ExaminationId, SourceId};
use crate::domain::presence::examination::{Finding, Step};
use crate::examinations::{Draft, Examination};
use crate::services;
use crate::services::ServiceError;
use crate::store::StoreError;

pub(super) const ONE: Page =
    Page::inner(Scope::Sources, "/sources/examinations/{id}", |view| Box::pin(one(view)));

pub(super) const EXAMINE: Action =
    Action::new(Scope::Sources, "/sources/{id}/examine", |view, _| Box::pin(examine(view)));
pub(super) const SAVE: Action =
    Action::new(Scope::Sources, "/sources/examinations/{id}/save", |view, _| Box::pin(save(view)));

/// Examines a source as it is.
async fn examine(view: View) -> Result<Done> {
    let (source, settings) =
        services::sources::examinations::begin_of(&view.caller, SourceId(view.id()?), None).await?;
    let begun = services::sources::examinations::begin(&view.caller, settings, Some(&source)).await?;
    Ok(Done::Go { to: links::examination(begun.id), notice: "The examination has begun.".to_owned() })
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let examination = services::sources::examinations::find(&view.caller, ExaminationId(view.id()?))?;
    let settings = &examination.draft.settings;
    let mut page = Content::titled(format!("Examination of {}", settings.name));
    page.refresh = std::time::Duration::from_millis(500);
    let stands = html! { (steps(&examination)) (what_next(&examination)) };
    let stands = page.live("examination", &stands);
    page.body = html! {
        p { "Each step needs the one before it. Nothing is stored, and nothing that lasts is changed at Genesys." }
        (stands)
        h2 { "Settings" }
        (facts(&[
            ("Name", html! { (settings.name) }),
            ("Region", or_none(settings.region.as_deref())),
            ("Address of the API", or_none(settings.api_url.as_deref())),
            ("OAuth client", html! { code { (settings.client_id) } }),
            ("Begun", time(examination.started_at)),
        ]))
        p.hint { "It is kept in the memory of this process for ten minutes, the client secret with it." }
    };
    Ok(page)
}

fn steps(examination: &Examination) -> Markup {
    let (steps, ended_at) = examination.so_far();
    html! {
        ol.timeline aria-label="Steps" {
            @for step in &steps { (shown(step)) }
            @if ended_at.is_none() { li { (badge(Tone::Plain, "under way")) " The next step is being taken." } }
        }
    }
}

fn shown(step: &Step) -> Markup {
    let (tone, word, what, remedy) = match &step.finding {
        Finding::Good(what) => (Tone::Good, "ok", what, None),
        Finding::Warning(trouble) => (Tone::Warn, "warning", &trouble.what, Some(trouble.remedy)),
        Finding::Bad(trouble) => (Tone::Bad, "failed", &trouble.what, Some(trouble.remedy)),
    };
    html! {
        li {
            (badge(tone, word)) " " strong { (step.name) } " " (what)
            @if let Some(remedy) = remedy { p { "What to do: " (remedy) "." } }
        }
    }
}

fn what_next(examination: &Examination) -> Markup {
    let Some(works) = examination.works() else { return html! {} };
    let of = examination.draft.source.filter(|_| examination.draft.is_kept).map(|(source, _)| source);
    let kept_as = examination.kept_as.get().copied().or(of);
    let address = links::examination(examination.id);
    let again = match examination.draft.source {
        Some((source, _)) => format!("{}/edit?examination={}", links::source(source), examination.id),
        None => format!("{ROOT}/sources/new?examination={}", examination.id),
    };
    let keep = match (examination.draft.source.is_some(), works) {
        (false, true) => "Add this source",
        (false, false) => "Add it as it is",
        (true, true) => "Keep these settings",
        (true, false) => "Keep them as they are",
    };
    html! {
        p.verdict { @if works { (badge(Tone::Good, "works")) " Every step has worked." }
            @else { (badge(Tone::Bad, "does not work")) " See what is to be done about the step that failed." } }
        @if let Some(source) = kept_as {
            p { a href=(links::source(source)) { "Back to the source" } }
        } @else {
            div.row {
                form.inline method="post" action={ (address) "/save" } {
                    @if works { button.primary type="submit" { (keep) } } @else { button type="submit" { (keep) } }
                }
                a.button href=(again) { "Change the settings" }
            }
        }
    }
}

/// Keeps the settings that were examined. Whoever presses twice is led to the source twice.
async fn save(view: View) -> Result<Done> {
    let examination = services::sources::examinations::find(&view.caller, ExaminationId(view.id()?))?;
    let mut done = None;
    let source = examination.kept_as.get_or_try_init(|| keep(&view, &examination.draft, &mut done)).await?;
    Ok(done.unwrap_or_else(|| Done::Go {
        to: links::source(*source),
        notice: "The settings of this examination were kept already.".to_owned(),
    }))
}

async fn keep(view: &View, draft: &Draft, done: &mut Option<Done>) -> Result<SourceId> {
    let settings = &draft.settings;
    let Some((id, version)) = draft.source else {
        let source = services::sources::create(&view.caller, settings).await?;
        *done = Some(change::added(&source));
        return Ok(source.source_id);
    };
    let secret = settings.client_secret.clone();
    let (before, _) = services::sources::begin_update(&view.caller, id, Some(secret)).await?;
    if before.version != version {
        let what = "the source was changed by somebody else since the examination began; change it again";
        return Err(ServiceError::Store(StoreError::Conflict(what.to_owned())).into());
    }
    let source = services::sources::update(&view.caller, &before, settings).await?;
    *done = Some(change::changed(&source));
    Ok(id)
}
