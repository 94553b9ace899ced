//! Filters by queue, routing status and change of the presence, on each way that an event takes to a webhook,
//! and words about filters that can never match.

use genesys_simulator::cloud::Deed;
use genesys_simulator::crm::Behaviour;
use serde_json::{Value, json};

use crate::support::cloud::CloudWorld;
use crate::support::crowd::data;
use crate::support::look::all;
use crate::support::{SOON, World, eventually};

const HOOKS: [&str; 3] = ["/hooks/queue", "/hooks/busy", "/hooks/back"];

fn queues(agent: &str, queues: &[&str]) -> Deed {
    let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
    Deed::ActiveQueues { agent: agent.to_owned(), queues }
}

/// Has the platform do something to ann, and waits until it is an event; gives the event.
async fn event_of(world: &CloudWorld, deed: Deed) -> Value {
    let before = world.events_of("ann").await.len();
    let number = world.cloud.obey(deed);
    world.cloud.settled(number).await;
    eventually("the event is stored", || async {
        let events = world.events_of("ann").await;
        (events.len() > before).then(|| events.last().unwrap().clone())
    })
    .await
}

fn sequences(world: &CloudWorld, path: &str) -> Vec<u64> {
    let posts = world.crm.received(path);
    posts.iter().map(|post| data(post)["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_what_its_queues_routing_statuses_and_transitions_match() {
    let world = CloudWorld::watching(&["ann", "bob"]).await;
    let filters = [
        json!({"queues": ["q-1", "q-9"]}),
        json!({"routing_statuses": ["Interacting"]}),
        json!({"transitions": ["away->Available"]}),
    ];
    let mut hooks = Vec::new();
    for (path, mut fields) in HOOKS.into_iter().zip(filters) {
        world.crm.always(path, Behaviour::status(500));
        fields["retry_schedule_seconds"] = json!([]);
        hooks.push(world.register(path, fields).await);
    }
    let presence = |presence: &str| Deed::Presence { agent: "ann".into(), presence: presence.into() };
    let routing = |status: &str| Deed::Routing { agent: "ann".into(), status: status.into() };
    let mut number = Vec::new();
    for deed in [
        presence("Away"),
        presence("Available"),
        queues("ann", &["q-1", "q-2"]),
        routing("INTERACTING"),
        queues("ann", &["q-2"]),
        routing("IDLE"),
        presence("Busy"),
    ] {
        number.push(event_of(&world, deed).await["sequence"].as_u64().unwrap());
    }
    let wanted = [vec![number[2], number[3], number[4]], vec![number[3], number[4]], vec![number[1]]];
    let all_came = async || {
        eventually("each got what it wants", || async {
            HOOKS
                .iter()
                .zip(&wanted)
                .all(|(path, wanted)| sequences(&world, path).ends_with(wanted))
                .then_some(())
        })
        .await;
    };
    all_came().await;
    for (path, wanted) in HOOKS.iter().zip(&wanted) {
        assert_eq!(sequences(&world, path), *wanted, "{path}");
    }

    // A recovery compares in SQL what the writer compares in memory.
    let count = async |state: &str| all(&world.bridge, &format!("/v1/deliveries?state={state}")).await.len();
    eventually("all have failed", || async { (count("dead").await == 6).then_some(()) }).await;
    let ask = json!({"since": "2026-01-01T00:00:00Z", "only_failed": false});
    for (path, hook) in HOOKS.iter().zip(&hooks) {
        world.crm.always(path, Behaviour::status(204));
        let asked = world.bridge.post(&format!("/v1/webhooks/{hook}/recover"), &ask).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
    }
    eventually("all are delivered", || async {
        (count("delivered").await == 6 && count("open").await == 0).then_some(())
    })
    .await;
    for (path, wanted) in HOOKS.iter().zip(&wanted) {
        assert_eq!(sequences(&world, path), [&wanted[..], &wanted[..]].concat(), "{path}");
    }

    let last = world.events_of("ann").await.last().unwrap()["event_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/explain?event={last}&webhook={}", hooks[2]);
    let explained = world.bridge.get(&path).await.json();
    assert_eq!(explained["verdict"], "not_matched", "{explained}");
    let transitions = &explained["matched"]["transitions"];
    assert_eq!(
        (&transitions["matches"], &transitions["asked"]),
        (&json!(false), &json!(["AWAY -> AVAILABLE"]))
    );
    assert!(transitions["has"].as_array().unwrap().contains(&json!("AVAILABLE -> BUSY")), "{transitions}");

    world.register("/hooks/snapshot", json!({"queues": ["q-2"], "snapshot": true})).await;
    let posts = world.crm.wait_until(|posts| posts.iter().any(|post| post.path() == "/hooks/snapshot"), SOON);
    posts.await.unwrap();
    world.audit_of("SNAPSHOT_WRITTEN", 1).await;
    let shown = world.crm.received("/hooks/snapshot");
    let agents: Vec<_> = shown.iter().map(|post| data(post)["agent"]["id"].clone()).collect();
    assert_eq!(agents, ["ann"], "bob works in no queue");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_can_never_match_are_taken_with_a_warning() {
    const GUID: &str = "a3f1d2c4-5b6e-4f70-8192-a3b4c5d6e7f8";
    let world = World::watching(&["ann", GUID]).await;
    let external = json!({"external_id": "crm-1"});
    assert_eq!(world.bridge.patch("/v1/agents/ann", &external).await.status, 200);
    let fields = json!({
        "agents": ["nobody", "ann", "crm-1", GUID.to_ascii_uppercase()],
        "presences": ["Available", "Lunching"],
        "routing_statuses": ["idle", "dozing"],
        "transitions": ["away -> away", "* -> On Queue", "* -> Lunching"],
    });
    let webhook = world.register_with("/hooks/a", fields).await;
    let pointers = |webhook: &Value| -> Vec<String> {
        let warnings = webhook["warnings"].as_array().unwrap();
        warnings.iter().map(|warning| warning["pointer"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        pointers(&webhook),
        ["/presences/1", "/routing_statuses/1", "/transitions/0", "/transitions/2", "/agents/0"]
    );
    assert_eq!(webhook["transitions"], json!(["AWAY -> AWAY", "* -> ON_QUEUE", "* -> Lunching"]));
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    assert!(world.bridge.get(&path).await.json()["warnings"].is_null());
    let mended = json!({"agents": ["ann"], "presences": [], "routing_statuses": [], "transitions": []});
    assert!(pointers(&world.bridge.patch(&path, &mended).await.json()).is_empty());
    let wrong = world.bridge.patch(&path, &json!({"transitions": ["ON_QUEUE"]})).await;
    assert_eq!((wrong.status, &wrong.json()["errors"][0]["pointer"]), (422, &json!("/transitions/0")));
}
