//! `presence-bridge listen`: a developer's machine that no bridge can reach gets what its webhook would get.

use std::net::SocketAddr;

use genesys_simulator::crm::{Behaviour, Post, Secret};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use crate::support::terminal::Terminal;
use crate::support::{SOON, World};

/// What `listen` signs with here.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STATES: [&str; 4] = ["BUSY", "AWAY", "MEAL", "BREAK"];

/// Starts to listen, and waits until it does.
async fn listen(world: &World, terminal: &Terminal, more: &[&str]) -> Child {
    world.crm.set_secrets_of("/dev", vec![Secret::parse(SECRET).unwrap()]);
    let url = world.crm.url("/dev");
    let mut child = terminal.start(&[&["listen", "--forward-to", &url, "--secret", SECRET], more].concat());
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    timeout(SOON, said.read_line(&mut line)).await.unwrap().unwrap();
    assert!(line.starts_with("Forwarding changes from "), "{line}");
    child.stderr = Some(said.into_inner());
    child
}

/// Ends it as Ctrl-C does; gives its exit code, and what it said since it began.
async fn interrupt(mut child: Child) -> (Option<i32>, String, String) {
    kill(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    let ended = timeout(SOON, child.wait()).await.unwrap().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    (ended.code(), out, err)
}

/// Waits for its own end, which is no failure; gives what it said.
async fn ended(child: Child) -> (String, String) {
    let ended = timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap())
}

/// The body without when its first POST began, which each receiver has its own of.
fn body_of(post: &Post) -> (String, String) {
    let body = String::from_utf8(post.body.to_vec()).unwrap();
    let (before, sent_at) = body.rsplit_once(",\"sent_at\":\"").unwrap();
    (before.to_owned(), sent_at.to_owned())
}

/// Ids of the events that were posted there, in order.
fn posted(world: &World, path: &str) -> Vec<String> {
    world.crm.received(path).iter().map(|post| post.event_id().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_posts_byte_for_byte_what_a_webhook_gets() {
    let world = World::watching(&["ann"]).await;
    let terminal = Terminal::at(&world.bridge);
    world.register("/hooks/a").await;
    let mapped = world.bridge.patch("/v1/agents/ann", &json!({"external_id": "Zoë \"7\""})).await;
    assert_eq!(mapped.status, 200, "{}", mapped.text());
    let child = listen(&world, &terminal, &["--count", "2"]).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.genesys.set_presence("ann", "ON_QUEUE").await;
    world.crm.wait_for(4, SOON).await.unwrap();
    let (out, _) = ended(child).await;
    let (real, own) = (world.crm.received("/hooks/a"), world.crm.received("/dev"));
    assert_eq!((real.len(), own.len()), (2, 2));
    for (real, own) in real.iter().zip(&own) {
        assert!(real.verified() && own.verified(), "{:?}", world.crm.complaints());
        assert_eq!(body_of(own).0, body_of(real).0);
        assert_eq!(body_of(own).1.len(), body_of(real).1.len());
        let names = |post: &Post| {
            let mut names: Vec<_> = post.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
            names.retain(|name| {
                name.starts_with("webhook-") || name.starts_with("presence-") || name == "content-type"
            });
            names.sort();
            names
        };
        assert_eq!(names(own), names(real));
        assert_eq!(own.header("content-type"), real.header("content-type"));
    }
    let first: Vec<_> = out.lines().next().unwrap().split("  ").collect();
    assert_eq!(first.get(1).copied(), Some(posted(&world, "/dev")[0].as_str()), "{out}");
    assert!(out.contains("ann") && out.contains("  -> 204 in "), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_behind_a_restart_of_the_bridge_without_a_miss_or_a_twin() {
    let mut world = World::watching(&["ann"]).await;
    let terminal = Terminal::at(&world.bridge);
    let address: SocketAddr = world.bridge.url.trim_start_matches("http://").parse().unwrap();
    world.bridge.set("BRIDGE_LISTEN", &address.to_string());
    let child = listen(&world, &terminal, &[]).await;
    let changes = async |world: &World| {
        for state in STATES {
            world.genesys.set_presence("ann", state).await;
        }
    };
    changes(&world).await;
    world.crm.wait_for(4, SOON).await.unwrap();
    world.bridge.kill().await;
    world.bridge.restart().await;
    world.sockets_open(1).await;
    changes(&world).await;
    world.crm.wait_for(8, SOON).await.unwrap();
    assert!(world.bridge.terminate().await.success(), "a stream does not hold its end up");
    world.bridge.restart().await;
    world.sockets_open(1).await;
    changes(&world).await;
    world.crm.wait_for(12, SOON).await.unwrap();
    let feed = world.bridge.get("/v1/events?limit=200").await.json();
    let stored: Vec<_> = feed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(posted(&world, "/dev"), stored);
    let (code, _, said) = interrupt(child).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.matches("The stream broke off: ").count() >= 2 && said.contains("is open again"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_is_told_and_gets_the_same_post_again_if_that_is_wanted() {
    let world = World::watching(&["ann", "bob"]).await;
    let terminal = Terminal::at(&world.bridge);
    // Without: it goes on, and says where it was.
    let child = listen(&world, &terminal, &["--agent", "ann", "-o", "ndjson", "--count", "2"]).await;
    world.crm.next("/dev", [Behaviour::status(500)]);
    world.genesys.set_presence("bob", "BUSY").await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.genesys.set_presence("ann", "AWAY").await;
    let (out, said) = ended(child).await;
    let told: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let statuses: Vec<_> = told.iter().map(|told| told["status"].clone()).collect();
    assert_eq!(statuses, [500, 204], "only the agent that was asked for: {out}");
    let cursor = said.lines().last().unwrap().rsplit(' ').next().unwrap();
    // With: the same bytes under the same id until it is taken, from that place on.
    world.genesys.set_presence("ann", "MEAL").await;
    world.crm.next("/dev", [Behaviour::status(503), Behaviour::status(500)]);
    let retry = ["--agent", "ann", "--retry", "--cursor", cursor, "--count", "1"];
    let (out, _) = ended(listen(&world, &terminal, &retry).await).await;
    let posts = world.crm.received("/dev");
    let (before, repeats) = posts.split_at(2);
    let attempts: Vec<_> = repeats.iter().filter_map(|post| post.header("presence-bridge-attempt")).collect();
    assert_eq!(attempts, ["1", "2", "3"], "{out}");
    assert!(out.contains("AWAY -> MEAL  -> 503 in ") && out.contains("  -> 204 in "), "{out}");
    for post in repeats {
        assert_eq!((post.webhook_id(), &post.body), (repeats[0].webhook_id(), &repeats[0].body));
        assert!(post.verified(), "{:?}", world.crm.complaints());
        assert!(before.iter().all(|earlier| earlier.webhook_id() != post.webhook_id()), "no twin");
    }
    // Nobody there at all.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to = format!("http://{free}/hook");
    let ran = terminal.run(&["listen", "--forward-to", &to, "--since", "1h", "--count", "1"]).await;
    assert_eq!((ran.code, ran.out.contains("-> no answer (Connection refused")), (0, true), "{}", ran.out);
    assert!(ran.err.contains("Signing secret: whsec_"), "a secret of its own is shown: {}", ran.err);
}
