//! A page is asked for: shown in its frame, or its live sections streamed.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use tokio::time::timeout;

use super::Page;
use super::frame::{failed, refused, whole};
use super::live::{self, Hub};
use super::view::{View, wants_events};
use crate::api::http::problem::ApiError;

/// How long a page may take; the API's own deadline would answer with a problem document.
const PAGE_WITHIN: Duration = Duration::from_millis(4500);

/// Shows a page, or streams its live sections if a browser's event source asks.
pub async fn answer(
    page: &'static Page,
    view: View,
    request: HttpRequest,
    hub: web::Data<Hub>,
) -> HttpResponse {
    if let Err(error) = view.caller.principal.must_have(page.scope) {
        return failed(&view, &error.into());
    }
    if page.is_operators
        && let Err(error) = view.caller.principal.must_be_operator()
    {
        return failed(&view, &error.into());
    }
    if wants_events(&request) {
        return live::stream(page, view, &request, &hub).unwrap_or_else(|error| refused(&error));
    }
    match timeout(PAGE_WITHIN, (page.show)(view.clone())).await {
        Ok(Ok(content)) => {
            let status = content.status;
            whole(&view, content, status)
        }
        Ok(Err(error)) => failed(&view, &error),
        Err(_) => failed(&view, &ApiError::unavailable("no page in time")),
    }
}

/// A page of the console whose address is none.
pub async fn not_found(view: View) -> HttpResponse {
    failed(&view, &ApiError::not_found())
}
