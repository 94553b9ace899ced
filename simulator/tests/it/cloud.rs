//! The simulated public Notifications API: what the platform does to channels, topics, rates and sockets.

use std::time::Duration;

use genesys_simulator::cloud::{Cloud, CloudOptions, Deed, Fate, Manner, RateHeaders, Reach};
use genesys_simulator::http::Api;
use serde_json::{Value, json};

use crate::client::{Client, Socket};

async fn cloud(options: CloudOptions) -> (Cloud, Api) {
    let agents = vec!["ann".to_owned(), "bob".to_owned()];
    let cloud = Cloud::start(CloudOptions { agents, ..options }).await.unwrap();
    let api = login(&cloud).await;
    (cloud, api)
}

async fn login(cloud: &Cloud) -> Api {
    let form = "grant_type=client_credentials&client_id=sim-client&client_secret=sim-secret";
    let api = Api::new(&cloud.api_url());
    let reply =
        api.post_text("/oauth/token", "application/x-www-form-urlencoded", form.into()).await.unwrap();
    api.with_bearer(reply.json()["access_token"].as_str().unwrap())
}

/// A channel: its id and its address.
async fn channel(api: &Api) -> (String, String) {
    let made = api.post("/api/v2/notifications/channels", &json!({})).await.unwrap().json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("connectUri"))
}

async fn subscribe(api: &Api, channel: &str, topics: &[&str], ignore: bool) -> (u16, Value) {
    let path = format!("/api/v2/notifications/channels/{channel}/subscriptions?ignoreErrors={ignore}");
    let topics: Vec<Value> = topics.iter().map(|topic| json!({"id": topic})).collect();
    let reply = api.post(&path, &json!(topics)).await.unwrap();
    (reply.status, reply.json())
}

async fn listening(api: &Api, topics: &[&str]) -> (String, Socket) {
    let (id, address) = channel(api).await;
    assert_eq!(subscribe(api, &id, topics, true).await.0, 200);
    (id, Client::connect(&address).await.unwrap())
}

#[tokio::test]
async fn an_activity_tells_all_parts_and_combined_topics_tell_each_by_its_own() {
    let (cloud, api) = cloud(CloudOptions::default()).await;
    let (_, mut activity) = listening(&api, &["v2.users.ann.activity"]).await;
    let (_, mut parts) = listening(&api, &["v2.users.ann?presence&routingStatus"]).await;
    let number = cloud.push_presence("ann", "ON_QUEUE");
    let event = activity.json().await;
    assert_eq!(event["topicName"], "v2.users.ann.activity");
    assert_eq!(event["metadata"]["n"], number);
    assert_eq!(event["eventBody"]["presence"]["presenceDefinition"]["systemPresence"], "ON_QUEUE");
    assert_eq!(event["eventBody"]["routingStatus"]["status"], "IDLE");
    assert_eq!(parts.json().await["topicName"], "v2.users.ann.presence");
    assert_eq!(cloud.settled(number).await.fate, Fate::Written);
    assert_eq!(cloud.set_presence("bob", "BUSY").await.fate, Fate::Unwatched);
}

#[tokio::test]
async fn the_channel_after_the_last_ends_one_without_a_socket_and_tells_nobody() {
    let (cloud, api) = cloud(CloudOptions { channel_limit: 3, ..CloudOptions::default() }).await;
    let (first, mut socket) = listening(&api, &["v2.users.ann.activity"]).await;
    let (second, _) = channel(&api).await;
    channel(&api).await;
    let (fourth, _) = channel(&api).await;
    let ids: Vec<String> = cloud.snapshot().channels.into_iter().map(|channel| channel.id).collect();
    assert!(ids.contains(&first) && ids.contains(&fourth) && !ids.contains(&second));
    cloud.push_presence("ann", "BUSY");
    assert_eq!(socket.json().await["topicName"], "v2.users.ann.activity");
}

#[tokio::test]
async fn topics_are_refused_as_a_whole_or_one_by_one() {
    let (cloud, api) = cloud(CloudOptions { topic_limit: 2, ..CloudOptions::default() }).await;
    let (id, _) = channel(&api).await;
    let (ann, bob) = ("v2.users.ann.activity", "v2.users.bob.activity");
    cloud.obey(Deed::Hide { client: "sim-client".into(), agents: vec!["bob".into()] });
    assert_eq!(subscribe(&api, &id, &[ann, bob], false).await.0, 403);
    let (status, answer) = subscribe(&api, &id, &[ann, bob], true).await;
    assert_eq!((status, &answer["entities"][1]["state"]), (200, &json!("Rejected")));
    let (status, answer) = subscribe(&api, &id, &["v2.users.ann.shoes"], true).await;
    assert_eq!((status, &answer["code"]), (400, &json!("notification.invalid.topic")));
    cloud.obey(Deed::Poison { topic: ann.into() });
    assert_eq!(subscribe(&api, &id, &[ann], true).await.0, 400);
    let many = ["v2.users.a.presence", "v2.users.b.presence", "v2.users.c.presence"];
    let (status, answer) = subscribe(&api, &id, &many, true).await;
    assert_eq!((status, &answer["code"]), (400, &json!("notification.subscription.too.many.subscriptions")));
}

