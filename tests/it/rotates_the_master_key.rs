//! `rotate-master-key` seals everything again, all or nothing; whenever it is cut off, running it again
//! completes it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use genesys_simulator::genesys::GenesysOptions;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::bridge::{API_KEY, MASTER_KEY, UNSET};
use crate::support::{Bridge, SOON, World, database, eventually};

const NEW_KEY: &str = "bmV3LW1hc3Rlci1rZXktbmV3LW1hc3Rlci1rZXkhISE=";
const THIRD_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_presence-bridge"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(variables.iter().copied())
        .current_dir(std::env::temp_dir());
    command
}

fn rotate(url: &str, old: &str, new: &str) -> Output {
    let variables = [("DATABASE_URL", url), ("BRIDGE_MASTER_KEY", old), ("BRIDGE_NEW_MASTER_KEY", new)];
    command(&["rotate-master-key"], &variables).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A world with something in every sealed column; gives the answer that an `Idempotency-Key` stands for.
async fn with_secrets() -> (World, Value) {
    let world = World::with_options(&["ann"], GenesysOptions::default(), &[]).await;
    let fields = json!({
        "auth": {"kind": "bearer", "token": "tok-1"}, "headers": {"x-own": "1"}, "signatures": ["v1", "v1a"],
    });
    world.register_with("/hooks/a", fields).await;
    world.register("/hooks/b").await;
    let answer = write_once(&world.bridge, &world.crm.url("/hooks/c")).await;
    (world, answer)
}

async fn write_once(bridge: &Bridge, url: &str) -> Value {
    let bearer = format!("Bearer {API_KEY}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("idempotency-key", "once"),
    ];
    let body = json!({"url": url}).to_string().into_bytes();
    let answer = bridge.send_raw("POST", "/v1/webhooks", &headers, Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()
}

/// How many sealed values there are, by the key that they begin with.
async fn keys(pool: &PgPool) -> Vec<(Vec<u8>, i64)> {
    sqlx::query_as(
        "select substring(value from 1 for 4), count(*)
         from (select client_secret_sealed from source
               union all select access_sealed from webhook
               union all select sealed from webhook_secret
               union all select answer_sealed from idempotency
               union all select sealed from audit_key) as all_there_is (value)
         where value is not null
         group by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_only_the_new_key_opens_and_everything_works_as_before() {
    let (mut world, answer) = with_secrets().await;
    let url = world.bridge.database_url.clone();
    let refused = rotate(&url, MASTER_KEY, NEW_KEY);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("a bridge is running"), "{}", said(&refused));
    assert!(world.bridge.terminate().await.success());
    let pool = database::pool(&url).await;
    let before = keys(&pool).await;
    assert_eq!(before.len(), 1);
    for (old, new, variable) in [
        (THIRD_KEY, NEW_KEY, "BRIDGE_MASTER_KEY: "),
        (MASTER_KEY, MASTER_KEY, "BRIDGE_NEW_MASTER_KEY: "),
        (MASTER_KEY, "", "BRIDGE_NEW_MASTER_KEY: "),
    ] {
        let wrong = rotate(&url, old, new);
        assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
        let line = format!("presence-bridge: {variable}");
        assert!(said(&wrong).lines().any(|l| l.starts_with(&line)), "{}", said(&wrong));
        assert_eq!(keys(&pool).await, before, "nothing is changed");
    }
    for count in [before[0].1, 0] {
        let done = rotate(&url, MASTER_KEY, NEW_KEY);
        assert!(done.status.success(), "{}", said(&done));
        assert!(
            said(&done).contains(&format!("{count} values are sealed under the new key")),
            "{}",
            said(&done)
        );
    }
    let after = keys(&pool).await;
    assert_eq!((after.len(), after[0].1), (1, before[0].1));
    assert_ne!(after[0].0, before[0].0);
    let variables =
        [("DATABASE_URL", url.as_str()), ("BRIDGE_MASTER_KEY", MASTER_KEY), ("BRIDGE_API_KEY", API_KEY)];
    let old = command(&["serve"], &variables).output().unwrap();
    assert_eq!(old.status.code(), Some(2), "{}", said(&old));

    world.bridge.set("BRIDGE_MASTER_KEY", NEW_KEY);
    world.bridge.restart().await;
    world.sockets_open(1).await;
    assert_eq!(write_once(&world.bridge, &world.crm.url("/hooks/c")).await["secret"], answer["secret"]);
    world.genesys.set_presence("ann", "BUSY").await;
    let signed = world
        .crm
        .wait_until(|posts| posts.iter().any(|p| p.path() == "/hooks/a" && p.verified()), SOON)
        .await;
    signed.unwrap();
    let post = world.crm.received("/hooks/a").pop().unwrap();
    assert_eq!((post.header("authorization"), post.header("x-own")), (Some("Bearer tok-1"), Some("1")));
    let entries = world.audit("MASTER_KEY_ROTATED").await;
    assert_eq!((entries.len(), &entries[0]["data"]["values"]), (1, &json!(before[0].1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_in_the_middle_changes_nothing_and_is_completed_by_the_next() {
    let (mut world, _) = with_secrets().await;
    assert!(world.bridge.terminate().await.success());
    let url = world.bridge.database_url.clone();
    let pool = database::pool(&url).await;
    let before = keys(&pool).await;
    // It gets through `source` and `webhook`, and must wait at this row.
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select from webhook_secret for update").execute(&mut *holder).await.unwrap();
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("BRIDGE_MASTER_KEY", MASTER_KEY),
        ("BRIDGE_NEW_MASTER_KEY", NEW_KEY),
    ];
    let start = || command(&["rotate-master-key"], &variables).stderr(Stdio::null()).spawn().unwrap();
    let child = std::cell::RefCell::new(start());
    eventually("it is in the middle", || async {
        let waits: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity
                            where datname = current_database() and wait_event_type = 'Lock'
                              and query like 'update webhook_secret%')",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        // It waits for five seconds, which a busy machine may let pass unseen.
        if child.borrow_mut().try_wait().unwrap().is_some() {
            child.replace(start()).wait().unwrap();
        }
        waits.then_some(())
    })
    .await;
    let mut child = child.into_inner();
    child.kill().unwrap();
    child.wait().unwrap();
    holder.rollback().await.unwrap();
    assert_eq!(keys(&pool).await, before);
    let done = rotate(&url, MASTER_KEY, NEW_KEY);
    assert!(done.status.success(), "{}", said(&done));
    let after = keys(&pool).await;
    assert_eq!((after.len(), after[0].1), (1, before[0].1));
    assert_ne!(after[0].0, before[0].0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_its_file_is_replaced_last_and_what_was_cut_off_before_is_completed() {
    let dir = tempfile::Builder::new().prefix("pb-rotate-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let data = dir.path().to_str().unwrap().to_owned();
    let source = [
        ("DATABASE_URL", UNSET),
        ("BRIDGE_MASTER_KEY", UNSET),
        ("BRIDGE_DATA_DIR", &data),
        ("GENESYS_API_URL", "http://127.0.0.1:9"),
        ("GENESYS_CLIENT_ID", "x"),
        ("GENESYS_CLIENT_SECRET", "y"),
        ("GENESYS_ALL_USERS", "true"),
    ];
    let mut bridge = Bridge::start_on(UNSET, &source).await;
    let started = "/v1/audit?kind=BRIDGE_STARTED";
    eventually("it is up", || async {
        (bridge.get(started).await.json()["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    // With the first seal there is a second sealed value, the log's key.
    eventually("the log is sealed", || async {
        bridge.get("/v1/audit/head").await.json()["seal"].is_number().then_some(())
    })
    .await;
    assert!(bridge.terminate().await.success());
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let first = read("master.key");
    let run = |what: &str| {
        command(&[what], &[("BRIDGE_DATA_DIR", &data), ("BRIDGE_LISTEN", "127.0.0.1:0")]).output().unwrap()
    };
    let done = run("rotate-master-key");
    assert!(done.status.success() && said(&done).contains("2 values"), "{}", said(&done));
    let second = read("master.key");
    assert_ne!(first, second);
    let former = former_keys(dir.path());
    assert_eq!(former.len(), 1, "{former:?}");
    assert_eq!((read(&former[0]), mode(&dir.path().join("master.key"))), (first.clone(), 0o600));
    assert_eq!(mode(&dir.path().join(&former[0])), 0o600);

    // As a crash between the commit and the last step leaves it.
    std::fs::write(dir.path().join("master.key.new"), &second).unwrap();
    std::fs::write(dir.path().join("master.key"), &first).unwrap();
    let wrong = run("serve");
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
    assert!(said(&wrong).contains("rotate-master-key"), "{}", said(&wrong));
    let again = run("rotate-master-key");
    assert!(again.status.success() && said(&again).contains("0 values"), "{}", said(&again));
    assert_eq!(read("master.key"), second);
    assert!(!dir.path().join("master.key.new").exists());
    bridge.restart().await;
    assert_eq!(bridge.get("/v1/sources").await.json()["items"].as_array().unwrap().len(), 1);
    bridge.terminate().await;
}

fn former_keys(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("master.key.old-")).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
