//! Times of the platform that are equal, impossible or unreadable: no state is lost for them, and no agent
//! stays where it is.

use genesys_simulator::clock::rfc3339_ms;
use genesys_simulator::cloud::{Deed, Reach};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::support::cloud::CloudWorld;
use crate::support::{SOON, eventually};

/// Sends an activity of ann over every socket.
fn tell(world: &CloudWorld, presence: &Value) {
    let frame =
        json!({"topicName": "v2.users.ann.activity", "version": "2", "eventBody": {"presence": presence}});
    world.cloud.obey(Deed::Text { reach: Reach::All, text: frame.to_string() });
}

fn presence(system: &str, message: &str, modified: &str) -> Value {
    json!({
        "presenceDefinition": {"id": format!("d-{system}"), "systemPresence": system},
        "presenceMessage": message,
        "modifiedDate": modified,
    })
}

/// Presence and message of each event of ann, in order, without what was read at the start.
async fn rendered_events(world: &CloudWorld) -> Vec<String> {
    let events = world.events_of("ann").await.into_iter().skip(1);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    events
        .map(|event| {
            format!("{} {}", text(&event["presence"]["system"]), text(&event["presence"]["message"]))
        })
        .collect()
}

async fn dropped(world: &CloudWorld, count: usize) {
    world.audit_of("STATE_DUPLICATE", count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_time_each_value_is_told_once_and_an_answer_asked_for_later_wins() {
    let mut world = CloudWorld::watching(&["ann"]).await;
    world.cloud.set_presence("ann", "AVAILABLE").await;
    world.agent_is("ann", "AVAILABLE").await;
    let modified = rfc3339_ms(world.cloud.person("ann").unwrap().presence_at);
    tell(&world, &presence("AWAY", "", &modified));
    tell(&world, &presence("AWAY", "back at noon", &modified));
    tell(&world, &presence("AWAY", "", &modified));
    tell(&world, &presence("AWAY", "back at noon", &modified));
    dropped(&world, 2).await;
    let mut expected = vec!["AVAILABLE -", "AWAY -", "AWAY back at noon"];
    assert_eq!(rendered_events(&world).await, expected);

    // The platform says AVAILABLE of this time: whoever asks is told so.
    world.bridge.kill_and_restart().await;
    world.sees(1).await;
    world.agent_is("ann", "AVAILABLE").await;
    expected.push("AVAILABLE -");
    assert_eq!(rendered_events(&world).await, expected);

    // What was recorded before the restart is no news after it.
    tell(&world, &presence("AWAY", "back at noon", &modified));
    dropped(&world, 3).await;
    tell(&world, &presence("BUSY", "", &modified));
    world.agent_is("ann", "BUSY").await;
    expected.push("BUSY -");
    assert_eq!(rendered_events(&world).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sockets_that_tell_values_of_one_time_make_one_event_of_each() {
    let world = CloudWorld::watching(&["ann"]).await;
    world.cloud.obey(Deed::Maintenance { reach: Reach::All, grace_ms: 8_000 });
    world
        .cloud
        .wait_until(|seen| seen.tally.sockets_opened == 2 && seen.connected() == 2, SOON)
        .await
        .unwrap();
    let modified = rfc3339_ms(OffsetDateTime::now_utc());
    for system in ["AVAILABLE", "BUSY", "AVAILABLE", "MEAL"] {
        tell(&world, &presence(system, "", &modified));
    }
    world.audit_of("CHANNEL_ROTATED", 1).await;
    world.cloud.wait_until(|seen| seen.connected() == 1, SOON).await.unwrap();
    let twins = r#"presence_bridge_states_dropped_total{reason="handover"}"#;
    eventually("the second socket's are dropped", || async {
        (world.bridge.metric(twins).await >= 4.0).then_some(())
    })
    .await;
    assert_eq!(rendered_events(&world).await, ["AVAILABLE -", "BUSY -", "MEAL -"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_cannot_be_freezes_nobody_and_is_written_down() {
    let world = CloudWorld::watching(&["ann"]).await;
    let next_year = OffsetDateTime::now_utc() + Duration::days(365);
    tell(&world, &presence("AWAY", "", &rfc3339_ms(next_year)));
    let away = world.agent_is("ann", "AWAY").await;
    assert_eq!(away["occurred_at"], Value::Null);
    world.cloud.set_presence("ann", "BUSY").await;
    world.agent_is("ann", "BUSY").await;
    let entries = world.audit_of("TIME_REJECTED", 1).await;
    assert_eq!(entries[0]["level"], "WARN");
    assert_eq!(entries[0]["agent_id"], "ann");
    assert_eq!(
        (&entries[0]["data"]["reason"], &entries[0]["data"]["part"]),
        (&json!("ahead"), &json!("presence"))
    );
    assert!(entries[0]["data"]["ahead_seconds"].as_i64().unwrap() > 364 * 86_400);

    // The basic form of an offset is a time, and a sentence is none.
    let basic = rfc3339_ms(OffsetDateTime::now_utc()).replace('Z', "+0000");
    tell(&world, &presence("MEAL", "", &basic));
    assert!(world.agent_is("ann", "MEAL").await["occurred_at"].is_string());
    tell(&world, &presence("MEETING", "", "this morning"));
    tell(&world, &presence("BREAK", "", "this morning"));
    world.agent_is("ann", "BREAK").await;
    let entries = world.audit_of("TIME_REJECTED", 2).await;
    assert_eq!(entries.len(), 2, "one of each socket: {entries:#?}");
    assert_eq!(
        (&entries[0]["data"]["reason"], &entries[0]["data"]["time"]),
        (&json!("unreadable"), &json!("this morning"))
    );
    let count = |reason: &str| {
        let name = format!(r#"presence_bridge_times_rejected_total{{reason="{reason}"}}"#);
        let bridge = &world.bridge;
        async move { bridge.metric(&name).await }
    };
    assert!((count("ahead").await - 1.0).abs() < 0.1);
    assert!((count("unreadable").await - 2.0).abs() < 0.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presence_that_is_not_the_primary_one_does_not_overwrite_it() {
    let world = CloudWorld::watching(&["ann"]).await;
    world.cloud.set_presence("ann", "AVAILABLE").await;
    let mut teams =
        presence("BUSY", "in a call", &rfc3339_ms(OffsetDateTime::now_utc() + Duration::minutes(1)));
    teams["primary"] = json!(false);
    tell(&world, &teams);
    let own = json!({"topicName": "v2.users.ann.presence", "version": "2", "eventBody": teams});
    world.cloud.obey(Deed::Text { reach: Reach::All, text: own.to_string() });
    teams["primary"] = json!(true);
    teams["presenceMessage"] = json!("mine");
    tell(&world, &teams);
    world.agent_is("ann", "BUSY").await;
    assert_eq!(rendered_events(&world).await, ["AVAILABLE -", "BUSY mine"]);
    assert_eq!(world.audit("FRAME_REJECTED").await.len(), 0, "they are whole");
}
