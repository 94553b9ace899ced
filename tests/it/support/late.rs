//! A database whose commits can be made to wait.

use genesys_simulator::genesys::GenesysOptions;
use sqlx::{PgPool, Postgres, Transaction};

use super::look::waiting_for_locks;
use super::{World, database, eventually};

/// A database in which the commit of whoever has stored an event can be made to wait, as it waits for a
/// standby or a disk: nobody sees what it wrote, and it holds its locks. No time limit of a statement ends
/// it.
pub struct Late {
    pub pool: PgPool,
    url: String,
}

const STALL: &str = "
    create function stall() returns trigger language plpgsql set lock_timeout = 0 as
        'begin perform pg_advisory_xact_lock_shared(1); return null; end';
    create constraint trigger stall after insert on event deferrable initially deferred
        for each row execute function stall();";

impl Late {
    pub async fn prepare() -> Self {
        let url = database::create().await;
        let pool = database::pool(&url).await;
        sqlx::raw_sql(STALL).execute(&pool).await.unwrap();
        Self { pool, url }
    }

    pub async fn world(&self, agents: &[&str]) -> World {
        World::with_options(agents, GenesysOptions::default(), &[("DATABASE_URL", &self.url)]).await
    }

    /// Commits wait until this is rolled back.
    pub async fn stall(&self) -> Transaction<'static, Postgres> {
        let mut stalled = self.pool.begin().await.unwrap();
        sqlx::query("select pg_advisory_xact_lock(1)").execute(&mut *stalled).await.unwrap();
        stalled
    }

    pub async fn a_commit_waits(&self) {
        eventually("a commit waits", || async { (waiting_for_locks(&self.pool).await > 0).then_some(()) })
            .await;
    }

    pub async fn nothing_is_pending(&self, world: &World) {
        eventually("nothing is pending any more", || async {
            (world.open_deliveries(&self.pool).await == 0).then_some(())
        })
        .await;
    }
}
