//! What a POST looks like and how it shows who sends it, when its webhook asks for something else than the
//! usual.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use genesys_simulator::crm::{Behaviour, Post, Secret};
use serde_json::{Value, json};

use crate::support::crowd::body;
use crate::support::{SOON, World};

/// Sends a change to a webhook with these fields; gives the POST.
async fn post_of(world: &World, path: &str, fields: Value) -> (Value, Arc<Post>) {
    let webhook = world.register_with(path, fields).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let posts =
        world.crm.wait_until(|posts| posts.iter().any(|post| post.path() == path), SOON).await.unwrap();
    (webhook, posts.iter().find(|post| post.path() == path).unwrap().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudevents_say_the_same_in_the_body_or_in_headers() {
    let world = World::watching(&["ann"]).await;
    world.register_with("/hooks/binary", json!({"format": "cloudevents-binary"})).await;
    let (_, structured) =
        post_of(&world, "/hooks/structured", json!({"format": "cloudevents-structured"})).await;
    let event = body(&structured);
    assert_eq!(structured.header("content-type"), Some("application/cloudevents+json"));
    assert!(structured.verified(), "signed as any other: {:?}", structured.verdict);
    let source = event["data"]["source"]["id"].as_str().unwrap().to_owned();
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", structured.webhook_id()),
        ("source", &format!("/sources/{source}")),
        ("type", "presence.updated"),
        ("subject", "ann"),
        ("partitionkey", "ann"),
        ("sequence", "00000000000000000001"),
        ("datacontenttype", "application/json"),
        ("time", event["data"]["occurred_at"].as_str().unwrap()),
        ("recordedtime", event["data"]["committed_at"].as_str().unwrap()),
    ] {
        assert_eq!(event[name], value, "{name}");
    }
    let posts =
        world.crm.wait_until(|posts| posts.iter().any(|p| p.path() == "/hooks/binary"), SOON).await.unwrap();
    let binary = posts.iter().find(|post| post.path() == "/hooks/binary").unwrap();
    assert!(binary.verified());
    assert_eq!(binary.header("content-type"), Some("application/json"));
    assert_eq!(binary.header("ce-id"), Some(binary.webhook_id()));
    for name in
        ["specversion", "source", "type", "subject", "partitionkey", "sequence", "time", "recordedtime"]
    {
        assert_eq!(binary.header(&format!("ce-{name}")), event[name].as_str(), "{name}");
    }
    let without_sent_at = |mut data: Value| {
        data.as_object_mut().unwrap().remove("sent_at");
        data
    };
    assert_eq!(without_sent_at(body(binary)), without_sent_at(event["data"].clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_cloudevents_is_a_list_of_them() {
    let world = World::watching(&["ann"]).await;
    let fields =
        json!({"format": "cloudevents-structured", "batch": {"max_items": 3, "max_wait_ms": 60_000}});
    world.register_with("/hooks/a", fields).await;
    for state in ["AVAILABLE", "BUSY", "AWAY"] {
        world.genesys.push_presence("ann", state);
    }
    let posts = world.crm.wait_for(1, SOON).await.unwrap();
    assert_eq!(posts[0].header("content-type"), Some("application/cloudevents-batch+json"));
    assert!(posts[0].verified());
    let list = body(&posts[0]);
    let told: Vec<_> =
        list.as_array().unwrap().iter().map(|event| event["data"]["presence"]["system"].clone()).collect();
    assert_eq!(told, ["AVAILABLE", "BUSY", "AWAY"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_is_enough_to_verify_what_we_sign() {
    let world = World::watching(&["ann"]).await;
    let (both, first) = post_of(&world, "/hooks/both", json!({"signatures": ["v1", "v1a"]})).await;
    assert!(first.verified(), "by the secret");
    let signatures = first.header("webhook-signature").unwrap();
    assert!(signatures.contains("v1,") && signatures.contains("v1a,"), "{signatures}");
    for (path, fields) in [("/hooks/both", None), ("/hooks/only", Some(json!({"signatures": ["v1a"]})))] {
        let webhook = match fields {
            Some(fields) => world.register_with(path, fields).await,
            None => both.clone(),
        };
        let public = Secret::parse(webhook["public_key"].as_str().unwrap()).unwrap();
        world.crm.set_secrets_of(path, vec![public]);
    }
    world.genesys.set_presence("ann", "BUSY").await;
    let posts = world.crm.wait_for(3, SOON).await.unwrap();
    assert!(posts[1..].iter().all(|post| post.verified()), "by the public key");
    let only = world.crm.received("/hooks/only");
    assert!(only[0].header("webhook-signature").unwrap().starts_with("v1a,"));
}

#[tokio::test(flavor = "multi_thread")]
async fn own_headers_and_credentials_come_with_every_post() {
    let world = World::watching(&["ann"]).await;
    for (path, auth) in [
        ("/hooks/basic", json!({"kind": "basic", "username": "ann", "password": "pa:ss"})),
        ("/hooks/bearer", json!({"kind": "bearer", "token": "tok-1"})),
        ("/hooks/scheme", json!({"kind": "scheme", "scheme": "Splunk", "credentials": "tok-2"})),
    ] {
        let headers = json!({"X-Tenant": "t-1", "cookie": "a=b"});
        world.register_with(path, json!({"auth": auth, "headers": headers})).await;
    }
    world.crm.next("/hooks/bearer", [Behaviour::status(204), Behaviour::status(500)]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let posts = world.crm.wait_for(3, SOON).await.unwrap();
    for post in &posts {
        assert!(post.verified());
        assert_eq!((post.header("x-tenant"), post.header("cookie")), (Some("t-1"), Some("a=b")));
        let expected = match post.path() {
            "/hooks/basic" => format!("Basic {}", BASE64.encode("ann:pa:ss")),
            "/hooks/scheme" => "Splunk tok-2".to_owned(),
            _ => "Bearer tok-1".to_owned(),
        };
        assert_eq!(post.header("authorization"), Some(expected.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_fetched_used_for_many_and_fetched_again_when_it_is_refused() {
    let world = World::watching(&["ann"]).await;
    let token = |name: &str| {
        let answer = json!({"access_token": name, "token_type": "Bearer", "expires_in": 3600});
        Behaviour::status(200).header("content-type", "application/json").body(answer.to_string())
    };
    let refusal = json!({"error": "invalid_client", "error_description": "no client bridge, or not s3cret"});
    let refusal = Behaviour::status(401).header("content-type", "application/json").body(refusal.to_string());
    world.crm.next("/token", [refusal, token("first"), token("second")]);
    let auth = json!({
        "kind": "oauth2", "token_url": world.crm.url("/token"), "client_id": "bridge", "client_secret": "s3cret",
        "scope": "presence:write",
    });
    let fields = json!({"auth": auth, "retry_schedule_seconds": [1, 1, 1, 1]});
    world.register_with("/hooks/a", fields).await;
    let received = |count: usize| {
        let crm = world.crm.clone();
        async move {
            let there =
                |posts: &[Arc<Post>]| posts.iter().filter(|p| p.path() == "/hooks/a").count() == count;
            crm.wait_until(there, SOON).await.unwrap();
            crm.received("/hooks/a")
        }
    };
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let posts = received(1).await;
    assert_eq!(posts[0].header("authorization"), Some("Bearer first"));
    let delivered = world.delivery_in(posts[0].webhook_id(), "delivered").await;
    let outcomes: Vec<_> =
        delivered["attempts"].as_array().unwrap().iter().map(|a| a["outcome"].clone()).collect();
    assert_eq!(outcomes, ["token", "ok"], "without a token nothing is sent");
    assert_eq!(
        delivered["attempts"][0]["data"]["reason"],
        "the token endpoint answered 401: invalid_client: no client [redacted], or not [redacted]"
    );
    world.genesys.set_presence("ann", "BUSY").await;
    received(2).await;
    assert_eq!(world.crm.received("/token").len(), 2, "it is kept");
    world.crm.next("/hooks/a", [Behaviour::status(401)]);
    world.genesys.set_presence("ann", "AWAY").await;
    let posts = received(4).await;
    let used: Vec<_> = posts.iter().map(|post| post.header("authorization").unwrap()).collect();
    assert_eq!(used, ["Bearer first", "Bearer first", "Bearer first", "Bearer second"]);
    let asked = world.crm.received("/token");
    let form = String::from_utf8_lossy(&asked[0].body).into_owned();
    assert!(
        form.contains("grant_type=client_credentials") && form.contains("scope=presence%3Awrite"),
        "{form}"
    );
    assert_eq!(
        asked[0].header("authorization"),
        Some(format!("Basic {}", BASE64.encode("bridge:s3cret")).as_str())
    );
    assert!(!world.bridge.log().contains("s3cret"));
}
