//! What we sign verifies with the official Standard Webhooks libraries of other languages, and only
//! unchanged.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use genesys_simulator::crm::{Behaviour, Post};
use serde_json::{Value, json};

use crate::support::neighbour::install;
use crate::support::terminal::Terminal;
use crate::support::{SOON, World};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A POST as the scripts read it.
fn case_of(secret: &str, post: &Post, body: &[u8]) -> Value {
    let headers: BTreeMap<_, _> = post.headers.iter().cloned().collect();
    json!({"secret": secret, "headers": headers, "body": BASE64.encode(body)})
}

/// What the script of each language comes to, by language.
fn run(script: &str, cases: &Value) -> [(&'static str, Output); 2] {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), cases.to_string()).unwrap();
    let verifiers = Path::new(ROOT).join("target/verifiers");
    let scripts = Path::new(ROOT).join("tests/official");
    let python = Command::new(verifiers.join("python/bin/python"))
        .arg(scripts.join(format!("{script}.py")))
        .arg(file.path())
        .output()
        .unwrap();
    let node = Command::new("node")
        .arg(scripts.join(format!("{script}.js")))
        .arg(file.path())
        .env("NODE_PATH", verifiers.join("node/node_modules"))
        .output()
        .unwrap();
    [("javascript", node), ("python", python)]
}

/// Whether each library accepts the POST, by language.
fn verdicts(secret: &str, post: &Post, body: &[u8]) -> BTreeMap<&'static str, bool> {
    let mut verdicts = BTreeMap::new();
    for (language, ran) in run("verify", &case_of(secret, post, body)) {
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        // A refusal, and not a missing library or a broken script.
        let refused = said.contains("WebhookVerificationError");
        assert!(ran.status.success() != refused, "{language}: {said}");
        verdicts.insert(language, ran.status.success());
    }
    verdicts
}

#[tokio::test(flavor = "multi_thread")]
async fn official_libraries_accept_our_posts_and_refuse_changed_ones() {
    install("install-verifiers");
    let accepted: BTreeMap<_, _> = [("javascript", true), ("python", true)].into();
    let refused: BTreeMap<_, _> = [("javascript", false), ("python", false)].into();
    let world = World::watching(&["ann"]).await;
    let webhook = world.register_with("/hooks/a", json!({})).await;
    let (id, first) = (webhook["id"].as_str().unwrap(), webhook["secret"].as_str().unwrap());
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let post = world.crm.wait_for(1, SOON).await.unwrap()[0].clone();
    assert_eq!(verdicts(first, &post, &post.body), accepted);
    let mut changed = post.body.to_vec();
    changed[20] ^= 1;
    assert_eq!(verdicts(first, &post, &changed), refused);

    let rotated = world.bridge.post(&format!("/v1/webhooks/{id}/rotate-secret"), &json!({})).await.json();
    let second = rotated["secret"].as_str().unwrap();
    assert_ne!(first, second);
    assert_eq!(verdicts(second, &post, &post.body), refused, "the new secret did not sign the old POST");
    world.genesys.set_presence("ann", "BUSY").await;
    let post = world.crm.wait_for(2, SOON).await.unwrap()[1].clone();
    let signatures = post.header("webhook-signature").unwrap();
    assert_eq!(signatures.split(' ').count(), 2, "old and new sign side by side: {signatures}");
    assert_eq!(verdicts(first, &post, &post.body), accepted);
    assert_eq!(verdicts(second, &post, &post.body), accepted);
}

/// What docs/webhooks.md tells receivers of their libraries; if one behaves otherwise, the page is to follow.
#[tokio::test(flavor = "multi_thread")]
async fn libraries_of_receivers_read_our_posts_as_the_page_says() {
    install("install-verifiers");
    let world = World::watching(&["ann"]).await;
    let token = Behaviour::status(200).body(r#"{"access_token": "t", "token_type": "Bearer"}"#);
    world.crm.next("/token", [token]);
    let oauth = json!({
        "kind": "oauth2", "token_url": world.crm.url("/token"), "client_id": "us & them",
        "client_secret": "s:ecret ß",
    });
    let mut secrets = BTreeMap::new();
    for (name, fields) in [
        ("both", json!({"signatures": ["v1", "v1a"], "auth": oauth})),
        ("only_v1a", json!({"signatures": ["v1a"]})),
        ("structured", json!({"format": "cloudevents-structured"})),
        ("binary", json!({"format": "cloudevents-binary"})),
        ("batch", json!({"format": "cloudevents-structured", "batch": {"max_items": 1, "max_wait_ms": 0}})),
    ] {
        let made = world.register_with(&format!("/hooks/{name}"), fields).await;
        secrets.insert(name, made["secret"].as_str().unwrap().to_owned());
    }
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(6, SOON).await.unwrap();
    let mut all = json!({
        "authorization": world.crm.received("/token")[0].header("authorization"),
    });
    for (name, secret) in &secrets {
        let post = &world.crm.received(&format!("/hooks/{name}"))[0];
        all[*name] = case_of(secret, post, &post.body);
    }
    for (language, ran) in run("libraries", &all) {
        assert!(ran.status.success(), "{language}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn official_libraries_accept_what_listen_posts() {
    install("install-verifiers");
    let accepted: BTreeMap<_, _> = [("javascript", true), ("python", true)].into();
    let world = World::watching(&["ann"]).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let url = world.crm.url("/dev");
    let listen = ["listen", "--forward-to", &url, "--since", "1h", "--count", "1"];
    let ran = Terminal::at(&world.bridge).run(&listen).await;
    let secret = ran.err.lines().find_map(|line| line.strip_prefix("Signing secret: ")).unwrap().to_owned();
    let post = world.crm.received("/dev")[0].clone();
    assert_eq!(verdicts(&secret, &post, &post.body), accepted, "{}", ran.err);
}
