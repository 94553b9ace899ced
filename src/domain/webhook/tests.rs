//! Rules of a registration.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::domain::delivery::access::Auth;
use crate::domain::delivery::settings::{Batch, Mode};
use crate::domain::secret::Secret;
use crate::domain::webhook::access_input::AuthInput;
use crate::domain::webhook::delivery_settings_input::BatchInput;

fn fields(violations: &[Violation]) -> Vec<&str> {
    violations.iter().map(|v| v.field.as_str()).collect()
}

fn check(input: WebhookInput) -> Result<WebhookChanges, Vec<Violation>> {
    input.check(&TargetPolicy::new(Vec::new()))
}

#[test]
fn everything_wrong_is_named_at_once() {
    let wrong = WebhookInput {
        url: Some("http://127.0.0.1/".into()),
        description: Some("x".repeat(501)),
        agents: Some(vec!["a".into(), " ".into(), "b\r\nx: y".into()]),
        topics: Some(vec!["t".into(); 101]),
        delivery: DeliveryInput {
            mode: Some("newest".into()),
            batch: Some(Some(BatchInput { max_items: 0, max_wait_ms: 60_001, max_bytes: Some(1_048_577) })),
            retry_schedule_seconds: Some(Some(vec![1, 0])),
            signatures: Some(vec!["v1".into(), "v2".into()]),
            ..DeliveryInput::default()
        },
        access: AccessInput {
            headers: Some(vec![("Webhook-Id".into(), Secret::new("x"))]),
            ..AccessInput::default()
        },
        ..WebhookInput::default()
    };
    let found = check(wrong).unwrap_err();
    let mut named = fields(&found);
    named.sort_unstable();
    let mut expected = vec![
        "url",
        "description",
        "agents/1",
        "agents/2",
        "topics",
        "mode",
        "batch/max_items",
        "batch/max_wait_ms",
        "batch/max_bytes",
        "retry_schedule_seconds/1",
        "signatures/1",
        "headers/Webhook-Id",
    ];
    expected.sort_unstable();
    assert_eq!(named, expected);
}

#[test]
fn kinds_of_event_are_known_ones_once_each_and_one_at_least() {
    let check = |events: &[&str]| {
        let events = Some(events.iter().map(|&event| event.to_owned()).collect());
        check(WebhookInput { events, ..WebhookInput::default() })
    };
    let kept = check(&["source.stale", "presence.updated", "source.stale"]).unwrap().events.unwrap();
    assert_eq!(kept, ["source.stale", "presence.updated"]);
    assert_eq!(fields(&check(&[]).unwrap_err()), ["events"]);
    let wrong = check(&["presence.updated", "webhook.test", "source.gone"]).unwrap_err();
    assert_eq!(fields(&wrong), ["events/1", "events/2"]);
    assert!(check(&EVENTS).is_ok());
    let unsaid = super::WebhookInput::default().check(&TargetPolicy::new(Vec::new())).unwrap();
    assert!(unsaid.events.is_none(), "what is not said stays as it is");
}

#[test]
fn presences_are_kept_in_one_spelling_and_lists_without_repeats() {
    let good = WebhookInput {
        url: Some("https://crm.example.com/hooks?sig=1".into()),
        presences: Some(vec!["On Queue".into(), "ON_QUEUE".into(), "Coffee".into()]),
        agents: Some(vec!["b".into(), "a".into(), "b".into()]),
        ..WebhookInput::default()
    };
    let changes = check(good).unwrap();
    assert_eq!(changes.presences.unwrap(), ["ON_QUEUE", "Coffee"]);
    assert_eq!(changes.agents.unwrap(), ["b", "a"]);
    assert_eq!(changes.url.unwrap().as_str(), "https://crm.example.com/hooks?sig=1");
    assert!(changes.topics.is_none());
}