#[tokio::test]
async fn a_channel_ends_with_its_time_and_with_its_token() {
    let (cloud, api) = cloud(CloudOptions::default()).await;
    let (_, mut socket) = listening(&api, &["v2.users.ann.activity"]).await;
    cloud.obey(Deed::MoveTime { seconds: 24 * 3600 + 1 });
    assert_eq!(socket.json().await["result"], "404");
    assert_eq!(socket.closed().await.map(|(code, _)| code), Some(1000));
    assert_eq!(api.get("/api/v2/tokens/me").await.unwrap().status, 401);
    let api = login(&cloud).await;
    let (_, address) = channel(&api).await;
    cloud.obey(Deed::ExpireTokens);
    assert_eq!(Client::connect(&address).await.err(), Some(404));
}

#[tokio::test]
async fn a_displaced_channel_may_keep_up_appearances() {
    let (cloud, api) =
        cloud(CloudOptions { heartbeat: Duration::from_millis(20), ..CloudOptions::default() }).await;
    let (id, mut socket) = listening(&api, &["v2.users.ann.activity"]).await;
    cloud.obey(Deed::Displace { reach: Reach::Channel(id.clone()), manner: Manner::Silent });
    assert_eq!(cloud.set_presence("ann", "BUSY").await.fate, Fate::Unwatched);
    assert_eq!(socket.json().await["eventBody"]["message"], "WebSocket Heartbeat");
    assert_eq!(cloud.snapshot().ghosts, 1);
    assert_eq!(subscribe(&api, &id, &["v2.users.ann.activity"], true).await.0, 404);
}

#[tokio::test]
async fn subscriptions_that_are_taken_leave_a_channel_that_says_nothing() {
    let (cloud, api) =
        cloud(CloudOptions { heartbeat: Duration::from_millis(20), ..CloudOptions::default() }).await;
    let (id, mut socket) = listening(&api, &["v2.users.ann.activity", "v2.users.bob.activity"]).await;
    let path = format!("/api/v2/notifications/channels/{id}/subscriptions");
    for (agents, left) in [(vec!["ann".to_owned()], 1), (Vec::new(), 0)] {
        cloud.obey(Deed::Unsubscribe { reach: Reach::All, agents });
        let listed = api.get(&path).await.unwrap().json();
        assert_eq!(listed["entities"].as_array().unwrap().len(), left, "{listed}");
        assert_eq!(cloud.set_presence("ann", "BUSY").await.fate, Fate::Unwatched);
    }
    assert_eq!(socket.json().await["eventBody"]["message"], "WebSocket Heartbeat");
}

#[tokio::test]
async fn requests_beyond_the_rate_are_refused_with_the_headers_that_are_wanted() {
    let options =
        CloudOptions { rate_limit: Some(2), rate_headers: RateHeaders::Reset, ..CloudOptions::default() };
    let (_cloud, api) = cloud(options).await;
    for _ in 0..2 {
        assert_eq!(api.get("/api/v2/tokens/me").await.unwrap().status, 200);
    }
    let refused = api.get("/api/v2/tokens/me").await.unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (429, None));
    assert!(refused.header("inin-ratelimit-reset").is_some());
}

#[tokio::test]
async fn users_and_their_presences_come_in_the_spelling_of_the_directory() {
    let (cloud, api) = cloud(CloudOptions::default()).await;
    cloud.set_presence("ann", "ON_QUEUE").await;
    let page =
        api.get("/api/v2/users?pageSize=1&pageNumber=1&expand=presence,routingStatus").await.unwrap().json();
    assert_eq!((&page["pageCount"], &page["entities"][0]["id"]), (&json!(2), &json!("ann")));
    assert_eq!(page["entities"][0]["presence"]["presenceDefinition"]["systemPresence"], "On Queue");
    let bulk = api.get("/api/v2/users/presences/purecloud/bulk?id=ann,bob").await.unwrap().json();
    assert_eq!(bulk[0]["userId"], "ann");
    let many: Vec<String> = (0..51).map(|n| n.to_string()).collect();
    let refused =
        api.get(&format!("/api/v2/users/presences/purecloud/bulk?id={}", many.join(","))).await.unwrap();
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("max.user.presences")));
    let definitions = api.get("/api/v2/presence/definitions").await.unwrap().json();
    let on_queue =
        definitions["entities"].as_array().unwrap().iter().find(|d| d["systemPresence"] == "OnQueue");
    assert_eq!(on_queue.unwrap()["languageLabels"]["de"], "OnQueue (de)");
    assert_eq!(api.get("/api/v2/routing/queues/nowhere/members").await.unwrap().status, 404);
}

#[tokio::test]
async fn one_deed_after_the_other_is_obeyed_over_rest() {
    let (cloud, api) = cloud(CloudOptions::default()).await;
    let deeds = json!([{"verb": "presence", "agent": "ann", "presence": "MEAL"}, {"verb": "drop"}]);
    assert_eq!(api.post("/_sim/verbs", &deeds).await.unwrap().json()["touched"], json!([1, 0]));
    assert_eq!(cloud.person("ann").unwrap().presence, "MEAL");
    assert_eq!(api.post("/_sim/verbs", &json!({"verb": "dance"})).await.unwrap().status, 400);
}
