//! What other senders of webhooks were found to get wrong, in their code or in the words of their users: each
//! is a promise here. Most are kept where they belong:
//!
//! - a `Retry-After` is undercut on the first failure:
//!   `retries_then_gives_up::retry_after_makes_a_wait_longer_and_never_shorter`
//! - rest after 429 is coded and never taken:
//!   `a_receiver_that_asks_for_rest_gets_it_for_all_agents_until_the_time_it_said` in
//!   `leaves_failing_receivers_alone`
//! - a rate limit is accepted and ignored:
//!   `keeps_within_limits::a_rate_limit_holds_in_every_window_though_hundreds_are_due`
//! - a recovery skips what is past its page:
//!   `explains::however_many_were_missed_all_of_the_time_asked_for_are_delivered_again`
//! - one slow receiver blocks all:
//!   `keeps_order_per_agent::a_webhook_that_hangs_does_not_delay_another`
//! - no jitter:
//!   `domain::delivery::retry_schedule`, `jitter_only_adds_and_at_most_a_tenth`
//! - no guard of inner addresses, or one without exceptions:
//!   `outbound::post_tests::a_forbidden_address_sees_no_connection`; every test here dials an exception
//! - certificates are not verified:
//!   `outbound::post_tls_tests::a_certificate_is_checked_and_http_1_1_is_spoken_where_there_is_no_more`
//! - signing is off unless asked for:
//!   `takes_settings::what_is_wrong_is_told_all_at_once_by_pointer`: it cannot be off
//! - a client is built for each attempt:
//!   `outbound::post_tests::an_answer_is_taken_and_the_connection_kept`
//! - disabling is configured and never comes:
//!   `leaves_failing_receivers_alone::one_that_fails_too_long_is_disabled_and_found_again_when_it_is_well`
//! - a removed receiver is tried for ever:
//!   `registers_webhooks::the_pending_deliveries_of_a_removed_webhook_end_and_are_not_sent`
//! - attempts are neither counted nor logged, and never end:
//!   `retries_then_gives_up::after_eleven_failures_it_is_dead_and_its_lane_is_free`
//! - a restart of the store needs one of the sender:
//!   `survives_database_loss::a_restart_of_postgres_is_survived`
//! - a retry schedule of one's own was lost:
//!   `leaves_failing_receivers_alone::a_schedule_of_ones_own_counts_and_an_empty_one_means_a_single_try`
//! - a retried older state overwrites the newer one:
//!   `keeps_order_per_agent::first_deliveries_are_in_order_while_receivers_fail_and_dawdle`
//! - related changes cannot be made one:
//!   `tells_the_latest::after_an_outage_each_agent_is_told_once_and_nothing_is_unaccounted_for`

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use genesys_simulator::crm::{Behaviour, Crm, CrmOptions};
use serde_json::json;

use crate::support::contract::operations;
use crate::support::look::{all, hurry};
use crate::support::{SOON, World, database, eventually};

/// Elsewhere the limit ends with the head of the answer, or the whole body is read before it is cut.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_ends_in_the_time_it_is_given_body_included() {
    let world = World::watching(&["ann"]).await;
    for (path, behaviour) in [
        ("/hooks/hangs", Behaviour::Hang),
        ("/hooks/drips", Behaviour::Drip { status: 200, every: Duration::from_millis(20) }),
        ("/hooks/head", Behaviour::DripHead { every: Duration::from_millis(20) }),
        ("/hooks/endless", Behaviour::EndlessBody { status: 500 }),
    ] {
        world.register_with(path, json!({"timeout_ms": 1000})).await;
        world.crm.always(path, behaviour);
    }
    world.genesys.set_presence("ann", "AVAILABLE").await;
    for attempt in world.audit_of("DELIVERY_ATTEMPT", 4).await {
        let took = attempt["duration_ms"].as_u64().unwrap();
        assert!(took < 2000, "{attempt}");
    }
}