#[test]
fn what_is_not_mentioned_stays_and_null_clears() {
    let given = DeliveryInput {
        mode: Some("latest".into()),
        max_age_seconds: Some(Some(60)),
        batch: Some(Some(BatchInput { max_items: 100, max_wait_ms: 500, max_bytes: None })),
        retry_schedule_seconds: Some(Some(Vec::new())),
        ..DeliveryInput::default()
    };
    let changes = check(WebhookInput { delivery: given, ..WebhookInput::default() }).unwrap();
    let first = changes.over(&WebhookSettings::default());
    assert_eq!(first.delivery.mode, Mode::Latest);
    let batch = Batch { max_items: 100, max_wait: Duration::from_millis(500), max_bytes: 96_000 };
    assert_eq!(first.delivery.batch, Some(batch));
    assert_eq!(first.delivery.retry_schedule, Some(Vec::new()), "no retries");
    assert_eq!(first.delivery.timeout, Duration::from_secs(15));
    let cleared =
        DeliveryInput { batch: Some(None), max_age_seconds: Some(None), ..DeliveryInput::default() };
    let changes = check(WebhookInput { delivery: cleared, ..WebhookInput::default() }).unwrap();
    let second = changes.over(&first);
    assert_eq!((second.delivery.batch, second.delivery.max_age), (None, None));
    assert_eq!(second.delivery.mode, Mode::Latest);
    assert_eq!(first.fields_changed_by(&second), ["max_age_seconds", "batch"]);
}

#[test]
fn a_batch_cannot_be_described_by_headers() {
    let mut settings = WebhookSettings::default();
    settings.delivery.format = Format::CloudEventsBinary;
    assert!(settings.check().is_ok());
    settings.delivery.batch = Some(Batch { max_items: 2, max_wait: Duration::ZERO, max_bytes: 1024 });
    assert_eq!(settings.check().unwrap_err().field, "batch");
}

#[test]
fn headers_that_are_ours_or_could_split_a_request_are_refused() {
    let check = |name: &str, value: &str| {
        let headers = Some(vec![(name.to_owned(), Secret::new(value))]);
        let access = AccessInput { headers, ..AccessInput::default() };
        check(WebhookInput { access, ..WebhookInput::default() })
    };
    for name in [
        "Host",
        "Content-Type",
        "content-length",
        "Transfer-Encoding",
        "connection",
        "TE",
        "proxy-authorization",
        "Authorization",
        "user-agent",
        "webhook-signature",
        "ce-id",
        "presence-bridge-attempt",
        "accept-encoding",
        "",
        "a b",
        "a:b",
        "ä",
        "x\r\ny",
    ] {
        assert!(check(name, "x").is_err(), "{name:?}");
    }
    for value in ["a\r\nb: c", "a\nb", "a\0b", "ä", "\u{7f}"] {
        assert!(check("x-key", value).is_err(), "{value:?}");
    }
    for name in ["X-Api-Key", "Cookie", "x~y"] {
        let kept = check(name, "a b\tc").unwrap().access.headers.unwrap();
        assert_eq!(kept.first().unwrap().0, name.to_ascii_lowercase());
    }
}

