//! A synchronous standby is away for longer than the bridge waits for anything: every commit of that time is
//! given up, and happens. Nothing is stranded, lost or told twice.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::crm::Post;
use genesys_simulator::crm::check::repeats;
use genesys_simulator::genesys::{GenesysOptions, Target};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::cloud::{self, CloudWorld};
use crate::support::look::{assert_sequences_have_no_holes, feed};
use crate::support::{SOON, World, database, eventually};

/// A server of its own whose commits wait, when it is told so, for a standby that never comes: each is in the
/// log already, and is seen by nobody.
struct Standby {
    pool: PgPool,
    url: String,
    /// Stops the server when its input ends.
    server: Child,
}

impl Standby {
    async fn prepare() -> Self {
        // The embedded server of the bridge has no place for a standby.
        let script =
            "source scripts/postgres.sh && throwaway_start && echo \"$throwaway_url\" && cat; throwaway_stop";
        let mut server = Command::new("bash")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut url = String::new();
        tokio::task::block_in_place(|| {
            BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut url).unwrap()
        });
        let url = url.trim().to_owned();
        let pool = database::pool(&url).await;
        Self { pool, url, server }
    }

    async fn wait_for(&self, standby: &str) {
        for statement in [
            format!("alter system set synchronous_standby_names = '{standby}'"),
            "select pg_reload_conf()".into(),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&self.pool).await.unwrap();
        }
    }

    /// Longer than any step of the bridge waits, and than a dispatcher may go without a sign of life.
    async fn is_unreachable_for_long(&self, meanwhile: impl AsyncFnOnce()) {
        self.wait_for("ghost").await;
        eventually("commits wait", || async {
            let waiting: i64 =
                sqlx::query_scalar("select count(*) from pg_stat_activity where wait_event = 'SyncRep'")
                    .fetch_one(&self.pool)
                    .await
                    .unwrap();
            (waiting > 0).then_some(())
        })
        .await;
        meanwhile().await;
        tokio::time::sleep(Duration::from_millis(7500)).await;
        self.wait_for("").await;
    }

    async fn nothing_is_pending(&self) {
        eventually("nothing is pending any more", || async {
            let open: i64 =
                sqlx::query_scalar("select count(*) from delivery").fetch_one(&self.pool).await.unwrap();
            (open == 0).then_some(())
        })
        .await;
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_standby_is_unreachable_nothing_is_stranded_in_protocol_realtime() {
    let standby = Standby::prepare().await;
    let world =
        World::with_options(&["ann", "bob"], GenesysOptions::default(), &[("DATABASE_URL", &standby.url)])
            .await;
    world.register_with("/hooks/a", json!({"events": ["presence.updated", "presence.gap"]})).await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.genesys.set_presence("bob", "BUSY").await;
    world.crm.wait_for(2, SOON).await.unwrap();
    standby.nothing_is_pending().await;

    // A gap opens before; its end, a change, and a snapshot are written in the stall.
    standby
        .is_unreachable_for_long(async || {
            world.genesys.push_presence("ann", "AWAY");
            world.genesys.drop_sockets(Target::Agent("bob".to_owned()));
            let mut asks = standby.pool.acquire().await.unwrap();
            for ask in [
                "set synchronous_commit = local",
                "update webhook set snapshot_next = 0",
                "reset synchronous_commit",
            ] {
                sqlx::query(ask).execute(&mut *asks).await.unwrap();
            }
        })
        .await;
    world.sockets_open(2).await;
    for status in ["MEAL", "BUSY"] {
        world.genesys.push_presence("ann", status);
        world.genesys.push_presence("bob", status);
    }

    let kinds = |posts: &[Arc<Post>], kind: &str| {
        posts.iter().filter(|post| post.kind().as_deref() == Some(kind)).count()
    };
    world.crm.wait_until(|posts| kinds(posts, "presence.updated") == 7, SOON).await.unwrap();
    standby.nothing_is_pending().await;
    let posts = world.crm.posts();
    assert_eq!((kinds(&posts, "presence.updated"), repeats(&posts)), (7, 0), "each once");
    assert!(kinds(&posts, "presence.gap") >= 1 && kinds(&posts, "presence.snapshot") >= 2, "{posts:#?}");
    assert_sequences_have_no_holes(
        &feed(&world.bridge)
            .await
            .into_iter()
            .filter(|e| e["type"] == "presence.updated")
            .collect::<Vec<_>>(),
    );
    assert_eq!(world.audit("FRAME_REJECTED").await, Vec::<Value>::new(), "all of it is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_standby_is_unreachable_nothing_is_stranded_in_protocol_notifications() {
    let standby = Standby::prepare().await;
    let variables = [("GENESYS_AGENTS", "ann,bob"), ("DATABASE_URL", standby.url.as_str())];
    let world = CloudWorld::starting(cloud::options(&["ann", "bob"]), &variables).await;
    world.sees(2).await;
    world.register("/hooks/a", json!({})).await;
    standby
        .is_unreachable_for_long(async || {
            world.cloud.push_presence("ann", "AWAY");
        })
        .await;
    for status in ["MEAL", "BUSY"] {
        world.cloud.push_presence("ann", status);
        world.cloud.push_presence("bob", status);
    }
    world.crm.wait_for(5, SOON).await.unwrap();
    standby.nothing_is_pending().await;
    let posts = world.crm.posts();
    assert_eq!((posts.len(), repeats(&posts)), (5, 0));
    assert_eq!(world.audit("FRAME_REJECTED").await, Vec::<Value>::new(), "all of it is stored");
}
