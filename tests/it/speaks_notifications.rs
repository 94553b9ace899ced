//! Protocol `notifications`, from the platform's socket to the bridge's word about it.

use std::time::Duration;

use genesys_simulator::cloud::{
    ClientState, CloudOptions, CloudTally, Deed, Fate, Fault, Manner, Person, Place, Reach,
};
use genesys_simulator::crm::Post;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::cloud::{CloudWorld, options};
use crate::support::look::feed;
use crate::support::{SOON, eventually};

fn agents(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("agent-{n:04}")).collect()
}

fn strs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_all_that_is_known_of_the_agent() {
    let world =
        CloudWorld::starting(options(&["ann"]), &[("GENESYS_AGENTS", "ann"), ("GENESYS_LANGUAGE", "de_DE")])
            .await;
    world.sees(1).await;
    world.cloud.obey(Deed::ActiveQueues { agent: "ann".into(), queues: vec!["q-1".into()] });
    world.cloud.set_presence("ann", "ON_QUEUE").await;
    let agent = world.agent_is("ann", "ON_QUEUE").await;
    assert_eq!(agent["name"], "Ann");
    assert_eq!(agent["email"], "ann@example.com");
    assert_eq!(agent["active_queues"], json!(["q-1"]));
    assert_eq!(agent["can_take_work"], true);
    let event = world.events_of("ann").await.pop().unwrap();
    assert_eq!(event["origin"], "live");
    assert_eq!(event["changed"], json!(["presence", "routing_status"]));
    assert_eq!(event["presence"]["label"], "OnQueue (de)");
    assert_eq!(event["previous"], json!({"system": "OFFLINE"}));
    assert_eq!(event["routing_status"]["status"], "IDLE");
    assert_eq!(event["out_of_office"], false);
    assert_eq!(event["topic"], "v2.users.ann.activity");
    assert_eq!(event["raw"]["eventBody"]["id"], "ann");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_present_states_come_first_and_are_marked_as_read() {
    let world = CloudWorld::watching(&["ann", "bob"]).await;
    for agent in ["ann", "bob"] {
        let events = world.events_of(agent).await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["origin"], "resync");
        assert_eq!(events[0]["presence"]["system"], "OFFLINE");
        assert_eq!(events[0]["raw"]["id"], agent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_presence_is_told_by_its_label_even_if_it_is_newer_than_what_was_read() {
    let world = CloudWorld::watching(&["ann"]).await;
    let labels = vec![("en_US".to_owned(), "Coffee".to_owned())];
    world.cloud.obey(Deed::Define { id: "d-coffee".into(), system: "BREAK".into(), labels });
    world.cloud.set_presence("ann", "d-coffee").await;
    let agent = world.agent_is("ann", "BREAK").await;
    assert_eq!(agent["presence"]["definition_id"], "d-coffee");
    // Its label was not known when the first event came; the next reading of the definitions brings it.
    eventually("the label is known", || async {
        world.cloud.set_presence("ann", "AVAILABLE").await;
        world.cloud.set_presence("ann", "d-coffee").await;
        let agent = world.agent_is("ann", "BREAK").await;
        (agent["presence"]["label"] == "Coffee").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_and_a_half_thousand_agents_share_three_channels() {
    let list = agents(2_500);
    let world = CloudWorld::starting(options(&strs(&list)), &[("GENESYS_ALL_USERS", "true")]).await;
    world.sees(2_500).await;
    let snapshot = world.cloud.snapshot();
    let mut sizes: Vec<usize> = snapshot.channels.iter().map(|channel| channel.topics).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [500, 1_000, 1_000]);
    let source = world.bridge.get("/v1/sources").await.json()["items"][0].clone();
    assert_eq!(source["health"]["agents_wanted"], 2_500);
    assert_eq!(source["health"]["connections_open"], 3);
    assert!(source["health"]["roster_read_at"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_queues_and_groups_follow_without_a_restart() {
    let world = CloudWorld::starting(
        options(&["ann", "bob", "eve", "zoe"]),
        &[("GENESYS_QUEUES", "q-1"), ("GENESYS_GROUPS", "g-1"), ("GENESYS_ROSTER_INTERVAL_SECONDS", "86400")],
    )
    .await;
    let queue = |members: &[&str]| Deed::Queue {
        id: "q-1".into(),
        members: members.iter().map(|member| (*member).to_owned()).collect(),
    };
    world.audit_of("ROSTER_FAILED", 1).await;
    world.cloud.obey(queue(&["ann", "bob"]));
    world.cloud.obey(Deed::Group { id: "g-1".into(), members: vec!["bob".into(), "eve".into()] });
    world.sees(3).await;
    let source = world.bridge.get("/v1/sources").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    world.cloud.obey(queue(&["bob", "zoe"]));
    let asked = world.bridge.post(&format!("/v1/sources/{source}/refresh"), &json!({})).await;
    assert_eq!(asked.status, 202);
    eventually("zoe is watched and ann is not", || async {
        let (zoe, ann) = (world.agent("zoe").await, world.agent("ann").await);
        (zoe["connected"] == true && ann["connected"] == false).then_some(())
    })
    .await;
    eventually("zoe's changes arrive", || async {
        world.cloud.set_presence("zoe", "AVAILABLE").await;
        (world.agent("zoe").await["presence"]["system"] == "AVAILABLE").then_some(())
    })
    .await;
    assert_eq!(world.cloud.snapshot().tally.channels_made, 1, "nobody else was disturbed");
    assert_eq!(world.cloud.set_presence("ann", "AVAILABLE").await.fate, Fate::Unwatched);
    let changes = world.audit("ROSTER_CHANGED").await;
    assert_eq!(changes[0]["data"]["left_agents"], json!(["ann"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_may_not_be_watched_are_listed_with_the_reason() {
    let list = ["ann", "bob", "eve"];
    let world = CloudWorld::starting(options(&list), &[("GENESYS_AGENTS", "ann,bob,eve")]).await;
    world.sees(3).await;
    world.cloud.obey(Deed::Hide { client: "sim-client".into(), agents: vec!["bob".into()] });
    world.cloud.obey(Deed::ExpireChannels { reach: Reach::All });
    let listed = eventually("bob is listed", || async {
        let page = world.bridge.get("/v1/rejected-topics").await.json();
        page["items"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(listed["agent_id"], "bob");
    assert_eq!(listed["topic"], "v2.users.bob.activity");
    assert_eq!(listed["missing_permissions"], json!(["directory:user:view"]));
    let agent = world.agent("bob").await;
    assert_eq!((agent["connected"].clone(), agent["rejected"].is_string()), (json!(false), true));
    assert_eq!(world.agent("ann").await["rejected"], Value::Null);
    world.audit_of("TOPIC_REJECTED", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_topic_that_spoils_the_subscription_costs_only_itself() {
    let list = agents(50);
    let world = CloudWorld::starting(options(&strs(&list)), &[("GENESYS_AGENTS", "gone")]).await;
    world.cloud.obey(Deed::Poison { topic: "v2.users.agent-0013.activity".into() });
    let fields = json!({
        "name": "second", "api_url": world.cloud.api_url(), "login_url": world.cloud.api_url(),
        "client_id": "sim-client", "client_secret": "sim-secret", "agents": list,
    });
    assert_eq!(world.bridge.post("/v1/sources", &fields).await.status, 201);
    world.cloud.wait_until(|seen| seen.watched() == 1 + 49, SOON).await.unwrap();
    let page = eventually("it is listed", || async {
        let page = world.bridge.get("/v1/rejected-topics").await.json();
        (page["items"].as_array()?.len() == 1).then_some(page)
    })
    .await;
    assert_eq!(page["items"][0]["agent_id"], "agent-0013");
    assert!(page["items"][0]["reason"].as_str().unwrap().contains("notification.invalid.topic"));
}

/// A deed that blinds the channel, and the cause that the gap must name.
async fn is_replaced(deed: Deed, cause: &str) -> CloudWorld {
    let world = CloudWorld::watching(&["ann", "bob"]).await;
    world.cloud.obey(deed);
    world.cloud.push_presence("ann", "MEAL");
    let gap = eventually("a gap is over", || async {
        let gaps = world.bridge.get("/v1/gaps").await.json();
        gaps["items"].as_array()?.iter().find(|gap| gap["to"].is_string()).cloned()
    })
    .await;
    assert_eq!(gap["cause"], cause, "{gap}");
    assert_eq!(gap["agents"], json!(["ann", "bob"]));
    world.agent_is("ann", "MEAL").await;
    assert_eq!(world.lost_without_a_word(OffsetDateTime::UNIX_EPOCH).await.len(), 0);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_lose_a_channel_leads_to_a_new_one_a_gap_and_a_resync() {
    let all = Reach::All;
    let close = |code| Deed::Close { reach: Reach::All, code, reason: String::new() };
    for (deed, cause) in [
        (Deed::Drop { reach: all.clone() }, "socket_closed"),
        (close(1000), "socket_closed"),
        (close(1001), "socket_closed"),
        (close(1011), "socket_closed"),
        (Deed::ExpireChannels { reach: all.clone() }, "channel_gone"),
        (Deed::Displace { reach: all.clone(), manner: Manner::Notice }, "displaced"),
        (Deed::Displace { reach: all.clone(), manner: Manner::Close }, "socket_closed"),
        (Deed::RevokeTokens, "token_revoked"),
    ] {
        let told = format!("{deed:?}");
        let world = is_replaced(deed, cause).await;
        let event = world.events_of("ann").await.pop().unwrap();
        assert_eq!(
            (event["origin"].as_str(), event["presence"]["system"].as_str()),
            (Some("resync"), Some("MEAL")),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_end_is_forestalled_without_a_gap() {
    let world = CloudWorld::watching(&["ann"]).await;
    world.cloud.obey(Deed::Maintenance { reach: Reach::All, grace_ms: 5_000 });
    world.audit_of("CHANNEL_ROTATED", 1).await;
    world
        .cloud
        .wait_until(|seen| seen.tally.sockets_opened == 2 && seen.connected() == 1, SOON)
        .await
        .unwrap();
    world.cloud.set_presence("ann", "AVAILABLE").await;
    world.agent_is("ann", "AVAILABLE").await;
    assert_eq!(world.bridge.get("/v1/gaps").await.json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_told_together_to_close_are_replaced_without_reading_a_state() {
    const CALLS_OF_ONE: u64 = 5;
    let list = agents(2_500);
    let world = CloudWorld::starting(options(&strs(&list)), &[("GENESYS_ALL_USERS", "true")]).await;
    world.sees(list.len()).await;
    let before = world.cloud.snapshot().tally;
    // Whoever has to read states before it hands over comes too late.
    world.cloud.fault(Place::Users, Fault { times: u32::MAX, ..Fault::status(503) });
    world.cloud.obey(Deed::Maintenance { reach: Reach::All, grace_ms: 15_000 });
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for round in 0.. {
        if world.cloud.snapshot().tally.sockets_ended > before.sockets_ended + 2 {
            break;
        }
        for (first, count) in [(0, 1_000), (1_000, 1_000), (2_000, 500)] {
            let state = ["BUSY", "MEAL"][round / count % 2];
            world.cloud.push_presence(&list[first + round % count], state);
        }
        pace.tick().await;
    }
    assert_eq!(world.audit_of("CHANNEL_ROTATED", 3).await.len(), 3);
    let after = world.cloud.snapshot();
    let calls = |tally: &CloudTally| {
        let probes = [Place::Login, Place::Upgrade];
        tally.requests.iter().filter(|(place, _)| !probes.contains(place)).map(|(_, n)| n).sum::<u64>()
    };
    let made = calls(&after.tally) - calls(&before);
    println!("{made} calls for three hand-overs");
    assert!(made <= 3 * CALLS_OF_ONE, "{:?} {:?}", before.requests, after.tally.requests);
    assert_eq!((after.connected(), after.watched(), after.tally.evictions), (3, list.len(), 0));
    assert_eq!(world.bridge.get("/v1/gaps").await.json()["items"], json!([]));
    let ledger = world.cloud.ledger();
    assert!(ledger.iter().all(|told| told.fate == Fate::Written));
    let live = eventually("each change is an event", || async {
        let mut events = feed(&world.bridge).await;
        events.retain(|event| event["origin"] == "live");
        (events.len() >= ledger.len()).then_some(events)
    })
    .await;
    assert_eq!(live.len(), ledger.len(), "none is told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_old_socket_ends_before_it_has_proven_itself_the_states_are_read() {
    let world = CloudWorld::watching(&["ann"]).await;
    // Neither socket tells it.
    world.cloud.obey(Deed::Lose { reach: Reach::All, times: 1 });
    world.cloud.push_presence("ann", "MEAL");
    world.cloud.obey(Deed::Maintenance { reach: Reach::All, grace_ms: 1_000 });
    let event = eventually("it is read", || async {
        world.events_of("ann").await.into_iter().find(|event| event["presence"]["system"] == "MEAL")
    })
    .await;
    assert_eq!(event["origin"], "resync");
    assert_eq!(world.audit_of("RESYNC_DONE", 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_replaced_before_its_time_and_no_change_is_lost_or_told_twice() {
    let list = agents(10);
    // A tenth of a channel's life is left for the handover: two seconds, also on a busy machine.
    let platform = CloudOptions { channel_life: Duration::from_secs(20), ..options(&strs(&list)) };
    let world = CloudWorld::starting(platform, &[("GENESYS_ALL_USERS", "true")]).await;
    world.sees(10).await;
    let states = ["AVAILABLE", "BUSY", "MEAL", "ON_QUEUE"];
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let mut last = 0;
    for round in 0.. {
        if world.cloud.snapshot().tally.channels_made > 2 {
            break;
        }
        pace.tick().await;
        for agent in &list {
            last = world.cloud.push_presence(agent, states[round % states.len()]);
        }
        world.cloud.settled(last).await;
    }
    let ledger = world.cloud.ledger();
    assert!(ledger.iter().all(|told| told.fate == Fate::Written));
    let events = eventually("each change is an event", || async {
        let mut events = feed(&world.bridge).await;
        events.retain(|event| event["origin"] == "live");
        (events.len() >= ledger.len()).then_some(events)
    })
    .await;
    assert_eq!(world.bridge.get("/v1/gaps").await.json()["items"], json!([]));
    for agent in &list {
        let told: Vec<&str> =
            ledger.iter().filter(|t| t.agent == *agent).map(|t| t.presence.as_str()).collect();
        let own = events.iter().filter(|event| event["agent"]["id"] == agent.as_str());
        let said: Vec<&str> = own.map(|event| event["presence"]["system"].as_str().unwrap()).collect();
        let first = said.iter().zip(&told).position(|(said, told)| said != told);
        assert_eq!((first, said.len()), (None, told.len()), "{agent}: place of the first difference");
    }
    world.audit_of("CHANNEL_ROTATED", 1).await;
}

/// What is told of the channel once the look that comes each minute has found it displaced.
async fn displaced(world: &CloudWorld) -> Value {
    let told = async {
        loop {
            let entries = world.audit("CHANNEL_DISPLACED").await;
            if let Some(entry) = entries.first() {
                return entry.clone();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(75), told).await.expect("it is noticed within a minute")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_displaced_channel_that_keeps_up_appearances_is_found_out() {
    // Silent: heartbeats and pongs go on. The probe that finds it comes each minute.
    let world = CloudWorld::watching(&["ann"]).await;
    world.cloud.obey(Deed::Displace { reach: Reach::All, manner: Manner::Silent });
    assert_eq!(world.cloud.set_presence("ann", "BUSY").await.fate, Fate::Unwatched);
    assert_eq!(displaced(&world).await["level"], "ERROR");
    world.agent_is("ann", "BUSY").await;
    assert_eq!(world.lost_without_a_word(OffsetDateTime::UNIX_EPOCH).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_that_another_program_takes_away_are_found_out_and_told_from_the_last_look() {
    // Both at once: each look comes after a minute, whatever was taken.
    let platform = || options(&["ann", "bob"]);
    let alone = CloudWorld::starting(platform(), &[("GENESYS_AGENTS", "ann,bob")]).await;
    let some = CloudWorld::starting(platform(), &[("GENESYS_AGENTS", "ann,bob")]).await;
    for (world, taken) in [(&alone, Vec::new()), (&some, vec!["ann".to_owned()])] {
        world.sees(2).await;
        world.cloud.obey(Deed::Unsubscribe { reach: Reach::All, agents: taken });
        assert_eq!(world.cloud.set_presence("ann", "BUSY").await.fate, Fate::Unwatched);
    }
    // Of the one that is left the news go on: they prove nothing of the other.
    assert_eq!(some.cloud.set_presence("bob", "BUSY").await.fate, Fate::Written);
    for (world, taken) in [(&alone, 2), (&some, 1)] {
        let told = displaced(world).await;
        assert_eq!((&told["level"], &told["data"]["subscriptions_taken"]), (&json!("ERROR"), &json!(taken)));
        world.agent_is("ann", "BUSY").await;
        let gap = eventually("the gap is over", || async {
            let gaps = world.bridge.get("/v1/gaps").await.json();
            gaps["items"].as_array()?.iter().find(|gap| gap["to"].is_string()).cloned()
        })
        .await;
        assert_eq!((&gap["cause"], &gap["agents"]), (&json!("subscriptions_taken"), &json!(["ann", "bob"])));
        assert_eq!(world.lost_without_a_word(OffsetDateTime::UNIX_EPOCH).await.len(), 0);
        assert_eq!(world.cloud.snapshot().watched(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_and_repeated_states_are_dropped_counted_and_written_down() {
    let world = CloudWorld::watching(&["ann"]).await;
    world.cloud.set_presence("ann", "AVAILABLE").await;
    world.cloud.obey(Deed::Stale { agent: "ann".into(), presence: "OFFLINE".into(), seconds: 60 });
    world.cloud.obey(Deed::Duplicate { reach: Reach::All, times: 1 });
    world.cloud.set_presence("ann", "BUSY").await;
    world.audit_of("STATE_STALE", 1).await;
    world.audit_of("STATE_DUPLICATE", 1).await;
    world.agent_is("ann", "BUSY").await;
    assert!(
        (world.bridge.metric(r#"presence_bridge_states_dropped_total{reason="stale"}"#).await - 1.0).abs()
            < 0.1
    );
    let events = world.events_of("ann").await;
    let said: Vec<&str> = events.iter().map(|e| e["presence"]["system"].as_str().unwrap()).collect();
    assert_eq!(said, ["OFFLINE", "AVAILABLE", "BUSY"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_arrive_in_the_wrong_order_end_in_the_right_state() {
    let world = CloudWorld::watching(&["ann"]).await;
    world.cloud.obey(Deed::Reorder { reach: Reach::All });
    world.cloud.push_presence("ann", "AVAILABLE");
    world.cloud.set_presence("ann", "BUSY").await;
    world.audit_of("STATE_STALE", 1).await;
    assert_eq!(world.agent("ann").await["presence"]["system"], "BUSY");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_are_kept_and_the_stream_goes_on() {
    let world = CloudWorld::watching(&["ann"]).await;
    let text = |text: &str| world.cloud.obey(Deed::Text { reach: Reach::All, text: text.to_owned() });
    text("this is not JSON");
    text("{}");
    text(r#"{"topicName":"v2.users.ann.activity"}"#);
    text(r#"{"topicName":"v2.users.stranger.activity","eventBody":{"outOfOffice":{"active":true}}}"#);
    text(r#"{"topicName":"v2.system.news","eventBody":{}}"#);
    world.cloud.obey(Deed::Binary { reach: Reach::All, bytes: vec![0, 159] });
    let reasons = eventually("all are kept", || async {
        let entries = world.audit("FRAME_REJECTED").await;
        let mut reasons: Vec<String> =
            entries.iter().map(|entry| entry["data"]["reason"].as_str().unwrap().to_owned()).collect();
        reasons.sort();
        (reasons.len() == 6).then_some(reasons)
    })
    .await;
    assert_eq!(
        reasons,
        ["binary", "no_event_body", "no_topic", "not_json", "unknown_system_topic", "unwatched_agent"]
    );
    world.cloud.set_presence("ann", "BUSY").await;
    world.agent_is("ann", "BUSY").await;
    assert_eq!(world.cloud.snapshot().tally.sockets_opened, 1);
    text(&format!(r#"{{"topicName":"{}"}}"#, "x".repeat(300_000)));
    let violation = world.audit_of("WS_ERROR", 1).await;
    assert_eq!(violation[0]["status"], 1009);
    world.sees(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_429_delays_and_does_not_blind() {
    let list = agents(30);
    let world = CloudWorld::starting(options(&strs(&list)), &[("GENESYS_ALL_USERS", "true")]).await;
    for place in [Place::Users, Place::CreateChannel, Place::PutSubscriptions, Place::Definitions] {
        world.cloud.fault(place, Fault::status(429).retry_after("1").times(2));
    }
    world.sees(30).await;
    assert!(world.cloud.snapshot().tally.statuses.contains_key(&429));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_not_hammered_and_a_mended_client_works_again() {
    let world = CloudWorld::starting(options(&["ann"]), &[("GENESYS_AGENTS", "ann")]).await;
    world.sees(1).await;
    world.cloud.obey(Deed::ClientState { client: "sim-client".into(), state: ClientState::Disabled });
    world.audit_of("TOKEN_FAILED", 2).await;
    let asked = world.cloud.snapshot().requests(Place::Login);
    assert!(asked <= 5, "{asked} logins");
    world.cloud.obey(Deed::ClientState { client: "sim-client".into(), state: ClientState::Active });
    world.sees(1).await;
    world.cloud.set_presence("ann", "BUSY").await;
    world.agent_is("ann", "BUSY").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_seconds_is_enough() {
    let platform = CloudOptions { token_lifetime: Duration::from_secs(5), ..options(&["ann"]) };
    let world = CloudWorld::starting(platform, &[("GENESYS_AGENTS", "ann")]).await;
    world.sees(1).await;
    world.cloud.wait_until(|seen| seen.tally.sockets_opened >= 3, SOON).await.unwrap();
    world.cloud.set_presence("ann", "BUSY").await;
    world.agent_is("ann", "BUSY").await;
    assert_eq!(world.bridge.get("/v1/gaps").await.json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_address_elsewhere_is_not_dialled() {
    let world = CloudWorld::starting(options(&["ann"]), &[("GENESYS_AGENTS", "ann")]).await;
    world.sees(1).await;
    let body =
        r#"{"id":"c-1","connectUri":"ws://127.0.0.2:9/channels/CANARY","expires":"2999-01-01T00:00:00Z"}"#;
    world.cloud.fault(Place::CreateChannel, Fault::body(body));
    world.cloud.fault(Place::PutSubscriptions, Fault::body(r#"{"entities":[]}"#));
    world.cloud.obey(Deed::Drop { reach: Reach::All });
    let failed = world.audit_of("WS_INIT_ERROR", 1).await;
    assert!(failed[0]["data"]["error"].as_str().unwrap().contains("not on the source's host"));
    world.sees(1).await;
    assert!(!world.bridge.log().contains("CANARY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_bridge_reads_what_changed_meanwhile_and_leaves_no_channel_behind() {
    let mut world = CloudWorld::watching(&["ann", "bob"]).await;
    world.register("/crm", json!({})).await;
    world.bridge.kill().await;
    world.cloud.push_presence("ann", "MEAL");
    world.bridge.restart().await;
    world.agent_is("ann", "MEAL").await;
    let gaps = world.bridge.get("/v1/gaps").await.json();
    assert_eq!(gaps["items"][0]["cause"], "bridge_down");
    assert_eq!(gaps["items"][0]["agents"], json!(["ann", "bob"]));
    world.crm.wait_until(|posts| posts.iter().any(|post| is_meal(post)), SOON).await.unwrap();
    // What the former process listened to listens no more.
    let listening = world.cloud.snapshot().channels.iter().filter(|channel| channel.topics > 0).count();
    assert_eq!(listening, 1);
}

fn is_meal(post: &Post) -> bool {
    post.event.as_ref().is_ok_and(|event| event.state() == "MEAL" && event.data.origin == "resync")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_a_live_connection_is_said_to_be_stale_and_to_have_recovered() {
    let world = CloudWorld::starting(
        options(&["ann"]),
        &[("GENESYS_AGENTS", "ann"), ("GENESYS_STALE_AFTER_SECONDS", "5")],
    )
    .await;
    world.sees(1).await;
    world.register("/crm", json!({"events": ["source.stale", "source.recovered"]})).await;
    world.cloud.obey(Deed::ClientState { client: "sim-client".into(), state: ClientState::IpNotAllowed });
    world.cloud.obey(Deed::Drop { reach: Reach::All });
    let stale = world.audit_of("SOURCE_STALE", 1).await;
    let source = world.bridge.get("/v1/sources").await.json()["items"][0].clone();
    assert_eq!(source["health"]["state"], "stale");
    assert_eq!(
        source["health"]["stale_since"].as_str().unwrap()[..19],
        stale[0]["data"]["since"].as_str().unwrap()[..19]
    );
    world.cloud.obey(Deed::ClientState { client: "sim-client".into(), state: ClientState::Active });
    world.audit_of("SOURCE_RECOVERED", 1).await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    let kinds: Vec<String> = posts.iter().filter_map(|post| post.kind()).collect();
    assert_eq!(kinds, ["source.stale", "source.recovered"]);
    assert!(posts.iter().all(|post| post.verdict.is_ok()));
    let body: Value = serde_json::from_slice(&posts[1].body).unwrap();
    assert_eq!(body["data"]["gaps"][0]["agents"], 1);
    assert!(body["data"]["until"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_can_be_watched_by_one_combined_topic() {
    let world = CloudWorld::starting(
        options(&["ann"]),
        &[("GENESYS_AGENTS", "ann"), ("GENESYS_TOPICS", "presence,routingStatus")],
    )
    .await;
    world.sees(1).await;
    assert_eq!(world.cloud.snapshot().channels[0].topics, 1);
    world.cloud.obey(Deed::OutOfOffice { agent: "ann".into(), out: true });
    world.cloud.set_presence("ann", "ON_QUEUE").await;
    world.cloud.obey(Deed::Routing { agent: "ann".into(), status: "INTERACTING".into() });
    let agent = eventually("routing is told", || async {
        let agent = world.agent("ann").await;
        (agent["routing_status"]["status"] == "INTERACTING").then_some(agent)
    })
    .await;
    assert_eq!(
        (agent["presence"]["system"].as_str(), agent["out_of_office"].as_bool()),
        (Some("ON_QUEUE"), Some(false))
    );
    assert_eq!(agent["can_take_work"], false);
    let person: Person = world.cloud.person("ann").unwrap();
    assert!(person.out_of_office, "nobody asked for that part");
}
