//! A wrong configuration stops the start at once, with one line that names the variable and shows no secret.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::bridge::MASTER_KEY;
use crate::support::{World, database};

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_presence-bridge"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(variables.iter().copied())
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap()
}

#[test]
fn each_wrong_variable_is_named_in_one_line_within_a_second() {
    let source = [
        ("GENESYS_REGION", "mypurecloud.de"),
        ("GENESYS_CLIENT_ID", "id"),
        ("GENESYS_CLIENT_SECRET", "CANARY"),
        ("GENESYS_AGENTS", "ann"),
    ];
    let realtime = ("GENESYS_PROTOCOL", "realtime");
    let cases: &[(&str, &str)] = &[
        ("BRIDGE_LISTEN", "everywhere"),
        ("BRIDGE_API_KEY", "CANARY"),
        ("BRIDGE_MASTER_KEY", "CANARY"),
        ("BRIDGE_ALLOW_TARGETS", "10.0.0.0/33"),
        ("BRIDGE_TRUSTED_PROXIES", "the one in front"),
        ("BRIDGE_API_RATE", "10 a second"),
        ("BRIDGE_RETENTION_DAYS", "for ever"),
        ("BRIDGE_LOG", "presence_bridge=louder"),
        ("BRIDGE_LISTEM", "127.0.0.1:8080"),
        ("GENESYS_AGENT", "ann"),
        ("GENESYS_PROTOCOL", "telepathy"),
        ("GENESYS_REGION", "not a domain"),
        ("GENESYS_API_URL", "ftp://x"),
        ("GENESYS_REGION", "mypurecloud.example"),
        ("GENESYS_AGENTS", "a.b"),
        ("GENESYS_ALL_USERS", "perhaps"),
        ("GENESYS_QUEUES", "a b"),
        ("GENESYS_TOPICS", "activity,presence"),
        ("GENESYS_STALE_AFTER_SECONDS", "1"),
        ("GENESYS_ROSTER_INTERVAL_SECONDS", "often"),
        ("GENESYS_TOPICS", "routing:agent:mood"),
        ("GENESYS_TOPICS", "{\"a\":"),
        ("GENESYS_HEARTBEAT_INTERVAL_MS", "0"),
        ("DATABASE_URL", "mysql://CANARY"),
    ];
    let of_realtime: &[(&str, &str)] = &[
        ("GENESYS_AGENTS", "1,2,3,4,5,6,7,8,9,10,11"),
        ("GENESYS_ALL_USERS", "true"),
        ("GENESYS_TOPICS", "routing:agent:mood"),
    ];
    let cases =
        cases.iter().map(|case| (case, None)).chain(of_realtime.iter().map(|case| (case, Some(realtime))));
    for ((name, value), protocol) in cases {
        let mut variables: Vec<_> = source.iter().filter(|(other, _)| other != name).copied().collect();
        variables.extend(protocol);
        variables.extend([
            ("DATABASE_URL", "postgres://x:CANARY@127.0.0.1:1/x"),
            ("BRIDGE_MASTER_KEY", MASTER_KEY),
        ]);
        variables.retain(|(other, _)| other != name);
        variables.push((name, value));
        let start = Instant::now();
        let output = run(&[], &variables);
        assert!(start.elapsed() < Duration::from_secs(5), "{name}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {said}");
        assert_eq!(said.lines().count(), 1, "{name}={value}: {said}");
        assert!(said.starts_with(&format!("presence-bridge: {name}: ")), "{name}={value}: {said}");
        assert!(!said.contains("CANARY"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_master_key_refuses_to_start_on_sealed_secrets() {
    let world = World::watching(&["ann"]).await;
    world.register_with("/hooks/a", json!({})).await;
    let other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let variables = [
        ("DATABASE_URL", world.bridge.database_url.as_str()),
        ("BRIDGE_MASTER_KEY", other),
        ("BRIDGE_LISTEN", "127.0.0.1:0"),
        ("BRIDGE_API_KEY", "k".repeat(40).leak() as &str),
    ];
    let output = run(&["serve"], &variables);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.lines().any(|line| line.starts_with("presence-bridge: BRIDGE_MASTER_KEY: ")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_brings_an_empty_database_up_to_date_and_may_be_repeated() {
    let url = database::create_bare().await;
    let variables = [("DATABASE_URL", url.as_str()), ("BRIDGE_MASTER_KEY", MASTER_KEY)];
    for round in 1..=2 {
        let output = run(&["migrate"], &variables);
        assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let pool = database::pool(&url).await;
    let tables: i64 = sqlx::query_scalar(
        "select count(*) from pg_tables where tablename in ('event', 'delivery', 'audit_log')",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(tables, 3);
}

#[test]
fn check_config_shows_what_holds_and_masks_secrets() {
    let variables =
        [("BRIDGE_API_KEY", "CANARY-CANARY-CANARY-CANARY-CANARY"), ("BRIDGE_LISTEN", "127.0.0.1:9")];
    let output = run(&["check-config"], &variables);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success());
    assert!(
        said.contains("BRIDGE_LISTEN = 127.0.0.1:9") && said.contains("BRIDGE_API_KEY = (secret)"),
        "{said}"
    );
    assert!(!said.contains("CANARY"));
}

#[test]
fn every_variable_of_compose_and_the_example_exists_and_every_one_is_documented() {
    let help = String::from_utf8_lossy(&run(&["--help"], &[]).stdout).into_owned();
    let known = |name: &str| help.split_whitespace().any(|word| word == name);
    let files = [
        ("docker-compose.yml", include_str!("../../docker-compose.yml")),
        (".env.example", include_str!("../../.env.example")),
        ("docs/configuration.md", include_str!("../../docs/configuration.md")),
    ];
    let name = |word: &&str| (word.starts_with("BRIDGE_") || word.starts_with("GENESYS_")) && word.len() > 8;
    for (file, text) in files {
        let words: Vec<&str> =
            text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(name).collect();
        for word in &words {
            // BRIDGE_URL belongs to the demo's register program.
            let bare = word.trim_end_matches("_FILE");
            assert!(known(bare) || *word == "BRIDGE_URL" || word.ends_with('_'), "{file} names {word}");
        }
        for variable in help.split_whitespace().filter(name) {
            let variable = variable.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            assert!(words.contains(&variable) || variable.ends_with('_'), "{file} does not name {variable}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_tells_by_its_exit_code() {
    let world = World::watching(&["ann"]).await;
    let listen = world.bridge.url.trim_start_matches("http://").to_owned();
    // As a container runs it: without the key that its start script made.
    let ready =
        run(&["healthcheck"], &[("BRIDGE_LISTEN", &listen), ("DATABASE_URL", "postgres://db/bridge")]);
    assert!(ready.status.success(), "{}", String::from_utf8_lossy(&ready.stderr));
    drop(world);
    assert_eq!(run(&["healthcheck"], &[("BRIDGE_LISTEN", &listen)]).status.code(), Some(1));
}
