//! The bridge's own Postgres dies: it is started again, everything goes on, nothing is lost. And a start that
//! cannot be says so in one line.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::bridge::{API_KEY, MASTER_KEY, UNSET};
use crate::support::look::all;
use crate::support::{Bridge, database, eventually};

fn server_pid(dir: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(dir.join("postgres/postmaster.pid")).ok()?;
    Some(Pid::from_raw(text.lines().next()?.trim().parse().ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_killed_comes_back_with_all_that_it_had() {
    let home = tempfile::Builder::new().prefix("pb-data-").tempdir().unwrap();
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let dir = home.path().join("data");
    let data_dir = dir.to_str().unwrap();
    let bridge = Bridge::start_on("", &[("DATABASE_URL", UNSET), ("BRIDGE_DATA_DIR", data_dir)]).await;
    for (time, path) in ["/a", "/b", "/c"].iter().enumerate() {
        let made = bridge.post("/v1/webhooks", &json!({"url": format!("http://127.0.0.1:9{path}")})).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let killed = server_pid(&dir).unwrap();
        kill(killed, Signal::SIGKILL).unwrap();
        eventually("another server runs", || async { server_pid(&dir).filter(|pid| *pid != killed) }).await;
        eventually("it is ready again", || async {
            (bridge.get("/readyz").await.status == 200).then_some(())
        })
        .await;
        assert_eq!(all(&bridge, "/v1/webhooks").await.len(), time + 1, "nothing is lost");
    }
    assert!(bridge.log().contains("the embedded PostgreSQL died"));
    let restarts = "presence_bridge_actors_restarted_total{reason=\"embedded_postgres\"}";
    assert!(bridge.metric(restarts).await >= 3.0);
    let told = eventually("each restart is written down", || async {
        let told = all(&bridge, "/v1/audit?kind=DATABASE_RESTARTED").await;
        (told.len() >= 3).then_some(told)
    })
    .await;
    assert!(told.iter().all(|entry| entry["level"] == "ERROR"), "{told:?}");
    assert_eq!(told[0]["data"]["ended_with"], "signal: 9 (SIGKILL)");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_told_in_one_line_and_nothing_panics() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = tokio::process::Command::new(env!("CARGO_BIN_EXE_presence-bridge"))
        .env_clear()
        .env("DATABASE_URL", database::create().await)
        .env("BRIDGE_API_KEY", API_KEY)
        .env("BRIDGE_MASTER_KEY", MASTER_KEY)
        .env("BRIDGE_LISTEN", &address)
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said =
        [refused.stdout, refused.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(said.contains(&format!("BRIDGE_LISTEN: {address} cannot be listened on")), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
