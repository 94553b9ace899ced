//! A database that refuses is told in its own words and at once, and one that gives few connections is used
//! with those: the two hot paths get theirs first.

use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::support::bridge::{complaint, migrate};
use crate::support::{SOON, World, database, eventually};

/// A user of its own with a database of its own, and somebody who may change both.
struct Owned {
    user: String,
    url: String,
    admin: PgPool,
}

impl Owned {
    async fn with_limit(limit: i32) -> Self {
        let url = database::create_bare().await;
        let admin = database::pool(&url).await;
        let user = format!("few_{}", Uuid::new_v4().simple());
        // The role of tenants belongs to the whole cluster; the first schema makes it.
        database::create().await;
        let name = database::name_of(&url);
        let owned =
            Self { url: url.replace("postgres://postgres@", &format!("postgres://{user}@")), user, admin };
        owned.say(&format!("create role {} login connection limit {limit}", owned.user)).await;
        owned.say(&format!("grant presence_bridge_tenant to {}", owned.user)).await;
        owned.say(&format!("alter database {name} owner to {}", owned.user)).await;
        owned
    }

    async fn say(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement)).execute(&self.admin).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_eight_connections_is_enough_for_every_change() {
    let owned = Owned::with_limit(8).await;
    let world = World::with_options(&["ann"], Default::default(), &[("DATABASE_URL", &owned.url)]).await;
    world.register("/hooks/a").await;
    for number in 0..10 {
        world.genesys.set_presence("ann", if number % 2 == 0 { "BUSY" } else { "AVAILABLE" }).await;
    }
    world.crm.wait_for(10, SOON).await.unwrap();
    let log = world.bridge.log();
    assert!(log.contains("database allows fewer connections") && !log.contains("pool timed out"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_fewer_is_refused_with_both_numbers() {
    let owned = Owned::with_limit(7).await;
    let (code, said) = migrate(&owned.url);
    assert_eq!(code, Some(2), "{said}");
    let rule = "DATABASE_URL: its user may have 7 connections, and the bridge needs at least 8";
    assert!(said.contains(rule), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_of_the_same_user_took_is_said_in_the_servers_words() {
    let owned = Owned::with_limit(8).await;
    let _other = database::pool(&owned.url).await.acquire().await.unwrap();
    let url = owned.url.clone();
    let said = tokio::task::spawn_blocking(move || complaint(&url, "does not answer yet")).await.unwrap();
    assert!(said.contains("too many connections for role"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_when_it_lets_nobody_in_is_passed_on_at_once() {
    let owned = Owned::with_limit(20).await;
    owned.say(&format!("alter role {} nologin", owned.user)).await;
    let absent = owned.url.replace(&database::name_of(&owned.url), "absent").replace(&owned.user, "postgres");
    for (url, words) in
        [(owned.url.as_str(), "is not permitted to log in"), (&absent, "\"absent\" does not exist")]
    {
        let (code, said) = migrate(url);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("DATABASE_URL: the database refuses: ") && said.contains(words), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_in_the_servers_words_why_no_connection_is_had_any_more() {
    let owned = Owned::with_limit(8).await;
    let world = World::with_options(&["ann"], Default::default(), &[("DATABASE_URL", &owned.url)]).await;
    owned.say(&format!("alter role {} connection limit 0", owned.user)).await;
    owned
        .say(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{}'",
            owned.user
        ))
        .await;
    world.genesys.set_presence("ann", "BUSY").await;
    eventually("/readyz passes the refusal on", || async {
        let answer = world.bridge.get("/readyz").await;
        answer.text().contains("too many connections for role").then_some(())
    })
    .await;
    owned.say(&format!("alter role {} connection limit 8", owned.user)).await;
    eventually("it is ready again", || async {
        (world.bridge.get("/readyz").await.status == 200).then_some(())
    })
    .await;
}