/// Elsewhere the documents tell receivers to look at a header that is never sent.
#[tokio::test(flavor = "multi_thread")]
async fn the_headers_that_are_documented_are_the_ones_that_are_sent() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let post = world.crm.wait_for(1, SOON).await.unwrap()[0].clone();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        assert!(readme.contains(&format!("`{name}`")) && post.header(name).is_some(), "{name}");
    }
}

/// Elsewhere no authentication was found on the administration.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_below_v1_is_answered_without_a_key() {
    let world = World::watching(&["ann"]).await;
    let headers = [("content-type", "application/json")];
    for operation in operations() {
        let (method, path) = operation.split_once(' ').unwrap();
        if path.starts_with("/v1") {
            let path = path.replace("{id}", "ann");
            let body = (method != "GET").then(|| b"{}".to_vec());
            // After that many wrong calls the key is asked for more slowly; that is no answer either.
            let answer = world.bridge.send_raw(method, &path, &headers, body).await;
            assert!([401, 429].contains(&answer.status), "{operation}: {}", answer.status);
        }
    }
}

/// Elsewhere such failures went to the dead letters at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_cannot_be_found_or_reached_is_tried_again() {
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let gone = Crm::start(CrmOptions::default()).await.unwrap();
    let address = gone.address();
    gone.stop().await;
    for url in [format!("http://{address}/hooks/a"), "https://nobody.invalid/hooks/a".to_owned()] {
        let made = world.bridge.post("/v1/webhooks", &json!({"url": url})).await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let attempts = world.audit_of("DELIVERY_ATTEMPT", 2).await;
    let outcomes: BTreeSet<_> = attempts.iter().map(|entry| entry["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["connect", "dns"].into());
    assert_eq!(all(&world.bridge, "/v1/deliveries?state=waiting").await.len(), 2);
    let back = Crm::start(CrmOptions { listen: address, ..CrmOptions::default() }).await.unwrap();
    hurry(&pool).await;
    back.wait_for(1, SOON).await.unwrap();
}

/// Elsewhere the retry stops, its time in the past.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_due_while_nobody_could_send_it_leaves_at_once_afterwards() {
    let mut world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register("/hooks/a").await;
    world.crm.next("/hooks/a", [Behaviour::status(500)]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let id = world.crm.wait_for(1, SOON).await.unwrap()[0].webhook_id().to_owned();
    world.delivery_in(&id, "waiting").await;
    world.bridge.kill().await;
    sqlx::query("update delivery set due_at = now() - interval '3 days'").execute(&pool).await.unwrap();
    let start = Instant::now();
    world.bridge.restart().await;
    world.delivery_in(&id, "delivered").await;
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// Elsewhere a kill in the middle of a fan-out sends to every receiver again, or leaves no trace of the
/// attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_repeats_what_was_under_way_alone_and_leaves_its_trace() {
    let mut world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    for path in ["/hooks/a", "/hooks/b", "/hooks/hangs"] {
        world.register(path).await;
    }
    world.crm.next("/hooks/hangs", [Behaviour::Hang]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(3, SOON).await.unwrap();
    world.audit_of("DELIVERY_ATTEMPT", 2).await;
    // Nor is a transaction open while a receiver thinks.
    eventually("no transaction is open", || async {
        let open: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and state like 'idle in transaction%'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (open == 0).then_some(())
    })
    .await;
    world.bridge.kill_and_restart().await;
    let posts = world.crm.wait_for(4, SOON).await.unwrap();
    assert_eq!(posts[3].path(), "/hooks/hangs");
    assert_eq!(posts[3].header("presence-bridge-attempt"), Some("2"));
    let id = posts[3].webhook_id();
    let delivered = world.delivery_in(id, "delivered").await;
    assert_eq!(delivered["attempts_begun"], 2);
    let lost = world.audit_of("ATTEMPT_LOST", 1).await;
    assert_eq!((lost.len(), &lost[0]["delivery_id"], &lost[0]["attempt"]), (1, &json!(id), &json!(1)));
    assert_eq!(world.crm.count(), 4, "nobody else was sent anything twice");
}
