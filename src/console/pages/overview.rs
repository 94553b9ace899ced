//! The overview: is everybody told everything?

use maud::{Markup, html};

use crate::console::charts::sparkline;
use crate::console::content::Content;
use crate::console::parts::{Tone, badge, empty, lasting, maybe, since, since_quietly, table};
use crate::console::view::View;
use crate::console::{Page, ROOT, Result};
use crate::domain::access::scope::Scope;
use crate::domain::plural::plural;
use crate::domain::webhook::state::WebhookState;
use crate::services::overview::{self, AuditChain, Bridge, Kind, Minute, Overview, Weight};
use crate::store::views::backlog::{FAILING, REMOVED};

pub(super) const PAGES: &[Page] = &[Page::named("Overview", Scope::Read, "/", |view| Box::pin(show(view)))];

async fn show(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let overview = overview::read(&view.caller).await?;
    let mut page = Content::titled("Overview");
    let verdict = page.live("verdict", &verdict(&overview));
    let cards = page.live(
        "figures",
        &html! {
            div.cards {
                (agents(&overview))
                (deliveries(&overview))
                (webhooks(&overview))
                @if let Some(bridge) = &overview.bridge { (of_bridge(bridge)) }
            }
        },
    );
    let sources = page.live("sources", &sources(&view, &overview));
    page.body = html! {
        (verdict)
        (cards)
        h2 { "Sources" }
        (sources)
    };
    Ok(page)
}

/// One sentence, and what is wrong.
fn verdict(overview: &Overview) -> Markup {
    let (class, sentence) = match overview.verdict() {
        None => ("standing good", "Everybody is told everything."),
        Some(Weight::Wrong) => ("standing bad", "Not everybody is told everything:"),
        Some(Weight::Notable) => ("standing warn", "Everybody is told what can be seen, but:"),
        Some(Weight::Idle) => ("standing", "Nothing is wrong, but nothing can be told yet:"),
    };
    html! {
        section class=(class) aria-label="Is everybody told everything?" {
            p { strong { (sentence) } }
            @if !overview.problems.is_empty() {
                ul { @for problem in &overview.problems {
                    li { a href={ (ROOT) (page_of(problem.kind)) } { (problem.what) } }
                } }
            }
        }
    }
}

/// Where more of a problem is seen.
fn page_of(kind: Kind) -> &'static str {
    match kind {
        Kind::AgentsNotCovered => "/board?connected=false",
        Kind::SourceStale
        | Kind::RosterUnread
        | Kind::AgentsRejected
        | Kind::AgentsOverLimit
        | Kind::NoSource => "/sources",
        Kind::GapsOpen => "/gaps?open=true",
        Kind::WebhooksDisabled => "/webhooks?state=disabled",
        Kind::WebhooksFailing => "/webhooks?failing=true",
        Kind::WebhooksUnverified => "/webhooks?state=unverified",
        Kind::NoWebhook => "/webhooks",
        Kind::DeliveriesLate => "/deliveries?state=open",
        Kind::AuditNotSealed | Kind::NotStoring | Kind::PartDead => "/audit",
    }
}

fn card(heading: &str, inside: &Markup) -> Markup {
    html! { section.card { h2 { (heading) } (inside) } }
}

fn agents(overview: &Overview) -> Markup {
    let (wanted, covered) = (overview.agents_wanted(), overview.agents_covered());
    let gaps = &overview.gaps;
    card(
        "Agents covered",
        &html! {
            div.figure { a href={ (ROOT) "/board" } { (covered) } " of " (wanted) }
            @if wanted > covered {
                p { a href={ (ROOT) "/board?connected=false" } { (wanted - covered) " not covered" } }
            }
            p {
                @if gaps.number == 0 { "No gap is open." } @else {
                    a href={ (ROOT) "/gaps?open=true" } { (plural(gaps.number, "open gap", "open gaps")) }
                    ", the longest since " (maybe(gaps.since, since))
                }
            }
        },
    )
}

fn deliveries(overview: &Overview) -> Markup {
    let waiting = overview.open_deliveries(None) - overview.open_deliveries(Some(REMOVED));
    let paused = overview.open_deliveries(Some(WebhookState::Paused.as_str()));
    card(
        "Open deliveries",
        &html! {
            @if overview.backlogs.is_none() { p.hint { "Not counted yet." } } @else {
                div.figure { a href={ (ROOT) "/deliveries?state=open" } { (waiting) } }
                @if paused > 0 { p { (plural(paused, "of them waits", "of them wait")) " for paused webhooks." } }
                p {
                    @match overview.longest_wait() {
                        Some(wait) => { "The oldest has waited " (lasting(wait)) "; counted " },
                        None => { "None waits; counted " }
                    }
                    (maybe(overview.backlogs.as_ref().map(|(at, _)| *at), since_quietly))
                }
            }
        },
    )
}

