//! Secrets, tokens and socket addresses appear in no log, answer, metric, audit entry or dump, however
//! encoded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use genesys_simulator::crm::Behaviour;
use genesys_simulator::genesys::{Fault, GenesysOptions, Route, Tamper, Target};
use serde_json::{Value, json};

use crate::support::bridge::{API_KEY, MASTER_KEY};
use crate::support::canaries::{dump, forms};
use crate::support::chaos::{Chaos, Mode};
use crate::support::{SOON, World, database, eventually};

const CLIENT_SECRET: &str = "canary-client-secret-5f2e";
const OTHER_CLIENT_SECRET: &str = "canary-other-client-secret-0d1c";
const SOCKET_KEY: &str = "canary-socket-key-77aa";
const DATABASE_PASSWORD: &str = "canary-database-password-91c4";
const PASSWORD: &str = "canary-basic-password-3b";
const BEARER: &str = "canary-bearer-token-e8d2";
const SCHEME: &str = "canary-own-scheme-credentials-4c7a";
const OAUTH_SECRET: &str = "canary-oauth-secret-6a90";
const OAUTH_TOKEN: &str = "canary-oauth-access-token-c3f7";
const HEADER: &str = "canary-header-value-b41e";
const REFUSED_HEADER: &str = "canary-refused-header-2f6d";
const QUERY: &str = "canary-query-key-aa05";
const WRONG_KEY: &str = "canary-wrong-api-key-7e1b";

/// A certificate that signs itself, and its key, which guards nothing.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBjTCCATKgAwIBAgIUGEDRaGmR5y98XzQ3x1oUBwIWBBgwCgYIKoZIzj0EAwIwDjEMMAoGA1UEAwwDY3JtMCAXDTI2MTEyMzIyMzIx
MloYDzIxMjYxMDMwMjIzMjEyWjAOMQwwCgYDVQQDDANjcm0wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR/lmw9+lXwrzPbcqHqREGo
vD3u/e4GuRH4z789mK/LYAPw6VZWhqkUGrPe375fbTUDJTfhVhgU/mF4yobhICkco2wwajAdBgNVHQ4EFgQUtr7zroZdfpgXWG9zLGbn
FkDOsEswHwYDVR0jBBgwFoAUtr7zroZdfpgXWG9zLGbnFkDOsEswGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAwGA1UdEwEB/wQC
MAAwCgYIKoZIzj0EAwIDSQAwRgIhAL+CksMeDZNLtB5eRjaylWB2uRXk7MQl/t9BWNXH2N6CAiEAlxvC7Oe7IWw/mk3z/hgXtF4wItBp
7HQ/5M+DT7sKvdY=
-----END CERTIFICATE-----
";
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQglFmLMQf1o9XZCCfGJFVPKho70WYboQ9uTr6/2ITMVTGhRANCAAR/lmw9
+lXwrzPbcqHqREGovD3u/e4GuRH4z789mK/LYAPw6VZWhqkUGrPe375fbTUDJTfhVhgU/mF4yobhICkc
-----END PRIVATE KEY-----
";
/// What the key is made of: its secret number, within the base64 above.
const SECRET_NUMBER: &str = "lFmLMQf1o9XZCCfGJFVPKho70WYboQ9uTr6/2ITMVTE=";

/// Everything that anybody could read, by place.
struct Seen(Vec<(String, String)>);

impl Seen {
    async fn get(&mut self, world: &World, path: &str) {
        let text = world.bridge.get(path).await.text();
        self.0.push((path.to_owned(), text));
    }

