//! One tenant cannot see, change or detect what another one has.

use std::collections::BTreeSet;

use genesys_simulator::crm::Secret;
use genesys_simulator::genesys::{Genesys, GenesysOptions};
use presence_bridge::api::ROUTES;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::bridge::API_KEY;
use crate::support::client::Answer;
use crate::support::follower::Follower;
use crate::support::{World, database, eventually};

const OTHER_KEY: &str = "key-of-another-tenant-0123456789-abcdef";

/// Two tenants with a source, agents, webhooks, deliveries and all that comes of them.
struct Two {
    world: World,
    other_genesys: Genesys,
    other_tenant: Uuid,
    pool: PgPool,
}

impl Two {
    async fn start() -> Self {
        // A long walk asks more often than a key may.
        let rate = [("BRIDGE_API_RATE", "off")];
        let world = World::with_options(&["ann", "bob"], GenesysOptions::default(), &rate).await;
        let pool = database::pool(&world.bridge.database_url).await;
        let other_tenant = Uuid::now_v7();
        sqlx::query("insert into tenant (tenant_id, name) values ($1, 'other')")
            .bind(other_tenant)
            .execute(&pool)
            .await
            .unwrap();
        sqlx::query(
            "insert into api_key (api_key_id, tenant_id, name, key_hash, scopes)
             values ($1, $2, 'theirs', $3, '{read,webhooks,sources,audit,admin}')",
        )
        .bind(Uuid::now_v7())
        .bind(other_tenant)
        .bind(&Sha256::digest(OTHER_KEY)[..])
        .execute(&pool)
        .await
        .unwrap();
        let other_genesys = Genesys::start(GenesysOptions::default()).await.unwrap();
        let two = Self { world, other_genesys, other_tenant, pool };
        two.fill().await;
        two
    }

    /// Lets a tenant's key ask for something.
    async fn ask(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let key = format!("Bearer {key}");
        let mut headers = vec![("authorization", key.as_str())];
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let body = body.map(|body| body.to_string().into_bytes());
        self.world.bridge.send_raw(method, path, &headers, body).await
    }

    async fn items(&self, key: &str, path: &str) -> Vec<Value> {
        self.ask(key, "GET", path, None).await.json()["items"].as_array().cloned().unwrap_or_default()
    }

    async fn fill(&self) {
        // An agent with the id of one of the first tenant's: each has its own.
        let source = json!({
            "name": "theirs", "protocol": "realtime", "api_url": self.other_genesys.api_url(),
            "client_id": "sim-client", "client_secret": "sim-secret", "agents": ["ann", "eve"],
            "topic_matrix": {"state": ["routing:agent:state"]},
        });
        let made = self.ask(OTHER_KEY, "POST", "/v1/sources", Some(source)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        self.other_genesys.wait_until(|seen| seen.connected() == 2, crate::support::SOON).await.unwrap();
        for (key, path) in [(API_KEY, "/first"), (OTHER_KEY, "/other")] {
            let body = json!({
                "url": self.world.crm.url(path),
                "events": ["presence.updated", "presence.gap", "webhook.failing", "source.stale"],
            });
            let made = self.ask(key, "POST", "/v1/webhooks", Some(body)).await;
            assert_eq!(made.status, 201, "{}", made.text());
            let made = made.json();
            self.world
                .crm
                .set_secrets_of(path, vec![Secret::parse(made["secret"].as_str().unwrap()).unwrap()]);
            let test = format!("/v1/webhooks/{}/test", made["id"].as_str().unwrap());
            assert_eq!(self.ask(key, "POST", &test, None).await.status, 202);
            let named = json!({"external_id": format!("crm{path}")});
            assert_eq!(self.ask(key, "PATCH", "/v1/agents/ann", Some(named)).await.status, 200);
        }
        self.world.genesys.set_presence("ann", "AVAILABLE").await;
        self.other_genesys.set_presence("ann", "BUSY").await;
        self.other_genesys.set_presence("eve", "MEAL").await;
        eventually("each got its own", || async {
            let (ours, theirs) =
                (self.items(API_KEY, "/v1/events").await, self.items(OTHER_KEY, "/v1/events").await);
            let all = self.items(OTHER_KEY, "/v1/audit?kind=DELIVERY_ATTEMPT").await.len() == 3;
            (ours.len() == 1 && theirs.len() == 2 && all).then_some(())
        })
        .await;
        for key in [API_KEY, OTHER_KEY] {
            assert_eq!(self.recover(key, true).await, 0, "nothing failed");
        }
    }

    /// Has a tenant's one webhook get again what it missed; says how many deliveries that were.
    async fn recover(&self, key: &str, only_failed: bool) -> u64 {
        let hook = self.items(key, "/v1/webhooks").await[0]["id"].as_str().unwrap().to_owned();
        let body = json!({"since": "2026-01-01T00:00:00Z", "only_failed": only_failed});
        let asked = self.ask(key, "POST", &format!("/v1/webhooks/{hook}/recover"), Some(body)).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
        let path = format!("/v1/recoveries/{}", asked.json()["id"].as_str().unwrap());
        eventually("the recovery is done", || async {
            let recovery = self.ask(key, "GET", &path, None).await.json();
            (recovery["state"] == "done").then(|| recovery["recovered"].as_u64().unwrap())
        })
        .await
    }

    /// Every id that a tenant's lists show.
    async fn ids_of(&self, key: &str) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for list in LISTS {
            for item in self.items(key, list).await {
                for name in ["id", "event_id", "webhook_id", "delivery_id", "source_id", "connection_id"] {
                    let id = match &item[name] {
                        Value::String(id) => id.clone(),
                        Value::Number(number) => number.to_string(),
                        _ => continue,
                    };
                    ids.insert(id);
                }
            }
        }
        // Both watch an agent of this name, and may know it.
        ids.remove("ann");
        ids
    }
}

