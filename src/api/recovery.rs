//! `/v1/webhooks/{id}/recover`: owes a webhook again what it missed.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::auth::Principal;
use super::body::JsonBody;
use super::page::path_id;
use super::problem::ApiError;
use super::scoped::Scoped;
use crate::clock;
use crate::domain::ids::WebhookId;
use crate::domain::violation::Violation;
use crate::domain::webhook::filters::check_agents;
use crate::store::recovery::{Progress, Recovery};

/// How long the caller waits for the end of it; afterwards it goes on by itself.
const ANSWER_AFTER: Duration = Duration::from_secs(4);

pub(super) async fn recover(
    state: Scoped,
    principal: Principal,
    request: HttpRequest,
    mut body: JsonBody,
) -> Result<HttpResponse, ApiError> {
    let webhook = WebhookId(path_id(&request)?);
    body.must_be_given(&["since"]);
    let (since, until) = (body.time("since"), body.time("until"));
    let only_failed = body.boolean("only_failed").unwrap_or(true);
    let agents = body.texts("agents").unwrap_or_default();
    let until = until.unwrap_or_else(clock::now);
    let mut wrong = Vec::new();
    if since.is_some_and(|since| since >= until) {
        wrong.push(Violation::new("since", "is not before until"));
    }
    let agents = check_agents(agents, &mut wrong);
    body.finish(wrong)?;
    let Some(since) = since else {
        return Err(ApiError::fields(&[Violation::new("since", "is missing")]));
    };
    let wanted = Recovery { webhook, since, until, only_failed, agents };
    let progress = Arc::new(Progress::default());
    let (store, seen) = (state.store.clone(), progress.clone());
    // A task of its own: it ends well even if the caller has gone, or is answered before.
    let work = tokio::spawn(async move {
        let done = store.recover(&wanted, principal.as_str(), &seen).await;
        if let Err(error) = &done {
            tracing::warn!(%error, webhook = %wanted.webhook, recovered = seen.recovered(), "a recovery ended early");
        }
        done
    });
    let done = match tokio::time::timeout(ANSWER_AFTER, work).await {
        Ok(ended) => ended.map_err(ApiError::internal)?.map(|()| true)?,
        Err(_) => false,
    };
    Ok(HttpResponse::Accepted().json(json!({
        "recovered": progress.recovered(),
        "skipped": progress.skipped(),
        "done": done,
    })))
}
