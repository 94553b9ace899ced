//! Who may call, and what: keys with scopes, of tenants, with an end, so and so often.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::bridge::{API_KEY, Bridge};
use crate::support::client::Answer;
use crate::support::{contract, database, eventually, look};

const SCOPES: [&str; 5] = ["read", "webhooks", "sources", "audit", "admin"];
const NOBODYS: &str = "019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50";

/// Makes a key; gives its id and itself.
async fn key(bridge: &Bridge, fields: Value) -> (String, String) {
    let answer = bridge.post("/v1/api-keys", &fields).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made = answer.json();
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_kept_as_a_hash_and_works_until_it_is_revoked() {
    let bridge = Bridge::start(&[]).await;
    let (id, secret) = key(&bridge, json!({"name": "crm", "scopes": ["read", "admin"]})).await;
    let path = format!("/v1/api-keys/{id}");
    assert_eq!(bridge.send_as(&secret, "GET", "/v1/webhooks", None).await.status, 200);
    let used = eventually("its use is noted", || async {
        let shown = bridge.get(&path).await.json();
        shown["last_used_at"].is_string().then_some(shown)
    })
    .await;
    assert_eq!((&used["state"], &used["origin"], used.get("key")), (&json!("active"), &json!("api"), None));
    // Used again at once: noted to the minute.
    bridge.send_as(&secret, "GET", "/v1/webhooks", None).await;
    assert_eq!(bridge.get(&path).await.json()["last_used_at"], used["last_used_at"]);

    refused(
        &bridge.post("/v1/api-keys", &json!({"name": "crm", "scopes": ["read"]})).await,
        409,
        "name_taken",
    );
    for wrong in [
        json!({"name": "bootstrap", "scopes": ["read"]}),
        json!({"name": "", "scopes": ["read"]}),
        json!({"name": "a\u{0}", "scopes": ["read"]}),
        json!({"name": "a\r\nb", "scopes": ["read"]}),
        json!({"name": "a", "scopes": []}),
        json!({"name": "a", "scopes": ["root"]}),
        json!({"name": "a", "scopes": ["read", "read"]}),
        json!({"name": "a", "scopes": "read"}),
        json!({"name": "a"}),
        json!({"name": "a", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}),
        json!({"name": "a", "scopes": ["read"], "tenant_id": NOBODYS}),
        json!({"name": "a", "scopes": ["read"], "tenant_id": "mine"}),
        json!({"name": "a", "scopes": ["read"], "key": "chosen"}),
    ] {
        refused(&bridge.post("/v1/api-keys", &wrong).await, 422, "invalid_fields");
    }

    let bootstrap = look::all(&bridge, "/v1/api-keys").await;
    let bootstrap = bootstrap.iter().find(|key| key["origin"] == "environment").unwrap();
    let bootstrap = format!("/v1/api-keys/{}", bootstrap["id"].as_str().unwrap());
    let kept = bridge.post(&format!("{bootstrap}/revoke"), &json!({})).await;
    refused(&kept, 409, "conflict");
    assert!(kept.json()["detail"].as_str().unwrap().contains("BRIDGE_API_KEY"), "{}", kept.text());

    for _ in 0..2 {
        let revoked = bridge.post(&format!("{path}/revoke"), &json!({})).await;
        assert_eq!((revoked.status, &revoked.json()["state"]), (200, &json!("revoked")));
        assert_eq!(bridge.send_as(&secret, "GET", "/v1/webhooks", None).await.status, 401);
    }
    assert_eq!(bridge.get(&path).await.json()["state"], "revoked");
    key(&bridge, json!({"name": "crm", "scopes": ["read"]})).await;

    let entries = look::all(&bridge, "/v1/audit?kind=API_KEY_REVOKED").await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(
        (&entries[0]["data"]["api_key_id"], &entries[0]["data"]["from"]),
        (&json!(id), &json!("127.0.0.1"))
    );
    let made = look::all(&bridge, "/v1/audit?kind=API_KEY_CREATED").await;
    assert_eq!(made.len(), 3, "bootstrap and two: {made:?}");
    assert!(made.iter().all(|entry| !entry.to_string().contains("pb_live_")));
    let pool = database::pool(&bridge.database_url).await;
    let kept: String = sqlx::query_scalar("select string_agg(api_key::text, ' ') from api_key")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(!kept.contains(&secret) && !bridge.log().contains(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_same_key_which_is_kept_sealed() {
    let bridge = Bridge::start(&[]).await;
    let bearer = format!("Bearer {API_KEY}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("idempotency-key", "once"),
    ];
    let body = json!({"name": "crm", "scopes": ["read"]}).to_string().into_bytes();
    let first = bridge.send_raw("POST", "/v1/api-keys", &headers, Some(body.clone())).await;
    let again = bridge.send_raw("POST", "/v1/api-keys", &headers, Some(body)).await;
    assert_eq!((first.status, again.status, &first.body), (201, 201, &again.body));
    let secret = first.json()["key"].as_str().unwrap().to_owned();
    let pool = database::pool(&bridge.database_url).await;
    let kept: String =
        sqlx::query_scalar("select string_agg(encode(answer_sealed, 'escape'), ' ') from idempotency")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert!(!kept.contains(&secret));
    let tenant = bridge.send_raw("POST", "/v1/tenants", &headers, Some(br#"{"name":"x"}"#.to_vec())).await;
    refused(&tenant, 409, "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_wants_the_scope_that_it_names_and_no_other() {
    let bridge = Bridge::start(&[("BRIDGE_API_RATE", "off")]).await;
    let operations = contract::scopes();
    assert_eq!(operations.len(), contract::operations().iter().filter(|o| o.contains("/v1/")).count());
    let (mut checked, mut wanted) = (0, BTreeSet::new());
    for scope in SCOPES {
        let others: Vec<_> = SCOPES.into_iter().filter(|other| *other != scope).collect();
        let (_, without) = key(&bridge, json!({"name": format!("all but {scope}"), "scopes": others})).await;
        let (_, with) = key(&bridge, json!({"name": format!("only {scope}"), "scopes": [scope]})).await;
        for (method, path, _) in operations.iter().filter(|(.., wants)| wants == scope) {
            let path = path.replace("{id}", NOBODYS);
            // What the body is does not matter: it is not read.
            let bearer = format!("Bearer {without}");
            let headers = [
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
                ("idempotency-key", "k"),
            ];
            let answer = bridge.send_raw(method, &path, &headers, Some(b"{".to_vec())).await;
            refused(&answer, 403, "missing_scope");
            assert!(answer.json()["detail"].as_str().unwrap().contains(scope), "{}", answer.text());
            assert!(answer.headers.contains_key("x-request-id"));
            if method == "GET" {
                let head = bridge.send_raw("HEAD", &path, &headers, None).await;
                assert_eq!(head.status, 403, "HEAD {path}");
            }
            let answer = bridge.send_as(&with, method, &path, None).await;
            assert!(![401, 403].contains(&answer.status), "{method} {path} {}", answer.text());
            checked += 1;
        }
        wanted.insert(scope);
        for path in ["/v1/nothing", "/v1/webhooks/a/b/c"] {
            assert_eq!(bridge.send_as(&without, "GET", path, None).await.status, 404);
        }
        assert_eq!(bridge.send_as(&without, "PUT", "/v1/webhooks", None).await.status, 405);
    }
    assert_eq!((checked, wanted.len()), (operations.len(), SCOPES.len()));
    // A kept answer is not given to a key that lost the scope either: keys have their scopes for life.
    let kept: i64 = sqlx::query_scalar("select count(*) from idempotency")
        .fetch_one(&database::pool(&bridge.database_url).await)
        .await
        .unwrap();
    assert_eq!(kept, 0, "what is refused is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_no_more_than_it_has_and_the_operator_gives_anything() {
    let bridge = Bridge::start(&[]).await;
    let tenant = bridge.post("/v1/tenants", &json!({"name": "Acme"})).await.json();
    refused(&bridge.post("/v1/tenants", &json!({"name": "Acme"})).await, 409, "name_taken");
    refused(&bridge.post("/v1/tenants", &json!({"name": " "})).await, 422, "invalid_fields");
    let ends = "2099-01-01T00:00:00Z";
    let fields =
        json!({"name": "boss", "scopes": ["read", "admin"], "tenant_id": tenant["id"], "expires_at": ends});
    let (boss_id, boss) = key(&bridge, fields).await;
    let ask = async |method: &str, path: &str, body: Option<Value>| {
        bridge.send_as(&boss, method, path, body.as_ref()).await
    };
    // No tenants, no other tenant's keys.
    for (method, body) in [("GET", None), ("POST", Some(json!({"name": "x"})))] {
        refused(&ask(method, "/v1/tenants", body).await, 403, "operator_only");
    }
    let default = bridge.get("/v1/tenants").await.json()["items"][0]["id"].clone();
    for other in [default.as_str().unwrap(), NOBODYS] {
        refused(&ask("GET", &format!("/v1/api-keys?tenant={other}"), None).await, 403, "operator_only");
        let fields = json!({"name": "a", "scopes": ["read"], "expires_at": ends, "tenant_id": other});
        refused(&ask("POST", "/v1/api-keys", Some(fields)).await, 403, "operator_only");
    }
    // Somebody else's key is like none.
    let (others, _) = key(&bridge, json!({"name": "crm", "scopes": ["read"]})).await;
    for (method, deed) in [("GET", ""), ("POST", "/revoke")] {
        let theirs = ask(method, &format!("/v1/api-keys/{others}{deed}"), None).await;
        let none = ask(method, &format!("/v1/api-keys/{NOBODYS}{deed}"), None).await;
        let shown = |answer: &Answer| {
            let mut told = answer.json();
            told["request_id"] = Value::Null;
            told
        };
        assert_eq!((theirs.status, shown(&theirs)), (404, shown(&none)));
    }
    assert_eq!(ask("GET", "/v1/api-keys", None).await.json()["items"].as_array().unwrap().len(), 1);
    // Not more rights, not a longer life.
    for (fields, status, code) in [
        (json!({"name": "a", "scopes": ["read", "audit"], "expires_at": ends}), 403, "missing_scope"),
        (json!({"name": "a", "scopes": ["read"]}), 422, "invalid_fields"),
        (
            json!({"name": "a", "scopes": ["read"], "expires_at": "2099-01-01T00:00:01Z"}),
            422,
            "invalid_fields",
        ),
    ] {
        refused(&ask("POST", "/v1/api-keys", Some(fields)).await, status, code);
    }
    let less = json!({"name": "less", "scopes": ["read"], "expires_at": "2098-01-01T00:00:00Z"});
    let made = ask("POST", "/v1/api-keys", Some(less)).await;
    assert_eq!((made.status, &made.json()["tenant_id"]), (201, &tenant["id"]), "{}", made.text());
    // The operator sees and ends all of them.
    let path = format!("/v1/api-keys?tenant={}", tenant["id"].as_str().unwrap());
    assert_eq!(look::all(&bridge, &path).await.len(), 2);
    assert_eq!(bridge.post(&format!("/v1/api-keys/{boss_id}/revoke"), &json!({})).await.status, 200);
    assert_eq!(ask("GET", "/v1/api-keys", None).await.status, 401);
    // An operator's key without admin is no operator's.
    let (_, reader) = key(&bridge, json!({"name": "reader", "scopes": ["read"]})).await;
    refused(&bridge.send_as(&reader, "GET", "/v1/tenants", None).await, 403, "missing_scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_the_same_whatever_is_wrong_with_it() {
    let bridge = Bridge::start(&[("BRIDGE_TRUSTED_PROXIES", "127.0.0.1/32")]).await;
    let pool = database::pool(&bridge.database_url).await;
    let (revoked_id, revoked) = key(&bridge, json!({"name": "revoked", "scopes": ["read"]})).await;
    bridge.post(&format!("/v1/api-keys/{revoked_id}/revoke"), &json!({})).await;
    let ends = json!({"name": "expired", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z"});
    let (expired_id, expired) = key(&bridge, ends).await;
    sqlx::query("update api_key set expires_at = now() where api_key_id = $1::uuid")
        .bind(&expired_id)
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(bridge.get(&format!("/v1/api-keys/{expired_id}")).await.json()["state"], "expired");
    let long = "x".repeat(600);
    let mut told = BTreeSet::new();
    let mut n = 0;
    for value in [
        format!("Bearer {revoked}"),
        format!("Bearer {expired}"),
        format!("Bearer {}", &expired[..20]),
        format!("bearer {}", expired.to_uppercase()),
        "Bearer pb_live_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        "Bearer ' or 1=1 --".to_owned(),
        format!("Bearer {long}"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Basic eDp5".to_owned(),
        String::new(),
    ] {
        n += 1;
        let from = format!("198.51.100.{n}");
        let headers = [("authorization", value.as_str()), ("x-forwarded-for", from.as_str())];
        let answer = bridge.send_raw("GET", "/v1/webhooks", &headers, None).await;
        let mut problem = answer.json();
        problem["request_id"] = Value::Null;
        let mut headers: Vec<_> =
            answer.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        headers.retain(|line| !line.starts_with("date:") && !line.starts_with("x-request-id:"));
        headers.sort();
        told.insert(format!("{} {problem} {headers:?}", answer.status));
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told.first().unwrap().starts_with("401"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_so_many_calls_and_is_told_how_many_are_left() {
    let bridge = Bridge::start(&[("BRIDGE_API_RATE", "6/3600")]).await;
    let (_, crm) = key(&bridge, json!({"name": "crm", "scopes": ["read"]})).await;
    let ask = async |path: &str| bridge.send_as(&crm, "GET", path, None).await;
    let paths =
        ["/v1/webhooks", "/v1/nothing", "/v1/audit", "/v1/webhooks?limit=0", "/v1/sources", "/v1/gaps"];
    for (n, path) in paths.into_iter().enumerate() {
        let answer = ask(path).await;
        assert_ne!(answer.status, 429);
        assert_eq!(answer.headers["ratelimit-policy"], "\"key\";q=6;w=3600", "{path}");
        let left = answer.headers["ratelimit"].to_str().unwrap().to_owned();
        assert!(left.starts_with(&format!("\"key\";r={};t=", 5 - n)), "{path}: {left}");
    }
    let over = ask("/v1/webhooks").await;
    refused(&over, 429, "rate_limited");
    let wait: u64 = over.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((500..=600).contains(&wait), "one more grows in ten minutes: {wait}");
    assert_eq!(over.headers["ratelimit"], format!("\"key\";r=0;t={wait}"));
    // Others are not concerned, and who has no key learns nothing.
    assert_eq!(bridge.get("/v1/webhooks").await.status, 200);
    let outsider = bridge.send_raw("GET", "/v1/webhooks", &[], None).await;
    assert_eq!((outsider.status, outsider.headers.get("ratelimit")), (401, None));
    assert_eq!(bridge.send_raw("GET", "/healthz", &[], None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_a_trusted_proxy_tells_counts_and_nobody_elses_word() {
    let guess = async |bridge: &Bridge, from: &str| {
        let headers = [("authorization", "Bearer wrong"), ("x-forwarded-for", from)];
        bridge.send_raw("GET", "/v1/webhooks", &headers, None).await.status
    };
    let behind = Bridge::start(&[("BRIDGE_TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8")]).await;
    for _ in 0..10 {
        // What the caller wrote itself stands first.
        assert_eq!(guess(&behind, "8.8.8.8, 203.0.113.1").await, 401);
    }
    assert_eq!(guess(&behind, "9.9.9.9, 203.0.113.1, 10.1.1.1").await, 429);
    assert_eq!(guess(&behind, "203.0.113.2").await, 401);
    let bearer = format!("Bearer {API_KEY}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-for", "203.0.113.1"),
        ("content-type", "application/json"),
    ];
    let body = json!({"name": "crm", "scopes": ["read"]}).to_string().into_bytes();
    let made = behind.send_raw("POST", "/v1/api-keys", &headers, Some(body)).await;
    assert_eq!(made.status, 201, "a key in use passes from there too");
    let entries = look::all(&behind, "/v1/audit?kind=API_KEY_CREATED").await;
    assert_eq!(entries[0]["data"]["from"], "203.0.113.1");

    let bare = Bridge::start(&[]).await;
    for n in 0..10 {
        assert_eq!(guess(&bare, &format!("203.0.113.{n}")).await, 401);
    }
    assert_eq!(guess(&bare, "203.0.113.99").await, 429, "all come from here");
    assert_eq!(bare.get("/v1/webhooks").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_one_name_in_two_tenants_do_not_share_idempotency_keys() {
    let bridge = Bridge::start(&[]).await;
    let tenant = bridge.post("/v1/tenants", &json!({"name": "Acme"})).await.json();
    let fields = json!({"name": "crm", "scopes": ["admin"]});
    let (_, one) = key(&bridge, fields.clone()).await;
    let mut theirs = fields;
    theirs["tenant_id"] = tenant["id"].clone();
    let (_, other) = key(&bridge, theirs).await;
    let mut made = BTreeSet::new();
    for secret in [one, other] {
        let bearer = format!("Bearer {secret}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", "same"),
        ];
        let body = json!({"name": "child", "scopes": ["admin"]}).to_string().into_bytes();
        let answer = bridge.send_raw("POST", "/v1/api-keys", &headers, Some(body)).await;
        assert_eq!((answer.status, answer.headers.get("idempotency-replayed")), (201, None));
        made.insert(answer.json()["tenant_id"].to_string());
    }
    assert_eq!(made.len(), 2);
}
