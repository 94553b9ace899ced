//! Floor 3: the console, pages for people at `/console/`. Like `api/` it asks the same functions of
//! `services/` and `store/` with the same caller, and shares the HTTP parts of `api/http/`.
//!
//! A page is a function from a `View` to a `Content`; a row in a table of `pages/` gives it an address and
//! the right it takes. An action is what a form does, with a row of the same kind. `frame.rs` draws what
//! is around a page, `live.rs` sends its live sections again when they have changed, `session.rs` lets browsers
//! in.

use std::time::Duration;

use actix_web::dev::HttpServiceFactory;
use actix_web::middleware::from_fn;
use actix_web::web::{self, ServiceConfig};
use futures_util::future::BoxFuture;

use crate::api::http::problem::ApiError;
use crate::domain::access::scope::Scope;
use action::Done;
use content::Content;
use form::Form;
use live::Hub;
use session::SessionLength;
use view::View;

mod action;
mod assets;
mod charts;
mod content;
mod fields;
mod form;
mod frame;
mod links;
mod live;
mod login;
mod notice;
mod page;
mod pages;
mod parts;
mod search;
mod session;
mod view;

type Result<T, E = ApiError> = std::result::Result<T, E>;

/// Where the console begins.
const ROOT: &str = "/console";

/// A page that can be looked at.
struct Page {
    /// Below [`ROOT`]; `{id}` stands for what a row is known by.
    path: &'static str,
    /// What a key must have to see it.
    scope: Scope,
    /// What the navigation calls it; `None`: other pages lead to it.
    name: Option<&'static str>,
    /// Only the operator sees it.
    is_operators: bool,
    show: fn(View) -> BoxFuture<'static, Result<Content>>,
}

/// What a form does when it is sent.
struct Action {
    path: &'static str,
    /// What a key must have to do it; forms of what it may not do are not shown.
    scope: Scope,
    act: fn(View, Form) -> BoxFuture<'static, Result<Done>>,
}

impl Page {
    /// One that the navigation leads to.
    const fn named(
        name: &'static str,
        scope: Scope,
        path: &'static str,
        show: fn(View) -> BoxFuture<'static, Result<Content>>,
    ) -> Self {
        Self { path, scope, name: Some(name), is_operators: false, show }
    }

    /// One that other pages lead to.
    const fn inner(
        scope: Scope,
        path: &'static str,
        show: fn(View) -> BoxFuture<'static, Result<Content>>,
    ) -> Self {
        Self { path, scope, name: None, is_operators: false, show }
    }
}

impl Page {
    /// One for the operator alone, that the navigation leads to.
    const fn operators(
        name: &'static str,
        path: &'static str,
        show: fn(View) -> BoxFuture<'static, Result<Content>>,
    ) -> Self {
        Self { path, scope: Scope::Admin, name: Some(name), is_operators: true, show }
    }

    /// Whether whoever looks may see it.
    fn is_for(&self, view: &View) -> bool {
        view.may(self.scope) && (!self.is_operators || view.caller.principal.is_operator())
    }
}

impl Action {
    /// What the form of this path does.
    const fn new(
        scope: Scope,
        path: &'static str,
        act: fn(View, Form) -> BoxFuture<'static, Result<Done>>,
    ) -> Self {
        Self { path, scope, act }
    }
}

/// Every page, in the order of the navigation.
fn pages() -> impl Iterator<Item = &'static Page> {
    pages::PAGES.iter().copied().flatten()
}

/// Everything that a form can do.
fn actions() -> impl Iterator<Item = &'static Action> {
    pages::ACTIONS.iter().copied().flatten()
}

/// The console of one process, before it is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a browser stays logged in.
    lasts: Duration,
    hub: web::Data<Hub>,
}

impl Settings {
    /// A browser stays logged in for `lasts`.
    #[must_use]
    pub fn new(lasts: Duration) -> Self {
        Self { lasts, hub: web::Data::new(Hub::default()) }
    }

    /// Adds the console to a server.
    pub fn configure(&self, config: &mut ServiceConfig) {
        config.app_data(web::Data::new(SessionLength(self.lasts))).app_data(self.hub.clone());
        config.route(ROOT, web::get().to(login::to_the_first_page)).service(
            web::scope(ROOT)
                .route("/login", web::get().to(login::show))
                .route("/login", web::post().to(login::log_in))
                .route("/assets/{version}/{name}", web::get().to(assets::serve))
                .service(inside()),
        );
    }
}

/// What a browser sees that is logged in.
fn inside() -> impl HttpServiceFactory {
    let mut paths: Vec<&'static str> = pages().map(|page| page.path).collect();
    paths.extend(actions().map(|action| action.path));
    // Fixed segments before `{id}`, which would fit them too.
    paths.sort_unstable_by_key(|path| (path.matches('{').count(), *path));
    paths.dedup();
    // Before the page of one entry, whose path fits it too.
    let mut inside = web::scope("").route("/audit/export", web::get().to(pages::export_audit_log));
    for path in paths {
        let mut resource = web::resource(path);
        if let Some(page) = pages().find(|page| page.path == path) {
            let show = move |view, request, hub| page::answer(page, view, request, hub);
            resource = resource.route(web::get().to(show));
        }
        if let Some(action) = actions().find(|action| action.path == path) {
            resource = resource.route(web::post().to(move |view, form| action::answer(action, view, form)));
        }
        inside = inside.service(resource);
    }
    inside
        .route("/logout", web::post().to(login::log_out))
        .default_service(web::to(page::not_found))
        .wrap(from_fn(session::let_in))
}
