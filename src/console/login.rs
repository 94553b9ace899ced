//! Getting in, by an API key or a link, and getting out.

use std::time::{Duration, Instant};

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded;

use super::form::Form;
use super::frame;
use super::session::{self, SessionLength, is_from_elsewhere};
use super::view::View;
use super::{ROOT, Result, pages};
use crate::api::ApiState;
use crate::api::http::auth::{address_of, too_many_failures};
use crate::api::http::problem::{ApiError, Code};
use crate::domain::secret::Secret;
use crate::services::principal::Principal;
use crate::services::{api_keys, sessions};
use crate::store::audit::request_origin::calling_from;

/// What the form of the login sends: a key, or what a link holds.
#[derive(Deserialize)]
struct Fields {
    key: Option<Secret>,
    link: Option<Secret>,
    #[serde(default)]
    next: String,
}

/// The form.
pub async fn show(request: HttpRequest) -> HttpResponse {
    let given = |name: &str| {
        let mut pairs = form_urlencoded::parse(request.query_string().as_bytes());
        pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    };
    let next = given("next").unwrap_or_default();
    match given("link") {
        Some(link) => {
            let at_once = !is_from_elsewhere(request.headers());
            frame::bare("Log in", StatusCode::OK, &link_form(&link, &next, at_once))
        }
        None => frame::bare("Log in", StatusCode::OK, &key_form(&next, None)),
    }
}

/// Logs a browser in.
pub async fn log_in(request: HttpRequest, state: web::Data<ApiState>, form: Form) -> HttpResponse {
    if !session::is_of_this_site(request.headers()) {
        return frame::refused(&ApiError::new(
            Code::CrossSite,
            "Send this form from a page of this console.",
        ));
    }
    let Ok(fields) = form.read::<Fields>() else {
        return frame::bare("Log in", StatusCode::BAD_REQUEST, &key_form("", Some("Give a key.")));
    };
    match start(&request, &state, &fields).await {
        Ok(Some(cookie)) => {
            let to = if is_a_page(&fields.next) { fields.next.as_str() } else { ROOT };
            HttpResponse::SeeOther().insert_header((header::LOCATION, to)).cookie(cookie).finish()
        }
        Ok(None) => {
            let what = match (&fields.link, failed(&request, &state)) {
                (_, Err(error)) => return frame::refused(&error),
                (Some(_), Ok(())) => "This link was used or has ended. Use a key, or ask for another link.",
                (None, Ok(())) => "No key in use is like this one.",
            };
            frame::bare("Log in", StatusCode::UNAUTHORIZED, &key_form(&fields.next, Some(what)))
        }
        Err(error) => frame::refused(&error),
    }
}

async fn start(
    request: &HttpRequest,
    state: &ApiState,
    fields: &Fields,
) -> Result<Option<actix_web::cookie::Cookie<'static>>> {
    let key = match (&fields.link, &fields.key) {
        (Some(link), _) => sessions::use_link(state.services(), link.expose()).await?,
        (None, Some(key)) => api_keys::look_up(state.services(), key.expose().trim().as_bytes()).await?,
        (None, None) => None,
    };
    let Some(key) = key else { return Ok(None) };
    let lasts = request.app_data::<web::Data<SessionLength>>().map_or(Duration::from_secs(3600), |it| it.0);
    let address = address_of(state, request);
    let principal = Principal::of(key.clone(), address);
    let begun = sessions::start(state.services(), &key, &principal, lasts);
    let value = calling_from(address, begun).await?;
    Ok(Some(session::cookie(request, value, lasts)))
}

/// Counts a wrong key as the API counts it.
fn failed(request: &HttpRequest, state: &ApiState) -> Result<()> {
    too_many_failures(state, address_of(state, request), Instant::now()).map_or(Ok(()), Err)
}

/// Ends the session of this browser.
pub async fn log_out(view: View, request: HttpRequest) -> HttpResponse {
    if let Err(error) = sessions::end(&view.caller, view.session).await {
        return frame::failed(&view, &error.into());
    }
    HttpResponse::SeeOther()
        .insert_header((header::LOCATION, format!("{ROOT}/login")))
        .cookie(session::cookie(&request, String::new(), Duration::ZERO))
        .finish()
}

/// `/console` leads to the first page.
pub async fn to_the_first_page() -> HttpResponse {
    let first = pages().next().map_or("/", |page| page.path);
    HttpResponse::SeeOther().insert_header((header::LOCATION, format!("{ROOT}{first}"))).finish()
}

/// Only pages of the console are gone to: another address could be another site's.
fn is_a_page(next: &str) -> bool {
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    is_plain && next.strip_prefix(ROOT).is_some_and(|rest| rest.starts_with('/'))
}

fn key_form(next: &str, wrong: Option<&str>) -> Markup {
    html! {
        h1 { "Log in to presence-bridge" }
        @if let Some(wrong) = wrong { p.alert role="alert" { (wrong) } }
        form.stack method="post" action={ (ROOT) "/login" } {
            label for="key" { "API key" }
            input #key name="key" type="password" autocomplete="current-password" required autofocus
                spellcheck="false" aria-describedby="key-help";
            p.hint #key-help { "What the key may do, you may do here. The page keeps no copy of it." }
            input type="hidden" name="next" value=(next);
            button.primary type="submit" { "Log in" }
        }
    }
}

/// Another site's page that leads here could log somebody in as somebody else: then it takes a click.
fn link_form(link: &str, next: &str, at_once: bool) -> Markup {
    html! {
        h1 { "Log in to presence-bridge" }
        form.stack method="post" action={ (ROOT) "/login" } data-send[at_once] {
            p { "This link logs this browser in, once." }
            input type="hidden" name="link" value=(link);
            input type="hidden" name="next" value=(next);
            button.primary type="submit" { "Open the console" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_away_from_the_console() {
        for page in ["/console/", "/console/board?presence=BUSY", "/console/agents/a%20b"] {
            assert!(is_a_page(page), "{page}");
        }
        for other in [
            "",
            "/",
            "//elsewhere.example",
            "https://elsewhere.example/console/",
            "/console",
            "/consoles/",
            "/console/\\elsewhere.example",
            "/console/\r\nset-cookie: a=b",
            "/console/\u{1}",
            "/console/é",
        ] {
            assert!(!is_a_page(other), "{other}");
        }
    }
}
