//! Connections to receivers die: by time limits, restarts and load balancers. A receiver that is well gets
//! everything all the same; one that is not is told apart, with the reason.

use std::collections::BTreeSet;

use genesys_simulator::crm::check::{altered_repeats, distrusted};
use genesys_simulator::crm::{Behaviour, Standing};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::crowd::data;
use crate::support::look::hurry;
use crate::support::{SOON, World, database, eventually};

const AGENTS: [&str; 6] = ["ann", "ben", "cid", "dan", "eva", "fay"];
const ROUNDS: usize = 25;

/// Before a POST was made again at once, half of these were dead after their single attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_resets_each_connection_at_its_second_post_gets_everything_at_once() {
    let world = World::watching(&AGENTS).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let hook = world.register_with("/hooks/a", json!({"retry_schedule_seconds": []})).await;
    let (first, later) = (Behaviour::status(204), Behaviour::ResetUnanswered);
    world.crm.always("/hooks/a", Standing::PerConnection { first, later });
    for round in 0..ROUNDS {
        let presence = if round % 2 == 0 { "BUSY" } else { "AVAILABLE" };
        for agent in AGENTS {
            world.genesys.set_presence(agent, presence).await;
        }
    }
    let changes = AGENTS.len() * ROUNDS;
    eventually("all were stored and none is open", || async {
        let stored: i64 = sqlx::query_scalar("select count(*) from event").fetch_one(&pool).await.unwrap();
        let open = world.open_deliveries(&pool).await;
        (usize::try_from(stored) == Ok(changes) && open == 0).then_some(())
    })
    .await;
    let posts = world.crm.received("/hooks/a");
    let ids = |accepted: bool| -> BTreeSet<&str> {
        posts.iter().filter(|post| post.accepted() == accepted).map(|post| post.webhook_id()).collect()
    };
    assert_eq!(ids(true).len(), changes, "each was accepted");
    assert_eq!((altered_repeats(&posts), distrusted(&posts)), (Vec::new(), Vec::new()));
    let of = async |condition: &str| -> i64 {
        let entries =
            format!("select count(*) from audit_log where kind = 'DELIVERY_ATTEMPT' and {condition}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(entries)).fetch_one(&pool).await.unwrap()
    };
    let counts = (of("true").await, of("attempt = 1").await, of("end_state = 'delivered'").await);
    let each = i64::try_from(changes).unwrap();
    assert_eq!(counts, (each, each, each), "one entry for each delivery, and none failed");
    let remade = i64::try_from(ids(false).len()).unwrap();
    assert!(remade > each / 2, "{remade} met a dying connection");
    assert_eq!(of("data @> '{\"remade\": true}'").await, remade);
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    let health = world.bridge.get(&path).await.json()["health"].clone();
    assert_eq!((&health["failures"], &health["last_outcome"]), (&json!(0), &Value::Null));
}

/// In the attempt, in explain, in the webhook's health, in the notice, and in one line of the log.
#[tokio::test(flavor = "multi_thread")]
async fn why_a_receiver_fails_is_said_wherever_somebody_looks() {
    const REASON: &str = "what the receiver speaks is no TLS";
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.register_with("/hooks/alarm", json!({"events": ["webhook.failing"]})).await;
    // It speaks plain HTTP where TLS is expected.
    let url = world.crm.url("/secret-part").replace("http://", "https://");
    let answer = world.bridge.post("/v1/webhooks", &json!({"url": url})).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let hook = answer.json()["id"].as_str().unwrap().to_owned();
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let health = eventually("it fails often enough", || async {
        hurry(&pool).await;
        let health = world.bridge.get(&format!("/v1/webhooks/{hook}")).await.json()["health"].clone();
        (health["failures"].as_u64()? >= 5).then_some(health)
    })
    .await;
    assert_eq!((&health["last_outcome"], &health["last_reason"]), (&json!("tls"), &json!(REASON)));
    let attempt = world.audit_of("DELIVERY_ATTEMPT", 1).await[0].clone();
    assert_eq!((&attempt["outcome"], &attempt["data"]["reason"]), (&json!("tls"), &json!(REASON)));
    let event = attempt["event_id"].as_str().unwrap();
    let explained = world.bridge.get(&format!("/v1/explain?event={event}&webhook={hook}")).await.json();
    let told = format!("failed (tls: {REASON})");
    assert!(explained["reason"].as_str().unwrap().contains(&told), "{explained}");
    let notice = world
        .crm
        .wait_until(|posts| posts.iter().any(|post| post.path() == "/hooks/alarm"), SOON)
        .await
        .unwrap();
    let notice = data(notice.iter().find(|post| post.path() == "/hooks/alarm").unwrap());
    assert_eq!((&notice["reason"], &notice["detail"]), (&json!("tls"), &json!(REASON)));
    let log = world.bridge.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("a webhook's receiver fails")).collect();
    assert_eq!(lines.len(), 1, "one line until it recovers: {lines:?}");
    assert!(lines[0].contains(&hook) && lines[0].contains("127.0.0.1") && lines[0].contains(REASON));
    assert!(!log.contains("secret-part"), "the rest of an address may be a secret");
}

/// What is asked of a receiver before it gets anything fails for the same reasons.
#[tokio::test(flavor = "multi_thread")]
async fn why_a_verification_failed_is_said() {
    let world = World::watching(&["ann"]).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let fields = json!({"url": format!("http://{nobody}/"), "verification": "echo"});
    let made = world.bridge.post("/v1/webhooks", &fields).await.json();
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    let probed = world.audit_of("WEBHOOK_PROBED", 1).await;
    assert_eq!((&probed[0]["outcome"], &probed[0]["data"]["reason"]), (&json!("connect"), &json!("refused")));
    let health = world.bridge.get(&path).await.json()["health"].clone();
    assert_eq!((&health["last_outcome"], &health["last_reason"]), (&json!("connect"), &json!("refused")));
}
