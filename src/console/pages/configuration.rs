//! Configuration: what this process runs with, for the operator. Secrets are not among it.

use maud::html;

use crate::console::content::Content;
use crate::console::parts::{Tone, badge, facts, since, table, time};
use crate::console::view::View;
use crate::console::{Page, Result};

pub(super) const PAGES: &[Page] =
    &[Page::operators("Configuration", "/configuration", |view| Box::pin(show(view)))];

async fn show(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let (configuration, database) = view.caller.operator()?.configuration().await?;
    let rows = html! {
        @for setting in &configuration.settings {
            tr id={ "setting-" (setting.name) } {
                th scope="row" { code { (setting.name) } }
                td { @match &setting.value { Some(value) => (value), None => (badge(Tone::Plain, "secret, set")) } }
                td { (setting.origin) }
                td.words { span.hint { (setting.help) } }
            }
        }
    };
    let mut page = Content::titled("Configuration");
    page.body = html! {
        h2 { "This process" }
        (facts(&[
            ("Version", html! { (configuration.version) }),
            ("Runs since", html! { (time(configuration.started_at)) " (" (since(configuration.started_at)) ")" }),
        ]))
        h2 { "Its database" }
        (facts(&[
            ("PostgreSQL", html! { (database.version) @if configuration.embedded_database { ", our own on this machine" } }),
            ("Name", html! { (database.database) }),
            ("Size", html! { (bytes(database.size)) }),
            ("Connections of bridges", html! { (database.connections) " of " (database.connections_max) " that the server allows in all" }),
            ("Way to it", html! { @if database.encrypted { "encrypted" } @else { "not encrypted, or a pooler hides how it is" } }),
            ("Pooler", html! { "none, or one in session mode: each connection keeps its session, as was verified at the start" }),
        ]))
        h2 { "Settings" }
        p { "Effective values, as " code { "presence-bridge check-config" } " prints them. They are changed in the environment of the process, which must then be started again." }
        (table("Settings", &["Variable", "Value", "Comes from", "What it is for"], &rows))
    };
    Ok(page)
}

/// A number of bytes, for people.
fn bytes(size: i64) -> String {
    let size = size.max(0);
    match size {
        0..1_048_576 => format!("{} KiB", size / 1024),
        1_048_576..1_073_741_824 => format!("{} MiB", size / 1_048_576),
        _ => format!("{}.{} GiB", size / 1_073_741_824, size % 1_073_741_824 * 10 / 1_073_741_824),
    }
}
