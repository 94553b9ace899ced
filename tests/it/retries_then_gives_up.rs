//! What a receiver does not take is offered again, later and later, as the same POST; then it is given up, in
//! public.

use bytes::Bytes;
use genesys_simulator::clock::parse_rfc3339;
use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::{altered_repeats, distrusted};
use serde_json::{Value, json};

use crate::support::look::{hurry, waiting_for_locks};
use crate::support::{SOON, World, database, eventually};

/// Seconds from an attempt (from 1) to the time that the delivery is due again.
fn wait_after(delivery: &Value, attempt: usize) -> f64 {
    let told = &delivery["attempts"][attempt - 1];
    let at = parse_rfc3339(told["at"].as_str().unwrap()).unwrap();
    let due = parse_rfc3339(delivery["due_at"].as_str().unwrap()).unwrap();
    (due - at).as_seconds_f64()
}

/// Whether a wait is the schedule's with at most a tenth more (the API shows milliseconds).
fn keeps(wait: f64, seconds: f64) -> bool {
    (seconds - 0.001..=seconds * 1.1 + 0.001).contains(&wait)
}

/// A world in which the first POST about ann met this; gives the id of the delivery.
async fn after_first(behaviours: impl IntoIterator<Item = Behaviour>) -> (World, String) {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.crm.next("/hooks/a", behaviours);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let id = world.crm.wait_for(1, SOON).await.unwrap()[0].webhook_id().to_owned();
    (world, id)
}

