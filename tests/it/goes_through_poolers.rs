//! PgBouncer may stand between the bridge and its database in session mode; in transaction mode it is
//! refused in one sentence.

use nix::unistd::{User, geteuid};

use crate::support::bridge::{complaint, migrate};
use crate::support::neighbour::Neighbour;
use crate::support::{SOON, World, database};

/// A running PgBouncer.
struct Pooler {
    program: Neighbour,
    name: String,
}

impl Pooler {
    /// One in front of the database of a URL; `None` where PgBouncer cannot be had.
    async fn before(database_url: &str, settings: &str) -> Option<Self> {
        let socket = database::socket_dir(database_url);
        let program = Neighbour::start("pgbouncer", |command, dir, port| {
            let file = dir.join("pgbouncer.ini");
            let text = format!(
                "[databases]\n* = host={} port=5432 user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}\n",
                socket.display()
            );
            std::fs::write(&file, text).unwrap();
            if geteuid().is_root() {
                let known = |name: &&str| User::from_name(name).is_ok_and(|user| user.is_some());
                command.args(["-u", ["postgres", "nobody"].into_iter().find(known).unwrap()]);
            }
            command.arg(file);
        })
        .await?;
        Some(Self { program, name: database::name_of(database_url) })
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", self.program.port, self.name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_session_mode_everything_works_and_our_timeouts_hold() {
    let direct = database::create().await;
    let Some(pooler) = Pooler::before(&direct, "pool_mode = session").await else { return };
    let admin = database::pool(&direct).await;
    // Each row that a session writes notes how that session is set up.
    for statement in [
        "create table noted (of text, statement_timeout text, lock_timeout text, idle text, plans text)",
        "create function note() returns trigger language plpgsql security definer as $$ begin insert into noted values \
         (tg_argv[0], current_setting('statement_timeout'), current_setting('lock_timeout'), \
          current_setting('idle_in_transaction_session_timeout'), current_setting('plan_cache_mode')); \
         return new; end $$",
        "create trigger noted after insert on event for each row execute function note('pipeline')",
        "create trigger noted after insert on webhook for each row execute function note('api')",
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&admin).await.unwrap();
    }
    let world = World::with_options(&["ann"], Default::default(), &[("DATABASE_URL", &pooler.url())]).await;
    world.register("/hooks/a").await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
    let noted: Vec<(String, String, String, String, String)> =
        sqlx::query_as("select distinct * from noted order by 1").fetch_all(&admin).await.unwrap();
    let set = |of: &str, plans: &str| {
        (of.to_owned(), "5s".to_owned(), "5s".to_owned(), "10s".to_owned(), plans.to_owned())
    };
    assert_eq!(noted, [set("api", "auto"), set("pipeline", "force_generic_plan")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_session_mode_a_killed_bridge_leaves_nothing_that_keeps_the_next_one_out() {
    let direct = database::create().await;
    let Some(pooler) = Pooler::before(&direct, "pool_mode = session").await else { return };
    let mut world =
        World::with_options(&["ann"], Default::default(), &[("DATABASE_URL", &pooler.url())]).await;
    world.register("/hooks/a").await;
    world.bridge.kill_and_restart().await;
    world.sockets_open(1).await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.crm.wait_for(1, SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_modes_are_refused_at_once_whichever_session_the_pooler_hands_out() {
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nserver_round_robin = 1",
        "pool_mode = statement",
    ] {
        let Some(pooler) = Pooler::before(&database::create_bare().await, settings).await else { return };
        let (code, said) = migrate(&pooler.url());
        assert_eq!(code, Some(2), "{settings}: {said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("presence-bridge: DATABASE_URL: "), "{settings}: {said}");
        assert!(last.contains("pooler in transaction or statement mode"), "{settings}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_lets_nobody_in_is_told_at_once_though_its_code_says_nothing() {
    let direct = database::create_bare().await;
    let settings = "pool_mode = session\nauth_type = md5\nauth_file = /nonexistent";
    let Some(pooler) = Pooler::before(&direct, settings).await else { return };
    let (code, said) = migrate(&pooler.url().replace("postgres@", "postgres:wrong@"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("DATABASE_URL: the database refuses: password authentication failed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_with_too_few_connections_to_the_server_is_named() {
    let direct = database::create_bare().await;
    let settings = "pool_mode = session\ndefault_pool_size = 7";
    let Some(pooler) = Pooler::before(&direct, settings).await else { return };
    let url = pooler.url();
    let said = tokio::task::spawn_blocking(move || complaint(&url, "does not answer yet")).await.unwrap();
    assert!(said.contains("a pooler in between may have too few connections"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_refuses_is_told_in_its_own_words_until_it_takes_us() {
    let direct = database::create_bare().await;
    let settings = "pool_mode = session\nmax_client_conn = 3";
    let Some(pooler) = Pooler::before(&direct, settings).await else { return };
    let url = pooler.url();
    let said = tokio::task::spawn_blocking(move || complaint(&url, "does not answer yet")).await.unwrap();
    assert!(said.contains("no more connections allowed"), "{said}");
}
