//! What we sign verifies with the official Standard Webhooks libraries of other languages, and only
//! unchanged.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use genesys_simulator::crm::Post;
use serde_json::json;

use crate::support::{SOON, World};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn install() {
    let ran =
        Command::new(Path::new(ROOT).join("scripts/install-verifiers")).output().expect("bash is there");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// Whether each library accepts the POST, by language.
fn verdicts(secret: &str, post: &Post, body: &[u8]) -> BTreeMap<&'static str, bool> {
    let headers: BTreeMap<_, _> = post.headers.iter().cloned().collect();
    let told = json!({"secret": secret, "headers": headers, "body": BASE64.encode(body)});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), told.to_string()).unwrap();
    let verifiers = Path::new(ROOT).join("target/verifiers");
    let scripts = Path::new(ROOT).join("tests/official");
    let python = Command::new(verifiers.join("python/bin/python"))
        .arg(scripts.join("verify.py"))
        .arg(file.path())
        .output()
        .unwrap();
    let node = Command::new("node")
        .arg(scripts.join("verify.js"))
        .arg(file.path())
        .env("NODE_PATH", verifiers.join("node/node_modules"))
        .output()
        .unwrap();
    let mut verdicts = BTreeMap::new();
    for (language, ran) in [("javascript", node), ("python", python)] {
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
    install();
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
