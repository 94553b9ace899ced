//! The receivers that the console shows with a new secret: each runs as it is, takes a POST of ours, and refuses
//! one that was changed. C# alone is not run: its tools are in none of the registries that tests may ask.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use genesys_simulator::crm::Post;
use serde_json::json;

use crate::support::client::Client;
use crate::support::neighbour::install;
use crate::support::{SOON, World, eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SAMPLES: &str = "src/console/pages/webhooks/samples";

/// A receiver that runs; dropping it ends it.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command, if its program is there.
fn program(name: &str) -> Option<Command> {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok().then(|| Command::new(name))
}

/// What runs each receiver, in a folder where its library is found.
fn commands(folder: &Path, port: u16) -> Vec<(&'static str, Command)> {
    let verifiers = Path::new(ROOT).join("target/verifiers");
    for file in std::fs::read_dir(Path::new(ROOT).join(SAMPLES)).unwrap() {
        let file: PathBuf = file.unwrap().path();
        std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    std::os::unix::fs::symlink(verifiers.join("node/node_modules"), folder.join("node_modules")).unwrap();
    let mut commands = Vec::new();
    let mut python = Command::new(verifiers.join("python/bin/python"));
    python.arg("receiver.py");
    commands.push(("python", python));
    let mut node = Command::new("node");
    node.arg("receiver.mjs");
    commands.push(("javascript", node));
    if let Some(mut java) = program("java") {
        java.arg("Receiver.java");
        commands.push(("java", java));
    }
    if let Some(mut php) = program("php") {
        php.args(["-S", &format!("127.0.0.1:{port}"), "receiver.php"]);
        commands.push(("php", php));
    }
    commands
}

/// What the receiver at a port answers to a POST with this body.
async fn answer(port: u16, post: &Post, body: &[u8]) -> Option<u16> {
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature", "content-type"];
    let headers: Vec<_> = names.iter().map(|name| (*name, post.header(name).unwrap())).collect();
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    client.try_send("POST", "/hooks/a", &headers, Some(body.to_vec())).await.map(|answer| answer.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_receiver_that_the_console_shows_verifies() {
    install("install-verifiers");
    let world = World::watching(&["ann"]).await;
    let webhook = world.register_with("/hooks/a", json!({"signatures": ["v1", "v1a"]})).await;
    let id = webhook["id"].as_str().unwrap();
    // Two secrets sign: the receiver knows one of them.
    world.bridge.post(&format!("/v1/webhooks/{id}/rotate-secret"), &json!({})).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    let post = world.crm.wait_for(1, SOON).await.unwrap()[0].clone();
    let mut changed = post.body.to_vec();
    changed[20] ^= 1;
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (language, mut command) in commands(folder.path(), port) {
        command.current_dir(folder.path()).env("PORT", port.to_string()).stdout(Stdio::null());
        command.env("WEBHOOK_SECRET", webhook["secret"].as_str().unwrap()).stderr(Stdio::null());
        let receiver = Receiver(command.spawn().unwrap());
        let taken = eventually(language, || async { answer(port, &post, &post.body).await }).await;
        assert_eq!(taken, 204, "{language}");
        assert_eq!(answer(port, &post, &changed).await, Some(401), "{language}");
        drop(receiver);
    }
}
