//! A database that is a pair, or moves: the bridge finds the server that is the primary and takes writes, leaves
//! every other one, and says where it is.

use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use genesys_simulator::crm::check::Findings;
use genesys_simulator::relay::{Relay, Server};
use serde_json::{Value, json};

use crate::support::bridge::MASTER_KEY;
use crate::support::look::{assert_sequences_have_no_holes, feed};
use crate::support::pair::{Node, Pair};
use crate::support::{SOON, World, database, eventually};

/// Two seconds are promised; a machine that does much besides may need as many again.
const AT_ONCE: Duration = Duration::from_secs(4);

async fn on(url: &str) -> World {
    let world = World::with_options(&["ann"], Default::default(), &[("DATABASE_URL", url)]).await;
    world.register("/hooks/a").await;
    world
}

/// Pushes this many changes.
fn push(world: &World, count: usize) {
    for n in 0..count {
        world.genesys.push_presence("ann", ["BUSY", "AWAY", "MEAL"][n % 3]);
    }
}

/// Waits until this many changes have come, each once and in order.
async fn has_all(world: &World, count: u64) {
    let came = |posts: &[_]| Findings::of(posts, 1..=count).is_clean();
    world.crm.wait_until(came, SOON).await.unwrap();
    let events = feed(&world.bridge).await;
    assert_eq!(events.len() as u64, count);
    assert_sequences_have_no_holes(&events);
}

/// Waits until `/readyz` says something; gives how long that took.
async fn says(world: &World, what: &str, holds: impl Fn(&Value) -> bool) -> Duration {
    let asked = Instant::now();
    eventually(what, || async { holds(&world.bridge.get("/readyz").await.json()).then_some(()) }).await;
    asked.elapsed()
}

fn is_at(answer: &Value, node: &Node, timeline: u32) -> bool {
    let server = format!("127.0.0.1:{}", node.port());
    answer["ready"] == true
        && answer["database"] == json!({"server": server, "timeline": timeline, "commits": "local"})
}

