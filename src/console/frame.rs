//! The frame around every page: navigation, the notice of what was just done, and headers that let nothing in
//! from elsewhere.

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use maud::{DOCTYPE, Markup, html};

use super::content::Content;
use super::view::View;
use super::{ROOT, assets, notice, pages};
use crate::api::http::problem::ApiError;

/// Nothing but our own files, and nobody's frame.
const SECURITY_POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'";

/// A page in its frame.
pub fn whole(view: &View, content: Content, status: StatusCode) -> HttpResponse {
    let inside = html! {
        header.bar {
            a.skip href="#main" { "Skip to the page" }
            a.brand href=(ROOT) { img src=(assets::address("icon.svg")) alt="" width="20" height="20"; " presence-bridge" }
            nav aria-label="Pages" { ul { @for page in pages().filter(|page| page.is_for(view)) {
                @if let Some(name) = page.name {
                    li { a href={ (ROOT) (page.path) } aria-current=[marked(view, page.path)] { (name) } }
                }
            } } }
            form.account method="post" action={ (ROOT) "/logout" } {
                span.who title="The key that this browser acts with" { (view.caller.principal.key_name()) }
                button type="submit" { "Log out" }
            }
        }
        main #main tabindex="-1" data-live-page[!content.live.is_empty()] {
            h1 { (content.title) }
            @if let Some(notice) = &view.notice { p.notice role="status" { (notice) } }
            (content.body)
        }
    };
    let mut response = document(&content.title, status, &inside);
    if view.notice.is_some() {
        // Fails only for a cookie that no header can carry.
        let _ = response.add_cookie(&notice::shown());
    }
    response
}

/// A page without navigation, for whoever is not logged in.
pub fn bare(title: &str, status: StatusCode, body: &Markup) -> HttpResponse {
    document(title, status, &html! { main.narrow #main { (body) } })
}

/// A page that leads on to another one at once, as one of our own does.
pub fn leading_on(to: &str) -> HttpResponse {
    let mut response = bare(
        "presence-bridge",
        StatusCode::OK,
        &html! { h1 { "presence-bridge" } p { a href=(to) { "Go on" } } },
    );
    if let Ok(refresh) = format!("0; url={to}").parse() {
        response.headers_mut().insert(header::REFRESH, refresh);
    }
    response
}

/// What went wrong, in the frame.
pub fn failed(view: &View, error: &ApiError) -> HttpResponse {
    log(error);
    let mut content = Content::titled(error.title());
    content.body = explained(error);
    asked_again(whole(view, content, error.status()), error)
}

/// What went wrong, without the frame.
pub fn refused(error: &ApiError) -> HttpResponse {
    log(error);
    let body = html! { h1 { (error.title()) } (explained(error)) };
    asked_again(bare(error.title(), error.status(), &body), error)
}

/// The answer with when to ask again.
fn asked_again(mut response: HttpResponse, error: &ApiError) -> HttpResponse {
    if let Some(wait) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, wait.clone());
    }
    response
}

fn log(error: &ApiError) {
    if let Some(cause) = error.cause() {
        tracing::error!(cause, "page of the console failed; showing that it did");
    }
}

fn explained(error: &ApiError) -> Markup {
    html! {
        p.alert role="alert" { (error.detail()) }
        @if !error.errors().is_empty() {
            ul { @for each in error.errors() {
                li { code { (each["pointer"].as_str().or(each["parameter"].as_str()).unwrap_or_default()) } " "
                     (each["detail"].as_str().unwrap_or_default()) }
            } }
        }
        p { a href=(ROOT) { "Go to the overview" } }
    }
}

fn document(title: &str, status: StatusCode, body: &Markup) -> HttpResponse {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · presence-bridge" }
                link rel="stylesheet" href=(assets::address("console.css"));
                link rel="icon" type="image/svg+xml" href=(assets::address("icon.svg"));
                script type="module" src=(assets::address("console.js")) {}
            }
            body { (body) }
        }
    };
    HttpResponse::build(status)
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((header::CONTENT_SECURITY_POLICY, SECURITY_POLICY))
        .insert_header((header::VARY, "accept, cookie"))
        .body(document.into_string())
}

/// How the navigation marks its entry of this path: that the page is it, or that the page belongs to it.
fn marked(view: &View, path: &str) -> Option<&'static str> {
    let at = view.path.strip_prefix(ROOT).unwrap_or_default();
    let is_it = at == path || at.is_empty() && path == "/";
    (entry_of(at) == path.trim_start_matches('/')).then_some(if is_it { "page" } else { "true" })
}

/// The entry of the navigation that a page belongs to.
fn entry_of(path: &str) -> &str {
    match path.split('/').nth(1).unwrap_or_default() {
        "agents" => "board",
        "connections" | "rejected-topics" => "sources",
        "recoveries" => "deliveries",
        own => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_belongs_to_one_entry_of_the_navigation() {
        let entries: Vec<_> =
            pages().filter(|page| page.name.is_some()).map(|page| &page.path[1..]).collect();
        for page in pages() {
            let of = entry_of(page.path);
            assert_eq!(entries.iter().filter(|entry| **entry == of).count(), 1, "{}: {of}", page.path);
        }
        assert_eq!(entry_of("/connections/{id}"), "sources");
    }
}
