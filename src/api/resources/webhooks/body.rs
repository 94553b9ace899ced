//! Reading the settings of a webhook from a body. Called by `api/resources/webhooks/mod.rs`.

use crate::api::http::body::JsonBody;
use crate::api::http::problem::ApiError;
use crate::domain::delivery::signature::SigningKey;
use crate::domain::ids::SourceId;
use crate::domain::secret::Secret;
use crate::domain::violation::Violation;
use crate::domain::webhook::access_input::{AccessInput, AuthInput};
use crate::domain::webhook::delivery_settings_input::{BatchInput, DeliveryInput};
use crate::domain::webhook::{WebhookChanges, WebhookInput, WebhookSettings};
use crate::services;
use crate::services::caller::Caller;

/// Reads and checks the fields that a registration and a change have in common; `present` is what they
/// change.
pub(super) async fn take_changes(
    caller: &Caller,
    mut body: JsonBody,
    present: &WebhookSettings,
) -> Result<WebhookChanges, ApiError> {
    let input = WebhookInput {
        url: body.text("url"),
        description: body.text("description"),
        agents: body.texts("agents"),
        topics: body.texts("topics"),
        presences: body.texts("presences"),
        sources: take_sources(caller, &mut body).await?,
        queues: body.texts("queues"),
        routing_statuses: body.texts("routing_statuses"),
        transitions: body.texts("transitions"),
        events: body.texts("events"),
        delivery: take_delivery(&mut body),
        access: take_access(&mut body),
    };
    body.finish_with(services::webhooks::check(caller, input, present))
}

fn take_delivery(body: &mut JsonBody) -> DeliveryInput {
    DeliveryInput {
        mode: body.text("mode"),
        max_age_seconds: body.integer_or_null("max_age_seconds"),
        min_dwell_ms: body.integer("min_dwell_ms"),
        batch: body.object_or_null("batch", take_batch),
        retry_schedule_seconds: body.integers_or_null("retry_schedule_seconds"),
        timeout_ms: body.integer("timeout_ms"),
        max_concurrency: body.integer("max_concurrency"),
        rate_limit: body.object_or_null("rate_limit", |limit| take_two(limit, "requests", "per_seconds")),
        disable_after_seconds: body.integer("disable_after_seconds"),
        format: body.text("format"),
        signatures: body.texts("signatures"),
        verification: body.text("verification"),
    }
}

fn take_batch(batch: &mut JsonBody) -> Option<BatchInput> {
    let numbers = take_two(batch, "max_items", "max_wait_ms");
    let max_bytes = batch.integer("max_bytes");
    let (max_items, max_wait_ms) = numbers?;
    Some(BatchInput { max_items, max_wait_ms, max_bytes })
}

/// Two whole numbers, both of which must be given.
fn take_two(body: &mut JsonBody, first: &str, second: &str) -> Option<(i32, i32)> {
    body.must_be_given(&[first, second]);
    let (first, second) = (body.integer(first), body.integer(second));
    first.zip(second)
}

fn take_access(body: &mut JsonBody) -> AccessInput {
    AccessInput {
        headers: body.object("headers", |headers| {
            let texts = headers.all_texts();
            Some(texts.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
        }),
        auth: body.object("auth", take_auth),
        client_certificate: body.object_or_null("client_certificate", |pair| {
            pair.must_be_given(&["chain", "key"]);
            let (chain, key) = (pair.text("chain"), pair.text("key"));
            chain.zip(key.map(Secret::new))
        }),
    }
}

/// Takes what the kind of credentials wants; what belongs to another kind is left over and refused.
fn take_auth(auth: &mut JsonBody) -> Option<AuthInput> {
    auth.must_be_given(&["kind"]);
    let mut input = AuthInput { kind: auth.text("kind")?, ..AuthInput::default() };
    match input.kind.as_str() {
        "basic" => {
            auth.must_be_given(&["username", "password"]);
            input.username = auth.text("username");
            input.password = auth.text("password").map(Secret::new);
        }
        "bearer" => {
            auth.must_be_given(&["token"]);
            input.token = auth.text("token").map(Secret::new);
        }
        "scheme" => {
            auth.must_be_given(&["scheme", "credentials"]);
            input.scheme = auth.text("scheme");
            input.credentials = auth.text("credentials").map(Secret::new);
        }
        "oauth2" => {
            auth.must_be_given(&["token_url", "client_id", "client_secret"]);
            input.token_url = auth.text("token_url");
            input.client_id = auth.text("client_id");
            input.client_secret = auth.text("client_secret").map(Secret::new);
            (input.scope, input.audience) =
                (auth.text_or_null("scope").flatten(), auth.text_or_null("audience").flatten());
            input.in_body = auth.boolean("in_body");
        }
        _ => {}
    }
    Some(input)
}

async fn take_sources(caller: &Caller, body: &mut JsonBody) -> Result<Option<Vec<SourceId>>, ApiError> {
    let Some(texts) = body.texts("sources") else {
        return Ok(None);
    };
    let (ids, wrong) = services::webhooks::read_sources(caller, &texts).await?;
    for Violation { field, what } in wrong {
        body.wrong::<()>(&field, &what);
    }
    Ok(Some(ids))
}

/// A secret that was given: read, or found to be none. The text itself is never told back.
pub(super) fn take_secret(body: &mut JsonBody) -> Option<SigningKey> {
    let text = body.text("secret")?;
    match SigningKey::parse(&text) {
        Ok(key) => Some(key),
        Err(_) => body.wrong("secret", "is not whsec_ and the base64 of 24 to 64 bytes"),
    }
}