const LISTS: [&str; 10] = [
    "/v1/webhooks",
    "/v1/sources",
    "/v1/connections",
    "/v1/agents",
    "/v1/events",
    "/v1/deliveries",
    "/v1/recoveries",
    "/v1/erasures",
    "/v1/audit?limit=200",
    "/v1/gaps",
];

#[tokio::test(flavor = "multi_thread")]
async fn who_tries_all_that_failed_again_tries_ones_own_alone() {
    let two = Two::start().await;
    sqlx::query("update webhook set state = 'paused'").execute(&two.pool).await.unwrap();
    let failed = "insert into audit_log (at, kind, webhook_id, event_id, delivery_id, agent_id, end_state)
                  select now(), 'DELIVERY_ENDED', webhook_id, event_id, delivery_id, agent_id, 'dead'
                  from audit_log
                  where end_state = 'delivered'";
    let failed = sqlx::query(failed).execute(&two.pool).await.unwrap().rows_affected();
    let path = "/v1/deliveries/retry";
    let counted = two.ask(API_KEY, "POST", path, Some(json!({"dry_run": true}))).await.json();
    let asked = two.ask(OTHER_KEY, "POST", path, Some(json!({}))).await.json();
    assert_eq!(counted["deliveries"].as_u64().unwrap() + asked["deliveries"].as_u64().unwrap(), failed);
    let theirs = &asked["webhooks"][0];
    let recovery = format!("/v1/recoveries/{}", theirs["recovery"]["id"].as_str().unwrap());
    eventually("theirs is done", || async {
        let recovery = two.ask(OTHER_KEY, "GET", &recovery, None).await.json();
        (recovery["state"] == "done").then(|| assert_eq!(recovery["recovered"], theirs["deliveries"]))
    })
    .await;
    assert_eq!(two.ask(API_KEY, "GET", &recovery, None).await.status, 404);
    let open = |key| two.items(key, "/v1/deliveries?state=open");
    assert_eq!(open(OTHER_KEY).await.len() as u64, theirs["deliveries"].as_u64().unwrap());
    assert!(open(API_KEY).await.is_empty());
    let hook = theirs["webhook_id"].clone();
    let of_another = two.ask(API_KEY, "POST", path, Some(json!({"webhook": hook, "dry_run": true}))).await;
    assert_eq!(of_another.json()["webhooks"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_feed_is_told_of_ones_own_agents_alone() {
    let two = Two::start().await;
    let bridge = &two.world.bridge;
    let follow = "/v1/events?follow=true&since=2026-01-01T00:00:00Z";
    let mut ours = Follower::open(bridge, API_KEY, follow, None).await;
    let mut theirs = Follower::open(bridge, OTHER_KEY, follow, None).await;
    let stored = two.items(OTHER_KEY, "/v1/events").await;
    assert_eq!(ours.event().await["agent"]["id"], "ann");
    assert_eq!([theirs.event().await, theirs.event().await], stored[..]);
    two.world.genesys.set_presence("bob", "AWAY").await;
    assert_eq!(ours.event().await["agent"]["id"], "bob");
    two.other_genesys.set_presence("eve", "AWAY").await;
    assert_eq!(theirs.event().await["agent"]["id"], "eve");
    two.world.genesys.set_presence("bob", "MEAL").await;
    assert_eq!(ours.event().await["agent"]["id"], "bob");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_sent_and_shown_its_own_and_nothing_else() {
    let two = Two::start().await;
    let (ours, theirs) = (two.ids_of(API_KEY).await, two.ids_of(OTHER_KEY).await);
    assert!(ours.len() > 20 && theirs.len() > 20, "{} and {}", ours.len(), theirs.len());
    assert_eq!(ours.intersection(&theirs).collect::<Vec<_>>(), Vec::<&String>::new());
    let told = |path: &str| {
        let posts = two.world.crm.posts();
        let of = posts.iter().filter(|post| post.target == path);
        of.map(|post| {
            let body: Value = serde_json::from_slice(&post.body).unwrap();
            let agent = &body["data"]["agent"];
            format!("{} {} {}", body["type"], agent["id"], agent["external_id"])
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(told("/first").len(), 2, "{:?}", told("/first"));
    assert_eq!(told("/other").len(), 3, "{:?}", told("/other"));
    assert!(told("/first").iter().all(|post| !post.contains("eve") && !post.contains("other")));
    // The other one's whole life is in its own log: what is told of its source and its webhook is nowhere
    // else.
    let outsiders: i64 = sqlx::query_scalar(
        "select count(*)
         from audit_log l
         left join source s on s.source_id = l.source_id
         left join webhook w on w.webhook_id = l.webhook_id
         where s.tenant_id <> w.tenant_id or (l.tenant_id <> coalesce(s.tenant_id, w.tenant_id))",
    )
    .fetch_one(&two.pool)
    .await
    .unwrap();
    assert_eq!(outsiders, 0);
    // The bridge does the work, which sees all tenants' events.
    assert_eq!([two.recover(API_KEY, false).await, two.recover(OTHER_KEY, false).await], [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_leaves_the_same_agent_of_another_tenant_as_it_was() {
    let two = Two::start().await;
    let theirs = async || {
        let mut agents = two.items(OTHER_KEY, "/v1/agents").await;
        // The proof that its socket lives moves on by itself.
        agents.iter_mut().for_each(|agent| agent["proven_at"] = Value::Null);
        agents.extend(two.items(OTHER_KEY, "/v1/events").await);
        agents.extend(two.items(OTHER_KEY, "/v1/audit?agent=ann&limit=200").await);
        agents
    };
    let before = theirs().await;
    let asked = two.ask(API_KEY, "DELETE", "/v1/agents/ann/data?watch=true", None).await;
    assert_eq!(asked.status, 202, "{}", asked.text());
    let path = format!("/v1/erasures/{}", asked.json()["id"].as_str().unwrap());
    assert_eq!(two.ask(OTHER_KEY, "GET", &path, None).await.status, 404);
    assert_eq!(two.items(OTHER_KEY, "/v1/erasures").await, Vec::<Value>::new());
    let done = eventually("the erasure is done", || async {
        let now = two.ask(API_KEY, "GET", &path, None).await.json();
        (now["state"] == "done").then_some(now)
    })
    .await;
    assert_eq!(done["events"], 1);
    assert_eq!(theirs().await, before);
    assert!(before.iter().any(|row| row["external_id"] == "crm/other"), "there is something to lose");
    let source = two.items(API_KEY, "/v1/sources").await[0]["id"].as_str().unwrap().to_owned();
    let foreign = format!("/v1/agents/ann/data?watch=false&source={source}");
    assert_eq!(two.ask(OTHER_KEY, "DELETE", &foreign, None).await.status, 404);
}

/// Steps of the walk; `PRESENCE_BRIDGE_WALK` makes it longer.
fn steps() -> usize {
    std::env::var("PRESENCE_BRIDGE_WALK").ok().and_then(|text| text.parse().ok()).unwrap_or(600)
}

/// An answer as far as it could tell something: status, headers and body without what differs in every
/// answer.
fn shape(answer: &Answer, id: &str) -> (u16, Vec<String>, String) {
    let changing = ["date", "x-request-id", "ratelimit", "ratelimit-policy", "content-length"];
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !changing.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
        .collect();
    headers.sort();
    let mut text = answer.text().replace(id, "<id>");
    if let Ok(Value::Object(mut body)) = serde_json::from_str(&text) {
        body.remove("request_id");
        text = Value::Object(body).to_string();
    }
    (answer.status, headers, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_ids_answer_like_ids_that_nobody_has() {
    let two = Two::start().await;
    let ids = [two.ids_of(API_KEY).await, two.ids_of(OTHER_KEY).await]
        .map(|ids| ids.into_iter().filter(|id| id.parse::<Uuid>().is_ok()).collect::<Vec<_>>());
    let keys = [API_KEY, OTHER_KEY];
    let before = count(&two.pool).await;
    let mut chance = StdRng::seed_from_u64(7);
    // Each call of these begins something else, and names nothing.
    let new_each_time = ["/v1/console/login-links", "/v1/audit/verifications", "/v1/sources/examinations"];
    let is_of_ids = |path: &str| path.starts_with("/v1/") && !new_each_time.contains(&path);
    let routes: Vec<_> = ROUTES.iter().filter(|route| is_of_ids(route.path)).collect();
    for _ in 0..steps() {
        let asks = usize::from(chance.random_bool(0.5));
        let id = ids[1 - asks].choose(&mut chance).unwrap();
        let unknown = Uuid::now_v7().to_string();
        let route = routes.choose(&mut chance).unwrap();
        let filter =
            ["webhook", "source", "event", "delivery", "connection", "agent"].choose(&mut chance).unwrap();
        let at = |id: &str| {
            if route.path.contains("{id}") {
                route.path.replace("{id}", id)
            } else if route.path == "/v1/explain" {
                format!("/v1/explain?event={id}&webhook={id}")
            } else {
                format!("{}?{filter}={id}", route.path)
            }
        };
        let body = |id: &str| match (route.method, route.path) {
            ("GET" | "DELETE", _) => None,
            (_, "/v1/webhooks" | "/v1/webhooks/{id}") => {
                Some(json!({"url": "https://crm.example", "sources": [id]}))
            }
            (_, path) if path.ends_with("/recover") => Some(json!({"since": "2026-01-01T00:00:00Z"})),
            (_, "/v1/agents/{id}") => Some(json!({"external_id": "x", "source_id": id})),
            (_, "/v1/agents/external-ids") => Some(json!({"source_id": id, "items": []})),
            ("PATCH", _) => Some(json!({"description": "x"})),
            _ => None,
        };
        let theirs = two.ask(keys[asks], route.method, &at(id), body(id)).await;
        let nobodys = two.ask(keys[asks], route.method, &at(&unknown), body(&unknown)).await;
        assert_eq!(shape(&theirs, id), shape(&nobodys, &unknown), "{} {}", route.method, at(id));
    }
    assert_eq!(count(&two.pool).await, before, "what is there afterwards");
}

/// What the walk could have changed or removed, of both tenants.
async fn count(pool: &PgPool) -> Vec<(String, i64)> {
    sqlx::query_as(
        "select 'webhooks', sum(version)::bigint from webhook where deleted_at is null
         union all select 'sources', sum(version)::bigint from source where deleted_at is null
         union all select 'connections', count(*) from connection where desired = 'open'
         union all select 'ids', count(*) from agent_external_id",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_shows_a_tenant_nothing_else() {
    let two = Two::start().await;
    let tables = [
        "source",
        "source_health",
        "connection",
        "connection_agent",
        "agent",
        "agent_external_id",
        "webhook",
        "webhook_secret",
        "webhook_health",
        "delivery",
        "recovery",
        "gap",
        "idempotency",
        "event",
        "audit_log",
        "tenant",
    ];
    let mut nobody = two.pool.begin().await.unwrap();
    sqlx::query("set local role presence_bridge_tenant").execute(&mut *nobody).await.unwrap();
    for table in tables {
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table}")))
            .fetch_one(&mut *nobody)
            .await
            .unwrap();
        assert_eq!(rows, 0, "{table} is shown to whoever says no tenant");
    }
    nobody.rollback().await.unwrap();
    let refused = [
        "update audit_log set kind = 'X'",
        "delete from audit_log",
        "truncate audit_log",
        "select * from api_key",
        "insert into webhook (webhook_id, url, tenant_id) values (gen_random_uuid(), 'x',
             '00000000-0000-0000-0000-000000000001')",
        "insert into audit_log (at, kind, source_id) select now(), 'X', source_id from taken",
        "update source set tenant_id = '00000000-0000-0000-0000-000000000001'",
    ];
    for statement in refused {
        let mut tx = two.pool.begin().await.unwrap();
        sqlx::query(
            "create temporary table taken on commit drop as
                     select source_id from source where tenant_id = '00000000-0000-0000-0000-000000000001'",
        )
        .execute(&mut *tx)
        .await
        .unwrap();
        sqlx::query("grant select on taken to presence_bridge_tenant").execute(&mut *tx).await.unwrap();
        let tenant = two.other_tenant;
        let begin = format!("set local role presence_bridge_tenant; set local bridge.tenant = '{tenant}'");
        sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut *tx).await.unwrap();
        let answer = sqlx::query(statement).execute(&mut *tx).await;
        let code =
            answer.err().and_then(|error| error.as_database_error()?.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}");
    }
}