    async fn send(&mut self, world: &World, method: &str, path: &str, body: Value, status: u16) {
        let answer = world.bridge.send(method, path, Some(&body)).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        self.0.push((format!("{method} {path}"), answer.text()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_appears_anywhere_even_when_things_fail() {
    let options =
        GenesysOptions { clients: vec![("sim-client".into(), CLIENT_SECRET.into())], ..Default::default() };
    let plain_url = database::create().await;
    let chaos = Chaos::before(&plain_url).await;
    let url = chaos.url().replace("postgres@", &format!("postgres:{DATABASE_PASSWORD}@"));
    let variables = [
        ("GENESYS_CLIENT_SECRET", CLIENT_SECRET),
        (
            "BRIDGE_LOG",
            "trace,presence_bridge=trace,hyper=trace,h2=trace,rustls=trace,actix_web=trace,awc=trace",
        ),
        ("DATABASE_URL", &url),
    ];
    // Everything fails once before it works.
    chaos.set(Mode::Refuse);
    let later = chaos.clone();
    let opened = tokio::spawn(async move {
        eventually("the bridge has tried", || async { (later.refused() > 0).then_some(()) }).await;
        later.set(Mode::Pass);
    });
    let world = World::with_options(&["ann", "bob"], options, &variables).await;
    opened.await.unwrap();
    let mut seen = Seen(Vec::new());

    let hook =
        world.register_with(&format!("/hooks/a?key={QUERY}"), json!({"signatures": ["v1", "v1a"]})).await;
    let webhook_secret = hook["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned();
    let path = format!("/v1/webhooks/{}", hook["id"].as_str().unwrap());
    let rotated = world.bridge.post(&format!("{path}/rotate-secret"), &json!({})).await.json();
    let rotated_secret = rotated["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned();
    let basic = json!({"kind": "basic", "username": "ann", "password": PASSWORD});
    let bearer = json!({"kind": "bearer", "token": BEARER});
    let scheme =
        json!({"kind": "scheme", "scheme": "Token", "credentials": format!("token=\"{SCHEME}\", v=1")});
    let oauth = json!({
        "kind": "oauth2", "token_url": world.crm.url("/token"), "client_id": "bridge", "client_secret": OAUTH_SECRET,
    });
    let token = json!({"access_token": OAUTH_TOKEN, "token_type": "Bearer"}).to_string();
    let issued = Behaviour::status(200).header("content-type", "application/json").body(token);
    // A refusal that repeats what it refuses.
    let description = format!("{OAUTH_SECRET} is wrong");
    let refusal = json!({"error": "invalid_client", "error_description": description}).to_string();
    world.crm.next("/token", [Behaviour::status(401).body(refusal), issued]);
    for (name, auth) in [("basic", basic), ("bearer", bearer), ("scheme", scheme), ("oauth", oauth.clone())] {
        let fields = json!({
            "auth": auth, "headers": {"x-canary": HEADER}, "retry_schedule_seconds": [1, 1, 1],
            "client_certificate": {"chain": CERTIFICATE, "key": KEY},
        });
        let made = world.register_with(&format!("/hooks/{name}"), fields).await;
        seen.get(&world, &format!("/v1/webhooks/{}", made["id"].as_str().unwrap())).await;
    }
    // What is refused is not repeated either.
    let malformed = json!({"x-canary": format!("{REFUSED_HEADER}\r\nx: y")});
    let at = world.crm.url("/hooks/x");
    seen.send(&world, "POST", "/v1/webhooks", json!({"url": at, "headers": malformed}), 422).await;
    let auth = json!({"kind": "bearer", "token": format!("{BEARER}\n"), "password": PASSWORD});
    seen.send(&world, "PATCH", &path, json!({"auth": auth}), 422).await;
    let auth = json!({"kind": "scheme", "scheme": "no token", "credentials": format!("{SCHEME}\n")});
    seen.send(&world, "PATCH", &path, json!({"auth": auth}), 422).await;
    let halves = json!({"chain": CERTIFICATE, "key": KEY.replace("MIGH", "AAAA")});
    seen.send(&world, "PATCH", &path, json!({"client_certificate": halves}), 422).await;
    let source = json!({
        "name": "other", "protocol": "realtime", "api_url": "http://127.0.0.1:9", "client_id": "x",
        "client_secret": OTHER_CLIENT_SECRET, "agents": ["zoe"], "topic_matrix": {"topics": ["routing:agent:state"]},
    });
    seen.send(&world, "POST", "/v1/sources", source, 201).await;
    let wrong = json!({"name": "x", "client_secret": OTHER_CLIENT_SECRET, "agents": []});
    seen.send(&world, "POST", "/v1/sources", wrong, 422).await;

    // Answers that fail, tokens that end, sockets that break, a database that goes away.
    // The page of one repeats the address.
    world.crm.next("/hooks/a", [Behaviour::status(500).body(format!("cannot POST /hooks/a?key={QUERY}"))]);
    // An error page that repeats the request is kept without what is secret in it, as each of them sends it.
    let page = || Behaviour::EchoRequest { status: 500 };
    for name in ["basic", "bearer", "scheme", "oauth"] {
        world.crm.next(&format!("/hooks/{name}"), [page()]);
    }
    world.crm.next("/hooks/basic", [Behaviour::status(401)]);
    world.crm.next("/hooks/bearer", [Behaviour::ResetUnanswered]);
    world.genesys.set_presence("ann", "AVAILABLE").await;
    for name in ["basic", "bearer", "scheme", "oauth"] {
        let path = format!("/hooks/{name}");
        world
            .crm
            .wait_until(|posts| posts.iter().any(|p| p.path() == path && p.accepted()), SOON)
            .await
            .unwrap();
    }
    for name in ["basic", "bearer", "scheme", "oauth"] {
        let delivery = world.crm.received(&format!("/hooks/{name}"))[0].webhook_id().to_owned();
        let shown = world.bridge.get(&format!("/v1/deliveries/{delivery}")).await.text();
        assert!(shown.contains("[redacted]") && shown.contains("x-canary"), "the page is kept: {shown}");
        seen.0.push((format!("a delivery to {name}"), shown));
    }
    let sent = |name: &str, header: &str| {
        let posts = world.crm.received(&format!("/hooks/{name}"));
        posts.last().unwrap().header(header).unwrap().to_owned()
    };
    assert_eq!(sent("oauth", "authorization"), format!("Bearer {OAUTH_TOKEN}"), "the canaries are used");
    assert_eq!(sent("basic", "x-canary"), HEADER);
    assert_eq!(sent("scheme", "authorization"), format!("Token token=\"{SCHEME}\", v=1"));
    world.genesys.fault(Route::Upgrade, Fault::status(503));
    world.genesys.tamper(Tamper::WsUrl(format!("ws://elsewhere.example/realtime/ws/{SOCKET_KEY}")), 1);
    world.genesys.expire_tokens();
    world.genesys.fault(Route::UsersMe, Fault::status(403).times(1));
    world.genesys.drop_sockets(Target::All);
    world.audit_of("WS_INIT_ERROR", 1).await;
    let outsider = format!("Bearer {WRONG_KEY}");
    let refused = world.bridge.send_raw("GET", "/v1/webhooks", &[("authorization", &outsider)], None).await;
    seen.0.push(("a wrong key".to_owned(), refused.text()));
    chaos.set(Mode::Refuse);
    world.genesys.push_presence("bob", "BUSY");
    eventually("the database is missed", || async {
        (world.bridge.get("/readyz").await.status == 503).then_some(())
    })
    .await;
    seen.get(&world, "/readyz").await;
    seen.get(&world, "/v1/events").await;
    chaos.set(Mode::Pass);
    eventually("it is back", || async { (world.bridge.get("/v1/events").await.status == 200).then_some(()) })
        .await;
    let access_token =
        world.genesys.snapshot().tally.last_authorization.unwrap().trim_start_matches("Bearer ").to_owned();

    for path in [
        "/v1/audit?limit=200",
        "/v1/webhooks",
        "/v1/sources",
        "/v1/connections",
        "/v1/agents",
        "/v1/deliveries",
        "/v1/events",
        "/v1/gaps",
        "/v1/rejected-topics",
        "/metrics",
        "/readyz",
        "/healthz",
        "/version",
    ] {
        seen.get(&world, path).await;
    }
    for event in world.bridge.get("/v1/events").await.json()["items"].as_array().unwrap().iter().take(5) {
        seen.get(&world, &format!("/v1/events/{}", event["event_id"].as_str().unwrap())).await;
    }
    seen.0.push(("log".to_owned(), world.bridge.log() + &world.bridge.output()));
    seen.0.push(("dump".to_owned(), dump(&plain_url)));

    let text = str::as_bytes;
    let decoded = |base64: &str| BASE64.decode(base64).unwrap();
    let canaries = [
        ("client secret", text(CLIENT_SECRET)),
        ("another source's client secret", text(OTHER_CLIENT_SECRET)),
        ("API key", text(API_KEY)),
        ("master key", text(MASTER_KEY)),
        ("master key's bytes", &decoded(MASTER_KEY)),
        ("webhook secret", text(&webhook_secret)),
        ("webhook secret's bytes", &decoded(&webhook_secret)),
        ("new webhook secret", text(&rotated_secret)),
        ("new webhook secret's bytes", &decoded(&rotated_secret)),
        ("access token", text(&access_token)),
        ("socket address", text(SOCKET_KEY)),
        ("wrong key", text(WRONG_KEY)),
        ("database password", text(DATABASE_PASSWORD)),
        ("basic password", text(PASSWORD)),
        ("bearer token", text(BEARER)),
        ("credentials of an own scheme", text(SCHEME)),
        ("client secret of a webhook", text(OAUTH_SECRET)),
        ("access token of a webhook", text(OAUTH_TOKEN)),
        ("header's value", text(HEADER)),
        ("refused header's value", text(REFUSED_HEADER)),
        ("certificate's key", text(KEY.lines().nth(1).unwrap())),
        ("certificate's secret number", &decoded(SECRET_NUMBER)[..31]),
        ("query of a receiver's address", text(QUERY)),
    ];
    let mut looked = 0;
    let mut hits = Vec::new();
    for (place, text) in &seen.0 {
        assert!(!text.is_empty(), "{place} is empty");
        for (name, canary) in canaries {
            // Addresses are stored as they are, and shown to who may read webhooks.
            if name.starts_with("query") && (place == "dump" || place.starts_with("/v1/webhooks")) {
                continue;
            }
            for form in forms(canary) {
                looked += 1;
                if text.contains(&form) {
                    let line = text.lines().find(|line| line.contains(&form)).unwrap_or_default();
                    hits.push(format!(
                        "{place} holds the {name} as {form}: {}",
                        &line[..line.len().min(300)]
                    ));
                }
            }
        }
    }
    println!("{} canaries in {} places: {looked} looks, {} hits", canaries.len(), seen.0.len(), hits.len());
    assert!(hits.is_empty(), "{}", hits.join("\n"));
}

#[test]
fn a_canary_is_found_in_every_form_wherever_it_stands() {
    let canary = b"canary-of-forms";
    let around = [&b"user:"[..], canary, b" and more"].concat();
    let number = |bytes: &[u8]| format!("{bytes:?}");
    for text in [
        String::from_utf8(around.clone()).unwrap(),
        BASE64.encode(&around),
        BASE64.encode(&around[1..]),
        BASE64.encode(&around[2..]),
        around.iter().map(|byte| format!("{byte:02x}")).collect(),
        around.iter().map(|byte| format!("%{byte:02X}")).collect(),
        number(&around),
    ] {
        assert!(forms(canary).iter().any(|form| text.contains(form)), "{text}");
    }
}
