//! Webhooks: the list of them, a guided registration, the page of one, and everything that its owner can do.
//!
//! Read `list` and `detail` (with `health`, `lanes`, `settings_words`), then `registration` (with `samples` and
//! `ping`), `edit`, `commands` and `recovery`. Forms are in `settings_form` and `settings_fields`, and in
//! `access_form`.

use futures_util::future::BoxFuture;

use crate::console::action::Done;
use crate::console::form::Form;
use crate::console::view::View;
use crate::console::{Action, Page, Result};
use crate::domain::access::scope::Scope;

mod access_form;
mod commands;
mod detail;
mod edit;
mod health;
mod lanes;
mod list;
mod ping;
mod recovery;
mod registration;
mod samples;
mod settings_fields;
mod settings_form;
mod settings_words;

pub(super) const PAGES: &[Page] = &[
    Page::named("Webhooks", Scope::Read, "/webhooks", |view| Box::pin(list::show(view))),
    Page::inner(Scope::Webhooks, "/webhooks/new", |view| Box::pin(registration::show(view))),
    Page::inner(Scope::Read, "/webhooks/{id}", |view| Box::pin(detail::show(view))),
    Page::inner(Scope::Webhooks, "/webhooks/{id}/edit", |view| Box::pin(edit::show(view))),
    Page::inner(Scope::Webhooks, "/webhooks/{id}/access", |view| Box::pin(edit::show_access(view))),
    Page::inner(Scope::Webhooks, "/webhooks/{id}/rotate", |view| Box::pin(commands::show_rotation(view))),
    Page::inner(Scope::Webhooks, "/webhooks/{id}/delete", |view| Box::pin(commands::show_deletion(view))),
    Page::inner(Scope::Webhooks, "/webhooks/{id}/recover", |view| Box::pin(recovery::show(view))),
    Page::inner(Scope::Read, "/webhooks/{id}/ping", |view| Box::pin(ping::show(view))),
];

/// What a form of a webhook's owner does.
const fn action(path: &'static str, act: fn(View, Form) -> BoxFuture<'static, Result<Done>>) -> Action {
    Action::new(Scope::Webhooks, path, act)
}

pub(super) const ACTIONS: &[Action] = &[
    action("/webhooks/new", |view, form| Box::pin(registration::register(view, form))),
    action("/webhooks/{id}/edit", |view, form| Box::pin(edit::compare(view, form))),
    action("/webhooks/{id}/save", |view, form| Box::pin(edit::save(view, form))),
    action("/webhooks/{id}/access", |view, form| Box::pin(edit::save_access(view, form))),
    action("/webhooks/{id}/pause", |view, form| Box::pin(commands::pause(view, form))),
    action("/webhooks/{id}/resume", |view, form| Box::pin(commands::resume(view, form))),
    action("/webhooks/{id}/enable", |view, form| Box::pin(commands::enable(view, form))),
    action("/webhooks/{id}/snapshot", |view, form| Box::pin(commands::snapshot(view, form))),
    action("/webhooks/{id}/rotate", |view, form| Box::pin(commands::rotate(view, form))),
    action("/webhooks/{id}/delete", |view, form| Box::pin(commands::delete(view, form))),
    action("/webhooks/{id}/ping", |view, form| Box::pin(ping::send(view, form))),
    action("/webhooks/{id}/recover", |view, form| Box::pin(recovery::recover(view, form))),
    action("/webhooks/{id}/recover/cancel", |view, form| Box::pin(recovery::cancel(view, form))),
];