#[test]
fn credentials_are_checked_by_their_kind_and_token_addresses_like_our_targets() {
    let check = |auth: AuthInput| {
        let access = AccessInput { auth: Some(auth), ..AccessInput::default() };
        check(WebhookInput { access, ..WebhookInput::default() }).map(|changes| changes.access.auth.unwrap())
    };
    let of = |kind: &str| AuthInput { kind: kind.to_owned(), ..AuthInput::default() };
    assert_eq!(check(of("none")).unwrap(), Auth::None);
    assert_eq!(fields(&check(of("digest")).unwrap_err()), ["auth/kind"]);
    let basic = AuthInput { username: Some("a:b".into()), password: Some(Secret::new("")), ..of("basic") };
    assert_eq!(fields(&check(basic).unwrap_err()), ["auth/username"]);
    let basic = AuthInput { username: Some("ann".into()), ..of("basic") };
    assert!(check(basic).is_ok(), "a password may be empty");
    let bearer = AuthInput { token: Some(Secret::new("two words")), ..of("bearer") };
    assert_eq!(fields(&check(bearer).unwrap_err()), ["auth/token"]);
    let scheme = |scheme: &str, credentials: &str| AuthInput {
        scheme: Some(scheme.to_owned()),
        credentials: Some(Secret::new(credentials)),
        ..of("scheme")
    };
    assert!(check(scheme("Token", r#"token="abc", v=1"#)).is_ok());
    assert_eq!(fields(&check(scheme("Token:", "abc")).unwrap_err()), ["auth/scheme"]);
    for credentials in ["", " abc", "abc\r\nx: y", "\u{df}"] {
        assert!(check(scheme("GenieKey", credentials)).is_err(), "{credentials:?}");
    }
    let oauth2 = |url: &str| AuthInput {
        token_url: Some(url.to_owned()),
        client_id: Some("id".into()),
        client_secret: Some(Secret::new("secret")),
        ..of("oauth2")
    };
    assert!(check(oauth2("https://login.example.com/token")).is_ok());
    let refused = check(oauth2("https://169.254.169.254/token")).unwrap_err();
    assert_eq!(fields(&refused), ["auth/token_url"]);
    let refused = check(of("oauth2")).unwrap_err();
    assert_eq!(fields(&refused), ["auth/token_url", "auth/client_id", "auth/client_secret"]);
}

/// A certificate that signs itself, and its key; they guard nothing.
const CHAIN: &str = concat!(
    "-----BEGIN CERTIFICATE-----\n",
    "MIIBjTCCATKgAwIBAgIUGEDRaGmR5y98XzQ3x1oUBwIWBBgwCgYIKoZIzj0EAwIwDjEMMAoGA1UEAwwDY3JtMCAXDTI2MTEyMzIyMzIx\n",
    "MloYDzIxMjYxMDMwMjIzMjEyWjAOMQwwCgYDVQQDDANjcm0wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR/lmw9+lXwrzPbcqHqREGo\n",
    "vD3u/e4GuRH4z789mK/LYAPw6VZWhqkUGrPe375fbTUDJTfhVhgU/mF4yobhICkco2wwajAdBgNVHQ4EFgQUtr7zroZdfpgXWG9zLGbn\n",
    "FkDOsEswHwYDVR0jBBgwFoAUtr7zroZdfpgXWG9zLGbnFkDOsEswGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAwGA1UdEwEB/wQC\n",
    "MAAwCgYIKoZIzj0EAwIDSQAwRgIhAL+CksMeDZNLtB5eRjaylWB2uRXk7MQl/t9BWNXH2N6CAiEAlxvC7Oe7IWw/mk3z/hgXtF4wItBp\n",
    "7HQ/5M+DT7sKvdY=\n",
    "-----END CERTIFICATE-----\n",
);
const KEY: &str = concat!(
    "-----BEGIN PRIVATE KEY-----\n",
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQglFmLMQf1o9XZCCfGJFVPKho70WYboQ9uTr6/2ITMVTGhRANCAAR/lmw9\n",
    "+lXwrzPbcqHqREGovD3u/e4GuRH4z789mK/LYAPw6VZWhqkUGrPe375fbTUDJTfhVhgU/mF4yobhICkc\n",
    "-----END PRIVATE KEY-----\n",
);
/// Another key of the same kind.
const OTHER_KEY: &str = concat!(
    "-----BEGIN PRIVATE KEY-----\n",
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgU1pOUdOvgv7+ab+bHl9PTSjMHGCgPY6Lbll7+3LH0smhRANCAATkVdwr5LE2\n",
    "iD3Ucun1GmLGVYEqGnSCJ2je7OkB9U7uafr+j5/JM2J3uUUCylD6qZMfAi7NySzEcXcYSot2SQQs\n",
    "-----END PRIVATE KEY-----\n",
);

#[test]
fn a_client_certificate_needs_the_key_that_belongs_to_it() {
    let check = |chain: &str, key: &str| {
        let client_certificate = Some(Some((chain.to_owned(), Secret::new(key))));
        let access = AccessInput { client_certificate, ..AccessInput::default() };
        check(WebhookInput { access, ..WebhookInput::default() })
    };
    assert!(check(CHAIN, KEY).is_ok());
    assert_eq!(fields(&check(CHAIN, OTHER_KEY).unwrap_err()), ["client_certificate/key"]);
    let neither = check("junk", "junk").unwrap_err();
    assert_eq!(fields(&neither), ["client_certificate/chain", "client_certificate/key"]);
    assert_eq!(
        fields(&check(KEY, CHAIN).unwrap_err()),
        ["client_certificate/chain", "client_certificate/key"]
    );
}