/// Every write that is tried meanwhile is done, or answered so that it is tried again; never 500.
async fn writes_are_done_or_put_off(world: &World, until: impl Future<Output = Duration>) -> Duration {
    let fields = json!({"url": world.crm.url("/hooks/other"), "events": ["presence.gap"]});
    let mut writes = pin!(async {
        loop {
            let answer = world.bridge.post("/v1/webhooks", &fields).await;
            let put_off = answer.status == 503 && answer.headers.contains_key("retry-after");
            assert!(answer.status == 201 || put_off, "{} {}", answer.status, answer.text());
        }
    });
    tokio::select! {
        took = until => took,
        () = &mut writes => unreachable!("they go on"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_turns_read_only_is_left_at_once_and_used_again_at_once() {
    let pair = Pair::start().await;
    // The standby comes first in the list, and is not taken.
    let (second, first) = (pair.second.port(), pair.first.port());
    let url = format!(
        "postgres://postgres@/postgres?host=127.0.0.1,127.0.0.1&port={second},{first}&sslmode=disable\
         &target_session_attrs=primary"
    );
    let world = on(&url).await;
    push(&world, 3);
    has_all(&world, 3).await;

    pair.first.read_only(true).await;
    let noticed = says(&world, "it is read-only", |said| {
        said["ready"] == false && said["reasons"][0].to_string().contains("read-only")
    });
    let noticed = writes_are_done_or_put_off(&world, noticed).await;
    push(&world, 3);
    pair.first.read_only(false).await;
    let back = says(&world, "it is used again", |said| is_at(said, &pair.first, 1));
    let back = writes_are_done_or_put_off(&world, back).await;
    println!("read-only noticed after {noticed:?}, used again after {back:?}");
    assert!(noticed < AT_ONCE && back < AT_ONCE, "{noticed:?}, {back:?}");
    has_all(&world, 6).await;
}

/// The standby is promoted while the former primary stays alive and only reads.
async fn follows_a_promotion(
    pair: &Pair,
    world: &World,
    lead: impl FnOnce(),
    is_there: impl Fn(&Value) -> bool,
) {
    push(world, 3);
    has_all(world, 3).await;
    pair.first.read_only(true).await;
    push(world, 3);
    pair.caught_up().await;
    pair.second.promote().await;
    lead();
    let found = says(world, "the promoted one is found", is_there);
    let found = writes_are_done_or_put_off(world, found).await;
    let left = Instant::now();
    eventually("the former one has no connection", || async {
        (pair.first.bridges().await == 0).then_some(())
    })
    .await;
    println!("promoted one found after {found:?}, the former left {:?} later", left.elapsed());
    assert!(found < AT_ONCE && left.elapsed() < AT_ONCE, "{found:?}, {:?}", left.elapsed());
    push(world, 3);
    has_all(world, 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promoted_one_of_two_servers_is_found_and_the_former_loses_every_connection() {
    let pair = Pair::start().await;
    let world = on(&pair.url()).await;
    let is_there = |said: &Value| is_at(said, &pair.second, 2);
    follows_a_promotion(&pair, &world, || {}, is_there).await;

    // It takes writes again, as it did before, and knows nothing of what has happened since: nobody goes there.
    pair.first.read_only(false).await;
    push(&world, 3);
    has_all(&world, 12).await;
    assert_eq!(pair.first.bridges().await, 0);

    // It is made the standby, and the primary hangs in the middle of a step: the way back.
    is_made_standby_of(&pair.first, &pair.second).await;
    pair.second.freeze();
    push(&world, 3);
    pair.first.promote().await;
    let promoted = Instant::now();
    has_all(&world, 15).await;
    println!("a hung primary is left {:?} after the promotion", promoted.elapsed());
    assert!(promoted.elapsed() < AT_ONCE, "{:?}", promoted.elapsed());
    says(&world, "it is back", |said| is_at(said, &pair.first, 3)).await;
    pair.second.thaw();
    is_left(&pair.second).await;

    // Nobody fences the primary when the other one is promoted: both take writes, and the later history counts.
    is_made_standby_of(&pair.second, &pair.first).await;
    pair.second.promote().await;
    let promoted = Instant::now();
    says(&world, "the later one is found", |said| is_at(said, &pair.second, 4)).await;
    println!("a primary that is not fenced is left {:?} after the promotion", promoted.elapsed());
    is_left(&pair.first).await;
    push(&world, 3);
    has_all(&world, 18).await;
}

/// Makes one the standby of the other, once that has nothing left to do.
async fn is_made_standby_of(standby: &Node, primary: &Node) {
    standby.stop();
    eventually("all of it is settled", || async {
        (primary.ask::<i64>("select count(*) from delivery").await == 0).then_some(())
    })
    .await;
    standby.follow(primary);
    standby.caught_up_with(primary).await;
}

async fn is_left(node: &Node) {
    eventually("no bridge is there any more", || async { (node.bridges().await == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_elsewhere_is_followed_and_the_former_server_loses_every_connection() {
    let pair = Pair::start().await;
    let address = |node: &Node| Server::Tcp(([127, 0, 0, 1], node.port()).into());
    let relay = Relay::start(address(&pair.first)).await.unwrap();
    let port = pair.first.port().to_string();
    let world = on(&pair.first.url().replace(&port, &relay.port().to_string())).await;
    let is_there = |said: &Value| said["ready"] == true && said["database"]["timeline"] == 2;
    follows_a_promotion(&pair, &world, || relay.lead_to(address(&pair.second)), is_there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_death_of_a_primary_with_a_synchronous_standby_nothing_is_missing() {
    let pair = Pair::start().await;
    pair.commits_wait_for_standby(true).await;
    let variables = [("DATABASE_URL", &*pair.url()), ("BRIDGE_REQUIRE_SYNC", "true")];
    let world = World::with_options(&["ann"], Default::default(), &variables).await;
    world.register("/hooks/a").await;
    says(&world, "commits wait for a standby", |said| said["database"]["commits"] == "standby").await;
    push(&world, 30);
    pair.first.kill();
    push(&world, 30);
    pair.second.promote().await;
    let promoted = Instant::now();
    has_all(&world, 60).await;
    println!("all is there {:?} after the promotion", promoted.elapsed());
    says(&world, "not ready without a standby", |said| {
        said["ready"] == false && said["reasons"][0].to_string().contains("BRIDGE_REQUIRE_SYNC")
    })
    .await;

    let mut doctor = Command::new(env!("CARGO_BIN_EXE_presence-bridge"));
    doctor.arg("doctor").env_clear().current_dir(std::env::temp_dir()).envs(variables).envs([
        ("BRIDGE_MASTER_KEY", MASTER_KEY),
        ("GENESYS_PROTOCOL", "realtime"),
        ("GENESYS_API_URL", &world.genesys.api_url()),
        ("GENESYS_CLIENT_ID", "sim-client"),
        ("GENESYS_CLIENT_SECRET", "sim-secret"),
        ("GENESYS_AGENTS", "ann"),
    ]);
    let said = tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let at =
        format!("127.0.0.1:{} is the primary, timeline 2; commits wait for no standby", pair.second.port());
    assert!(said.contains(&at) && said.contains(&format!("127.0.0.1:{}: ", pair.first.port())), "{said}");
}

/// A user with a password of its own in this cluster, which must say it.
async fn bridge_owner(node: &Node) -> String {
    let file = node.data().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("host all bridge_owner 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
    let bridge_owner = "create role bridge_owner login createrole password 'first-canary'";
    node.say(&[bridge_owner, "create database bridge_owner owner bridge_owner", "select pg_reload_conf()"])
        .await;
    node.url_of("bridge_owner", "bridge_owner")
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_a_missing_right_and_a_password_file_is_read_again_at_each_dial() {
    let pair = Pair::start().await;
    let (url, file) = (bridge_owner(&pair.first).await, tempfile::NamedTempFile::new().unwrap());
    let write = |password: &str| {
        std::fs::write(file.path(), format!("127.0.0.1:*:*:bridge_owner:{password}\n")).unwrap();
    };
    write("first-canary");
    let variables = [("DATABASE_URL", &*url), ("PGPASSFILE", file.path().to_str().unwrap())];
    let world = World::with_options(&["ann"], Default::default(), &variables).await;
    world.register("/hooks/a").await;

    let admin = database::pool(&pair.first.url_of("postgres", "bridge_owner")).await;
    for (takes, gives, words) in [
        (
            "revoke select on webhook from presence_bridge_tenant",
            "grant select on webhook to presence_bridge_tenant",
            "presence_bridge_tenant lacks a right to table webhook",
        ),
        (
            "revoke insert on idempotency from presence_bridge_tenant",
            "grant insert on idempotency to presence_bridge_tenant",
            "permission denied for table idempotency",
        ),
        (
            "alter table event disable row level security",
            "alter table event enable row level security",
            "row security of table event is not in force for presence_bridge_tenant",
        ),
        (
            "alter table event owner to postgres; grant all on event to bridge_owner",
            "alter table event owner to bridge_owner",
            "row security of table event is in force for bridge_owner",
        ),
        ("alter table gap rename to gap_gone", "alter table gap_gone rename to gap", "table gap is missing"),
    ] {
        sqlx::raw_sql(takes).execute(&admin).await.unwrap();
        says(&world, words, |said| said["ready"] == false && said["reasons"].to_string().contains(words))
            .await;
        sqlx::raw_sql(gives).execute(&admin).await.unwrap();
        says(&world, "it is ready again", |said| said["ready"] == true).await;
    }

    let ended = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'bridge_owner'";
    pair.first.say(&["alter role bridge_owner password 'second-canary'", ended]).await;
    says(&world, "the password is refused", |said| said["ready"] == false).await;
    write("second-canary");
    says(&world, "the new one is read", |said| said["ready"] == true).await;
    push(&world, 3);
    has_all(&world, 3).await;
    assert!(!world.bridge.log().contains("canary"));
}
