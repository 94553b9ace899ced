//! A stop is soft: what is under way finishes or is given back, and nothing is left lying about.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use genesys_simulator::crm::Behaviour;
use genesys_simulator::crm::check::{holes, inversions, repeats};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::bridge::{API_KEY, MASTER_KEY, UNSET};
use crate::support::look::{assert_sequences_have_no_holes, feed};
use crate::support::{Bridge, SOON, World, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn stopped_under_load_it_loses_nothing_and_repeats_nothing() {
    let agents = ["ann", "bob", "cid"];
    let mut world = World::watching(&agents).await;
    world.register("/hooks/a").await;
    world.crm.always("/hooks/a", Behaviour::status(204).after(Duration::from_millis(20)));
    for n in 0..40 {
        for agent in agents {
            world.genesys.push_presence(agent, ["BUSY", "AWAY", "MEAL"][n % 3]);
        }
    }
    world.crm.wait_for(10, SOON).await.unwrap();
    let asked = Instant::now();
    let status = world.bridge.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", world.bridge.log());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let seen = world.genesys.snapshot();
    assert_eq!(seen.connections, [], "no connection is left upstream");
    let codes: Vec<_> = seen.tally.closes.iter().map(|close| close.code).collect();
    assert_eq!(codes, [Some(1000); 3], "sockets are closed properly");

    world.bridge.restart().await;
    let pool = database::pool(&world.bridge.database_url).await;
    world.sockets_open(agents.len()).await;
    world.drained(&pool).await;
    let posts = world.crm.posts();
    assert_eq!(repeats(&posts), 0, "nothing answered is sent again");
    assert_eq!((inversions(&posts), holes(&posts)), (vec![], vec![]));
    let events = feed(&world.bridge).await;
    assert_sequences_have_no_holes(&events);
    assert_eq!(events.len(), posts.len(), "what is in the feed was delivered");
    let silent = world.lost_without_a_word().await;
    assert!(silent.is_empty(), "{silent:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_again_and_again_in_a_stream_it_repeats_nothing_that_was_answered() {
    const STOPS: u64 = 5;
    let agents = ["ann", "bob", "cid", "dee", "eve", "fay", "gus", "hal"];
    let mut world = World::watching(&agents).await;
    world.register("/hooks/a").await;
    // Answers take their time, and so do commits: at each stop POSTs are under way while others are about to
    // be handed over.
    world.crm.always("/hooks/a", Behaviour::status(204).after(Duration::from_millis(300)));
    let pool = database::pool(&world.bridge.database_url).await;
    let slow = "create function slow() returns trigger language plpgsql as
                    'begin perform pg_sleep(0.01); return null; end';
                create constraint trigger slow after insert on event deferrable initially deferred
                    for each row execute function slow();";
    sqlx::raw_sql(slow).execute(&pool).await.unwrap();
    let genesys = world.genesys.clone();
    let stream = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        for n in 0.. {
            pace.tick().await;
            genesys.push_presence(agents[n % 8], ["BUSY", "AWAY", "MEAL"][n % 3]);
        }
    });
    for stop in 1..=STOPS {
        world.crm.wait_for(stop * 20, SOON).await.unwrap();
        assert_eq!(world.bridge.terminate().await.code(), Some(0), "{}", world.bridge.log());
        world.bridge.restart().await;
        world.sockets_open(agents.len()).await;
    }
    stream.abort();
    world.drained(&pool).await;
    let posts = world.crm.posts();
    assert_eq!(repeats(&posts), 0, "of {} POSTs", posts.len());
    assert_eq!((inversions(&posts), holes(&posts)), (vec![], vec![]));
    let twice: i64 = sqlx::query_scalar(
        "select count(*) from (
             select from audit_log where kind = 'DELIVERY_ATTEMPT' group by delivery_id, attempt having count(*) > 1) t",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(twice, 0, "an attempt is written down once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_hangs_is_given_back_and_leaves_at_once_after_the_restart() {
    let mut world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.crm.next("/hooks/a", [Behaviour::Hang]);
    world.genesys.set_presence("ann", "BUSY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    let asked = Instant::now();
    assert_eq!(world.bridge.terminate().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let pool = database::pool(&world.bridge.database_url).await;
    let leased: i64 = sqlx::query_scalar("select count(*) from delivery where leased_by is not null")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(leased, 0, "it is given back, not left to its lease");
    world.bridge.restart().await;
    let posts = world.crm.wait_for(2, SOON).await.unwrap();
    assert_eq!(posts[0].webhook_id(), posts[1].webhook_id());
    assert_eq!(posts[0].body, posts[1].body);
    let attempts: Vec<_> = posts.iter().map(|post| post.header("presence-bridge-attempt")).collect();
    assert_eq!(attempts, [Some("1"), Some("2")], "the first one was made, whether it was taken or not");
    assert_eq!(world.audit_of("ATTEMPT_LOST", 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    world.crm.always("/hooks/a", Behaviour::Hang);
    world.genesys.set_presence("ann", "BUSY").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    world.bridge.signal(Signal::SIGTERM);
    eventually("it is stopping", || async { world.bridge.log().contains("\"stopping\"").then_some(()) })
        .await;
    let asked = Instant::now();
    assert_eq!(world.bridge.terminate().await.code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_still_waits_for_its_database_can_be_stopped() {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_presence-bridge"))
        .env_clear()
        .env("DATABASE_URL", "postgres://postgres@127.0.0.1:9/nobody")
        .env("BRIDGE_API_KEY", API_KEY)
        .env("BRIDGE_MASTER_KEY", MASTER_KEY)
        .current_dir("/tmp")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    while !log.next_line().await.unwrap().unwrap().contains("the database does not answer yet") {}
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let status = tokio::time::timeout(SOON, child.wait()).await.expect("it stops in time").unwrap();
    assert_eq!(status.code(), Some(0));
}

/// Process of the embedded server.
fn server_pid(dir: &Path) -> Pid {
    let text = std::fs::read_to_string(dir.join("postgres/postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap())
}

async fn is_gone(pid: Pid) {
    eventually("the database server is gone", || async {
        (kill(pid, None) == Err(nix::errno::Errno::ESRCH)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_database_keeps_its_data_and_never_outlives_the_bridge() {
    let home = tempfile::Builder::new().prefix("pb-data-").tempdir().unwrap();
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let dir = home.path().join("data");
    let data_dir = dir.to_str().unwrap();
    let variables = [
        ("DATABASE_URL", UNSET),
        ("BRIDGE_API_KEY", UNSET),
        ("BRIDGE_MASTER_KEY", UNSET),
        ("BRIDGE_DATA_DIR", data_dir),
    ];
    let mut bridge = Bridge::start_on("", &variables).await;
    for name in ["api.key", "master.key"] {
        let mode = std::fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let key = std::fs::read_to_string(dir.join("api.key")).unwrap();
    assert!(!bridge.log().contains(key.trim()), "the key is not in the log");
    let key = format!("Bearer {}", key.trim());
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let webhook = json!({"url": "http://127.0.0.1:9/kept"}).to_string().into_bytes();
    let made = bridge.send_raw("POST", "/v1/webhooks", &headers, Some(webhook)).await;
    assert_eq!(made.status, 201, "{}", made.text());

    let refused = tokio::process::Command::new(env!("CARGO_BIN_EXE_presence-bridge"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("BRIDGE_DATA_DIR", data_dir)
        .env("BRIDGE_LISTEN", "127.0.0.1:0")
        .current_dir("/tmp")
        .stdout(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("another bridge is using it"), "{said}");

    let server = server_pid(&dir);
    assert_eq!(bridge.terminate().await.code(), Some(0));
    assert_eq!(kill(server, None), Err(nix::errno::Errno::ESRCH), "it ended first");
    bridge.restart().await;
    let kept = bridge.send_raw("GET", "/v1/webhooks", &headers, None).await.json();
    assert_eq!(kept["items"][0]["url"], "http://127.0.0.1:9/kept");

    let server = server_pid(&dir);
    bridge.kill().await;
    is_gone(server).await;
    bridge.restart().await;
    let kept = bridge.send_raw("GET", "/v1/webhooks", &headers, None).await.json();
    assert_eq!(kept["items"][0]["url"], "http://127.0.0.1:9/kept");
}
