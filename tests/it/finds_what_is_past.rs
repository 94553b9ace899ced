//! Lists by time and from their new end, and explanations for who knows an agent and a time, but no id.

use std::cell::Cell;
use std::time::Duration;

use genesys_simulator::clock::parse_rfc3339;
use serde_json::Value;
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;

use crate::support::look::all;
use crate::support::{World, database, eventually};

fn texts(items: &[Value], field: &str) -> Vec<String> {
    items.iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

async fn items(world: &World, path: &str) -> Vec<Value> {
    let answer = world.bridge.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()["items"].as_array().unwrap().clone()
}

/// Four changes of ann, one after the other; gives them, oldest first.
async fn changed(world: &World) -> Vec<Value> {
    for (done, presence) in ["AVAILABLE", "BUSY", "AWAY", "MEAL"].into_iter().enumerate() {
        world.genesys.set_presence("ann", presence).await;
        world.audit_of("EVENT_RECEIVED", done + 1).await;
    }
    items(world, "/v1/events").await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_from_their_new_end_and_between_two_times() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    let events = changed(&world).await;
    let (ids, stored) = (texts(&events, "event_id"), texts(&events, "committed_at"));
    let newest: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(texts(&items(&world, "/v1/events?order=newest").await, "event_id"), newest);
    assert_eq!(texts(&all(&world.bridge, "/v1/events?order=newest&agent=ann").await, "event_id"), newest);
    let first = world.bridge.get("/v1/events?order=newest&limit=3").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = world.bridge.get(&format!("/v1/events?order=newest&limit=3&cursor={cursor}")).await.json();
    assert_eq!(texts(second["items"].as_array().unwrap(), "event_id"), newest[3..]);
    assert!(second["next_cursor"].is_null(), "{second}");
    let other = world.bridge.get(&format!("/v1/events?cursor={cursor}")).await;
    assert_eq!(other.status, 400, "a cursor belongs to its order");
    let between = format!("since={}&until={}", stored[1], stored[3]);
    assert_eq!(texts(&items(&world, &format!("/v1/events?{between}")).await, "event_id"), ids[1..3]);
    let found = items(&world, &format!("/v1/events?order=newest&{between}")).await;
    assert_eq!(texts(&found, "event_id"), newest[1..3]);
    assert!(items(&world, "/v1/events?since=2100-01-01T00:00:00Z").await.is_empty());
    assert_eq!(world.bridge.get("/v1/events?order=latest").await.status, 400);

    let since = &texts(&events, "received_at")[0];
    let path = format!("/v1/deliveries?since={since}&until=2100-01-01T00:00:00Z");
    eventually("each has its delivery", || async { (items(&world, &path).await.len() == 4).then_some(()) })
        .await;
    for none in ["since=2100-01-01T00:00:00Z", "until=2000-01-01T00:00:00Z"] {
        assert!(items(&world, &format!("/v1/deliveries?{none}")).await.is_empty(), "{none}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_needs_no_event_but_an_agent_and_a_time() {
    let world = World::watching(&["ann"]).await;
    let hook = world.register("/hooks/a").await;
    let events = changed(&world).await;
    let (ids, arrived) = (texts(&events, "event_id"), texts(&events, "received_at"));
    let explained = async |query: &str| {
        let answer = world.bridge.get(&format!("/v1/explain?webhook={hook}&{query}")).await;
        (answer.status, answer.json()["event_id"].as_str().map(str::to_owned))
    };
    let found = |n: usize| (200, Some(ids[n].clone()));
    assert_eq!(explained("agent=ann").await, found(3));
    assert_eq!(explained("agent=ann&at=last").await, found(3));
    assert_eq!(explained(&format!("agent=ann&at={}", arrived[1])).await, found(1));
    assert_eq!(explained("agent=ann&at=2100-01-01T00:00:00Z").await, found(3));
    let external = serde_json::json!({"external_id": "crm-1"});
    assert_eq!(world.bridge.patch("/v1/agents/ann", &external).await.status, 200);
    assert_eq!(explained("agent=crm-1").await, found(3));
    for (query, status) in [
        ("agent=ann&at=2000-01-01T00:00:00Z", 404),
        ("agent=bob", 404),
        ("agent=ann&at=noon", 400),
        ("at=last", 400),
        (&format!("event={}&agent=ann", ids[0]), 400),
        (&format!("event={}&at=last", ids[0]), 400),
    ] {
        assert_eq!(explained(query).await.0, status, "{query}");
    }
}

/// Rows of events that the server has fetched so far, as far as it has been told.
async fn rows_read(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "select sum(coalesce(idx_tup_fetch, 0) + seq_tup_read)::bigint from pg_stat_user_tables where relname like 'event%'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_past_time_does_not_read_what_came_before_or_after() {
    const MANY: i64 = 60_000;
    let world = World::watching(&["ann"]).await;
    let pool = database::pool(&world.bridge.database_url).await;
    let fill = |times: &'static str| {
        let insert = format!(
            "insert into event (event_id, received_at, kind, raw, committed_at)
             select gen_random_uuid(), at, 'webhook.test', '', at
             from (select {times} as at from generate_series(1, {MANY}) n) t"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&pool)
    };
    fill("now() - interval '4 hours' + n * interval '1 millisecond'").await.unwrap();
    world.genesys.set_presence("ann", "AVAILABLE").await;
    world.audit_of("EVENT_RECEIVED", 1).await;
    let event = items(&world, "/v1/events?agent=ann").await[0].clone();
    fill("now() + interval '1 minute' + n * interval '1 millisecond'").await.unwrap();
    sqlx::raw_sql("analyze event").execute(&pool).await.unwrap();
    let at = event["committed_at"].as_str().unwrap();
    let until = (parse_rfc3339(at).unwrap() + Duration::from_millis(1)).format(&Rfc3339).unwrap();
    for order in ["oldest", "newest"] {
        let path = format!("/v1/events?order={order}&since={at}&until={until}");
        let (before, pages) = (rows_read(&pool).await, Cell::new(0));
        // The server tells what it has read at its next turn.
        let read = eventually("the server has told what it read", || {
            pages.set(pages.get() + 1);
            let (world, pool, path, event) = (&world, &pool, &path, &event);
            async move {
                assert_eq!(items(world, path).await, std::slice::from_ref(event));
                Some(rows_read(pool).await - before).filter(|read| *read > 0)
            }
        })
        .await;
        let pages = pages.get();
        assert!(read < pages * 2000, "{read} rows were read for {pages} pages in the order {order}");
    }
    // The only event among what does not pass is found from either end, and the search comes to its end.
    let source = event["source"]["id"].as_str().unwrap();
    for order in ["oldest", "newest"] {
        let path = format!("/v1/events?order={order}&source={source}&limit=1");
        let (mut found, mut next) = (Vec::new(), None::<String>);
        loop {
            let at = next.as_ref().map_or(String::new(), |cursor| format!("&cursor={cursor}"));
            let page = world.bridge.get(&format!("{path}{at}")).await.json();
            let cursor = page["next_cursor"].as_str().map(str::to_owned);
            found.extend(page["items"].as_array().unwrap().clone());
            if cursor.is_none() || cursor == next {
                break;
            }
            next = cursor;
        }
        assert_eq!(found, std::slice::from_ref(&event), "{order}");
    }
}