async fn attempts_are(world: &World, id: &str, count: usize) -> Value {
    eventually("the attempt is written down", || async {
        let delivery = world.delivery(id).await;
        let done = delivery["attempts_begun"] == count
            && delivery["attempts"].as_array()?.len() == count
            && delivery["state"] != "sending";
        done.then_some(delivery)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_it_waits_as_long_as_the_schedule_says() {
    let (world, id) = after_first([Behaviour::status(500), Behaviour::status(404)]).await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    let waited = (posts[1].arrived - posts[0].arrived).as_secs_f64();
    assert!(waited >= 5.0, "the second POST came after {waited} s");
    let delivery = attempts_are(&world, &id, 2).await;
    assert!(keeps(wait_after(&delivery, 2), 30.0), "{delivery}");
    let pool = database::pool(&world.bridge.database_url).await;
    world.crm.next("/hooks/a", [Behaviour::status(429)]);
    hurry(&pool).await;
    let delivery = attempts_are(&world, &id, 3).await;
    assert!(keeps(wait_after(&delivery, 3), 120.0), "{delivery}");
    assert_eq!(delivery["last_status"], 429);
    assert_eq!(delivery["last_outcome"], "http_4xx");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_makes_a_wait_longer_and_never_shorter() {
    let (world, id) = after_first([Behaviour::retry_after(503, "120")]).await;
    let delivery = attempts_are(&world, &id, 1).await;
    assert!(wait_after(&delivery, 1) >= 120.0, "{delivery}");
    let pool = database::pool(&world.bridge.database_url).await;
    world.crm.next("/hooks/a", [Behaviour::retry_after(429, "1")]);
    hurry(&pool).await;
    let delivery = attempts_are(&world, &id, 2).await;
    assert!(keeps(wait_after(&delivery, 2), 30.0), "{delivery}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_eleven_failures_it_is_dead_and_its_lane_is_free() {
    let (world, id) = after_first((0..11).map(|_| Behaviour::status(500))).await;
    world.genesys.set_presence("ann", "BUSY").await;
    let pool = database::pool(&world.bridge.database_url).await;
    let dead = eventually("it is given up", || async {
        hurry(&pool).await;
        let delivery = world.delivery(&id).await;
        (delivery["state"] == "dead").then_some(delivery)
    })
    .await;
    let attempts = dead["attempts"].as_array().unwrap();
    let told: Vec<_> = attempts.iter().map(|attempt| attempt["attempt"].as_i64().unwrap()).collect();
    assert_eq!(told, (1..=11).collect::<Vec<_>>(), "one audit entry an attempt");
    assert!(attempts.iter().all(|a| a["status"] == 500 && a["outcome"] == "http_5xx"));
    let ends = world.audit("DELIVERY_ATTEMPT").await;
    let ends: Vec<_> = ends.iter().filter(|entry| entry["end_state"] == "dead").collect();
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0]["level"], "ERROR");
    let posts = eventually("the next one leaves", || async {
        hurry(&pool).await;
        Some(world.crm.posts()).filter(|posts| posts.len() == 12)
    })
    .await;
    assert!(posts[..11].iter().all(|post| post.webhook_id() == id));
    assert_eq!(posts[11].event.as_ref().unwrap().data.sequence, 2, "the next one leaves");
    assert_eq!(altered_repeats(&posts), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_send_at_once_and_can_open_again_what_was_given_up() {
    let (world, id) = after_first([Behaviour::status(500), Behaviour::status(500)]).await;
    world.delivery_in(&id, "waiting").await;
    let retry = format!("/v1/deliveries/{id}/retry");
    let pool = database::pool(&world.bridge.database_url).await;
    sqlx::query("update delivery set attempt = 10").execute(&pool).await.unwrap();
    assert_eq!(world.bridge.post(&retry, &json!({})).await.status, 202);
    world.delivery_in(&id, "dead").await;
    assert_eq!(world.bridge.post(&retry, &json!({})).await.status, 202);
    let delivered = world.delivery_in(&id, "delivered").await;
    assert_eq!(delivered["attempts_begun"], 1, "attempts are counted again");
    let posts = world.crm.posts();
    assert_eq!(posts.len(), 3);
    assert!(posts.iter().all(|post| post.webhook_id() == id));
    assert_eq!(altered_repeats(&posts), Vec::<String>::new());
    let asked = world.audit("DELIVERY_RETRIED").await;
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|entry| entry["principal"] == "api-key:bootstrap"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_and_the_end_of_its_webhook_do_not_wait_for_each_other() {
    let world = World::watching(&["ann", "bob"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/a", json!({"retry_schedule_seconds": []})).await;
    world.crm.next("/hooks/a", [Behaviour::status(500)]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let id = world.crm.wait_for(1, SOON).await.unwrap()[0].webhook_id().to_owned();
    world.delivery_in(&id, "dead").await;
    // As after a hold that is over, which the retry takes away.
    sqlx::query("update webhook_health set hold_until = now()").execute(&pool).await.unwrap();
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select from agent where agent_id = 'ann' for update").execute(&mut *held).await.unwrap();
    let path = format!("/v1/deliveries/{id}/retry");
    let ((), retried) = tokio::join!(
        async {
            eventually("the retry waits", || async { (waiting_for_locks(&pool).await == 1).then_some(()) })
                .await;
            world.crm.always("/hooks/a", Behaviour::status(410));
            world.genesys.set_presence("bob", "AVAILABLE").await;
            eventually("the webhook is disabled, or waits for the retry", || async {
                let disabled = !world.audit("WEBHOOK_DISABLED").await.is_empty();
                (disabled || waiting_for_locks(&pool).await > 1).then_some(())
            })
            .await;
            held.rollback().await.unwrap();
        },
        async { world.bridge.post(&path, &json!({})).await },
    );
    assert_eq!(retried.status, 202, "{}", retried.text());
    world.audit_of("WEBHOOK_DISABLED", 1).await;
    assert!(!world.bridge.log().contains("deadlock"), "{}", world.bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_success_is_offered_again_as_the_same_post() {
    let stolen = "/hooks/stolen";
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    let raw = |text: &'static str| Behaviour::Raw(Bytes::from_static(text.as_bytes()));
    let failures = [
        (Behaviour::redirect(302, &world.crm.url(stolen)), "http_3xx"),
        (Behaviour::redirect(307, &world.crm.url(stolen)), "http_3xx"),
        (Behaviour::redirect(308, stolen), "http_3xx"),
        (Behaviour::status(404), "http_4xx"),
        (raw("HTTP/1.1 100 Continue\r\n\r\n"), "disconnected"),
        (Behaviour::CloseUnanswered, "disconnected"),
        (Behaviour::ResetUnanswered, "disconnected"),
        (raw("HTTP/1.1 204"), "disconnected"),
        (raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), "bad_answer"),
        (raw("220 mail.example ESMTP\r\n"), "bad_answer"),
    ];
    world.crm.next("/hooks/a", failures.iter().map(|(behaviour, _)| behaviour.clone()));
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let id = world.crm.wait_for(1, SOON).await.unwrap()[0].webhook_id().to_owned();
    for count in 1..=10 {
        attempts_are(&world, &id, count).await;
        world.bridge.post(&format!("/v1/deliveries/{id}/retry"), &json!({})).await;
    }
    let delivered = world.delivery_in(&id, "delivered").await;
    let outcomes: Vec<_> =
        delivered["attempts"].as_array().unwrap().iter().map(|a| a["outcome"].clone()).collect();
    let expected: Vec<_> = failures.iter().map(|(_, outcome)| json!(outcome)).chain([json!("ok")]).collect();
    assert_eq!(outcomes, expected);
    let attempts = delivered["attempts"].as_array().unwrap();
    let reason = |attempt: usize| attempts[attempt]["data"]["reason"].as_str().unwrap();
    let shown = world.crm.url(stolen).replace("/hooks/", "/…/");
    assert_eq!(reason(0), format!("redirects to {shown}"), "where to is told, but for parts of the own path");
    assert_eq!(reason(5), "the connection was closed before an answer");
    assert_eq!(
        (reason(8), &attempts[8]["status"]),
        ("101 Switching Protocols, which nobody asked for", &json!(101))
    );
    let posts = world.crm.received("/hooks/a");
    assert_eq!(posts.len(), 11);
    assert!(posts.iter().all(|post| post.webhook_id() == id));
    assert_eq!(altered_repeats(&posts), Vec::<String>::new());
    assert_eq!(distrusted(&posts), Vec::<String>::new(), "each is signed again");
    assert!(world.crm.received(stolen).is_empty(), "no redirect is followed");
}