fn webhooks(overview: &Overview) -> Markup {
    let states = [
        (WebhookState::Active.as_str(), Tone::Good),
        (FAILING, Tone::Bad),
        (WebhookState::Paused.as_str(), Tone::Plain),
        (WebhookState::Disabled.as_str(), Tone::Bad),
        (WebhookState::Unverified.as_str(), Tone::Warn),
    ];
    card(
        "Webhooks",
        &html! {
            @if overview.backlogs.is_none() { p.hint { "Not counted yet." } } @else {
                div.figure { a href={ (ROOT) "/webhooks" } { (overview.webhooks(None)) } }
                ul.plain { @for (state, tone) in states {
                    @let number = overview.webhooks(Some(state));
                    @if number > 0 { li { (number) " " (badge(tone, state)) } }
                } }
            }
        },
    )
}

fn of_bridge(bridge: &Bridge) -> Markup {
    html! {
        (rate("Changes a minute", &bridge.minutes, |minute| minute.changes))
        (rate("Deliveries a minute", &bridge.minutes, |minute| minute.deliveries))
        @if let Some(chain) = &bridge.audit { (audit(chain)) }
        @if bridge.processes.len() > 1 {
            (card("Processes", &html! {
                div.figure { (bridge.processes.len()) }
                p { "They share the database and the work. Rates are those of the process that answered." }
                ul.plain { @for process in &bridge.processes {
                    li.mono {
                        (process.process_id.map_or("unknown".to_owned(), |id| id.to_string()))
                        @if process.is_this { " (answered)" }
                    }
                } }
            }))
        }
    }
}

/// What came in each minute of the last hour.
fn rate(heading: &str, minutes: &[Minute], of: fn(&Minute) -> u64) -> Markup {
    let values: Vec<u64> = minutes.iter().map(of).collect();
    let (running, full) = values.split_last().map_or((0, &[][..]), |(running, full)| (*running, full));
    let last = full.last().copied().unwrap_or(0);
    let most = values.iter().copied().max().unwrap_or(0);
    let says = format!("{heading} over the last hour: {last} in the last full minute, at most {most}.");
    card(
        heading,
        &html! {
            div.figure { (last) }
            (sparkline(&values, &says))
            p.ends { span { "1 h ago" } span { "this minute: " (running) } }
        },
    )
}

fn audit(chain: &AuditChain) -> Markup {
    card(
        "Audit log",
        &html! {
            p {
                @match &chain.problem {
                    Some(why) => { (badge(Tone::Bad, "not sealed")) " " (why) }
                    None => (badge(Tone::Good, "sealed")),
                }
            }
            p {
                @match chain.last_seal {
                    Some(seal) => { a href={ (ROOT) "/audit" } { "Seal " (seal.head.seal_id) } " was made " (since(seal.sealed_at)) "." }
                    None => "No entry is sealed yet.",
                }
            }
        },
    )
}

fn sources(view: &View, overview: &Overview) -> Markup {
    if overview.sources.is_empty() {
        let add = format!("{ROOT}/sources");
        let add = view.may(Scope::Sources).then_some((add.as_str(), "Add a source"));
        return empty("No Genesys organisation is watched yet.", add);
    }
    let rows = html! {
        @for (source, coverage) in &overview.sources {
            @let health = &source.health;
            tr id={ "source-" (source.source_id) } {
                th scope="row" { a href={ (ROOT) "/sources/" (source.source_id) } { (source.name) } }
                td {
                    @if let Some(stale_since) = health.stale_since { (badge(Tone::Bad, "stale")) " " (since(stale_since)) }
                    @else if health.connections_open < health.connections { (badge(Tone::Warn, "connecting")) }
                    @else { (badge(Tone::Good, "live")) }
                }
                td { (health.connections_open) " of " (health.connections) }
                td { (maybe(coverage.as_ref().and_then(|coverage| coverage.opened_at), since)) }
                td { (maybe(coverage.as_ref().and_then(|coverage| coverage.proven_at), since_quietly)) }
                td { (coverage.as_ref().map_or(0, |coverage| coverage.agents)) " of " (health.agents_wanted) }
            }
        }
    };
    let head = ["Source", "State", "Sockets open", "Oldest opened", "Last proven live", "Agents covered"];
    table("Sources", &head, &rows)
}
