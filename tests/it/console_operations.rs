//! Sources, connections, keys, tenants, the audit log, the quarantine and the configuration in the console:
//! each form does what it says, with the rights and the tenant of whoever is logged in.

use genesys_simulator::cloud::{Deed, Fault, Place};
use genesys_simulator::genesys::{Junk, Target};
use serde_json::{Value, json};

use crate::support::bridge::{API_KEY, UNSET};
use crate::support::cloud::{CloudWorld, options};
use crate::support::console::Console;
use crate::support::look::all;
use crate::support::{Bridge, World, eventually};

/// What each action of these pages wants, and an address for it.
const ACTIONS: &[(&str, &str)] = &[
    ("sources", "/console/sources/new"),
    ("sources", "/console/sources/ID/edit"),
    ("sources", "/console/sources/ID/refresh"),
    ("sources", "/console/sources/ID/examine"),
    ("sources", "/console/sources/ID/delete"),
    ("sources", "/console/sources/examinations/ID/save"),
    ("sources", "/console/connections/ID/restart"),
    ("sources", "/console/connections/ID/terminate"),
    ("audit", "/console/audit/verifications"),
    ("audit", "/console/audit/verifications/ID/cancel"),
    ("admin", "/console/keys/new"),
    ("admin", "/console/keys/ID/revoke"),
    ("admin", "/console/tenants"),
];
const NOBODYS: &str = "019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50";

/// The principals of audit entries of a kind.
async fn who_did(bridge: &Bridge, kind: &str) -> Vec<String> {
    let entries = all(bridge, &format!("/v1/audit?kind={kind}")).await;
    entries.iter().filter_map(|entry| entry["principal"].as_str().map(str::to_owned)).collect()
}

fn id_in(address: &str) -> String {
    address.rsplit('/').next().unwrap().to_owned()
}

/// The form of a source that watches everybody of this platform.
fn form<'a>(api_url: &'a str, name: &'a str, secret: &'a str, then: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("name", name),
        ("api_url", api_url),
        ("login_url", api_url),
        ("client_id", "sim-client"),
        ("client_secret", secret),
        ("all_users", "true"),
        ("then", then),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_tried_out_added_changed_and_removed() {
    // Nothing from the environment.
    let none = ["API_URL", "LOGIN_URL", "CLIENT_ID", "CLIENT_SECRET"].map(|name| format!("GENESYS_{name}"));
    let none: Vec<_> = none.iter().map(|name| (name.as_str(), UNSET)).collect();
    let world = CloudWorld::starting(options(&["ann", "bob"]), &none).await;
    let console = Console::with_scopes(&world.bridge, &["read", "sources"]).await;
    let url = world.cloud.api_url();
    let new = "/console/sources/new";

    let refused = console.post(new, &form(&url, "", "sim-secret", "keep")).await;
    assert_eq!(refused.status, 422);
    let said = refused.text();
    assert!(said.contains("aria-invalid=\"true\"") && said.contains("It is empty."), "{said}");
    assert!(!said.contains("sim-secret"), "a secret is not filled in again");
    let inner = console.post(new, &form("http://10.0.0.1", "desk", "sim-secret", "examine")).await;
    assert_eq!(inner.status, 422, "the guard holds for what is only tried out: {}", inner.text());

    let (examination, _) = console.done(new, &form(&url, "desk", "wrong", "examine")).await;
    let page = console.says(&examination, "does not work").await;
    assert!(page.contains("login") && page.contains("secret are wrong"), "the step and its remedy: {page}");
    assert!(all(&world.bridge, "/v1/sources").await.iter().all(|source| source["name"] != "desk"));
    let (examination, _) = console.done(new, &form(&url, "desk", "sim-secret", "examine")).await;
    let page = console.says(&examination, "Every step has worked.").await;
    assert!(page.contains("2 agents are to be watched") && !page.contains("sim-secret"), "{page}");
    let again = console.page(&format!("{new}?examination={}", id_in(&examination))).await;
    assert!(again.contains("value=\"desk\"") && !again.contains("sim-secret"), "{again}");
    // The client secret of the examination is meant where none is given.
    let id = id_in(&examination);
    let mut fields = form(&url, "desk", "", "examine");
    fields.push(("examination", &id));
    let (examination, _) = console.done(new, &fields).await;
    console.says(&examination, "Every step has worked.").await;
    let mut elsewhere = form("http://127.0.0.1:9", "desk", "", "examine");
    elsewhere.push(("examination", &id));
    let refused = console.post(new, &elsewhere).await;
    assert!(refused.status == 422 && refused.text().contains("It must be given again"), "{}", refused.text());
    let save = format!("{examination}/save");
    let (source, page) = console.done(&save, &[]).await;
    assert!(page.contains("Source desk is added"), "{page}");
    let (again, page) = console.done(&save, &[]).await;
    assert!(again == source && page.contains("were kept already"), "pressed twice: {again}: {page}");
    let page = console.page(&examination).await;
    assert!(page.contains(&source) && !page.contains(&save), "there is nothing to keep any more: {page}");
    console.says(&source, "1 of 1 open").await;

    let page = console.page(&format!("{source}/edit")).await;
    assert!(page.contains("name=\"version\" value=\"1\"") && !page.contains("sim-secret"), "{page}");
    let mut fields = form(&url, "help desk", "", "keep");
    fields.push(("version", "1"));
    let (_, page) = console.done(&format!("{source}/edit"), &fields).await;
    assert!(page.contains("help desk"), "{page}");
    elsewhere.retain(|(name, _)| *name != "examination");
    elsewhere.push(("version", "2"));
    let refused = console.post(&format!("{source}/edit"), &elsewhere).await;
    assert!(refused.status == 422 && refused.text().contains("It must be given again"), "{}", refused.text());
    let late = console.post(&format!("{source}/edit"), &fields).await;
    assert_eq!(late.status, 422);
    assert!(late.text().contains("changed by somebody else"), "{}", late.text());
    let (_, page) = console.done(&format!("{source}/examine"), &[]).await;
    assert!(page.contains("Examination of help desk"), "{page}");

    console.done(&format!("{source}/refresh"), &[]).await;
    assert!(console.page(&format!("{source}/delete")).await.contains("Delete source help desk?"));
    let (list, page) = console.done(&format!("{source}/delete"), &[]).await;
    assert!(list == "/console/sources" && page.contains("The source is deleted."), "{page}");
    assert_eq!(console.get(&source).await.status, 404);
    for kind in ["SOURCE_EXAMINED", "SOURCE_CREATED", "SOURCE_UPDATED", "REFRESH_REQUESTED", "SOURCE_DELETED"]
    {
        let by = who_did(&world.bridge, kind).await;
        assert!(by.contains(&"api-key:read-sources".to_owned()), "{kind} by {by:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_source_and_a_refused_connection_are_explained_and_a_connection_is_restarted() {
    let world = CloudWorld::starting(options(&["ann", "bob"]), &[("GENESYS_ALL_USERS", "true")]).await;
    world.sees(2).await;
    let console = Console::with_scopes(&world.bridge, &["read", "sources"]).await;
    let source = all(&world.bridge, "/v1/sources").await[0]["id"].as_str().unwrap().to_owned();
    let connection = all(&world.bridge, "/v1/connections").await[0]["id"].as_str().unwrap().to_owned();
    let (source, connection) =
        (format!("/console/sources/{source}"), format!("/console/connections/{connection}"));
    let page = console.says(&source, "1 of 1 open").await;
    assert!(page.contains(&connection) && page.contains("set by the environment"), "{page}");
    assert_eq!(console.get(&format!("{source}/edit")).await.status, 200);
    assert_eq!(console.post(&format!("{source}/delete"), &[]).await.status, 409);

    assert!(console.page(&format!("{connection}/terminate")).await.contains("Terminate this connection?"));
    console.done(&format!("{connection}/terminate"), &[]).await;
    console.says(&connection, "An operator had it closed.").await;
    console.done(&format!("{connection}/restart"), &[]).await;
    console.says(&connection, "badge good\">open").await;
    for kind in ["TERMINATE_REQUESTED", "RESTART_REQUESTED"] {
        assert_eq!(who_did(&world.bridge, kind).await, ["api-key:read-sources"], "{kind}");
    }

    world.cloud.obey(Deed::Hide { client: "sim-client".into(), agents: vec!["bob".into()] });
    console.done(&format!("{source}/refresh"), &[]).await;
    console.done(&format!("{connection}/restart"), &[]).await;
    let page = console.says("/console/rejected-topics", "directory:user:view").await;
    assert!(page.contains("/console/agents/bob?source="), "{page}");
    console.says(&source, "role in the division").await;
    world.cloud.fault(Place::Users, Fault::status(403).times(u32::MAX));
    console.done(&format!("{source}/refresh"), &[]).await;
    let page = console.says(&source, "The last reading of a roster failed").await;
    assert!(page.contains("What to do:"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_understood_is_shown_as_text_and_bytes() {
    let world = World::watching(&["ann"]).await;
    let console = Console::with_scopes(&world.bridge, &["audit"]).await;
    assert!(console.page("/console/quarantine").await.contains("Everything that came was understood"));
    world.genesys.send_junk(Target::All, Junk::NotJson);
    let page = console.says("/console/quarantine", "It is no JSON").await;
    let at = page.find("/console/quarantine/").unwrap();
    let piece = page[at..].split('"').next().unwrap().to_owned();
    let page = console.page(&piece).await;
    assert!(page.contains("000000  "), "its bytes: {page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_searched_checked_and_exported() {
    let bridge = Bridge::start(&[]).await;
    let console = Console::with_scopes(&bridge, &["read", "audit"]).await;
    let page = console.says("/console/audit?kind=BRIDGE_STARTED", "BRIDGE_STARTED</code>").await;
    let entry = page.split("id=\"entry-").nth(1).unwrap().split('"').next().unwrap();
    let entry = format!("/console/audit/{entry}");
    let shown = console.says(&entry, "A seal covers this entry").await;
    assert!(shown.contains("version"), "its particulars: {shown}");
    let wrong = console.get("/console/audit?since=yesterday").await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.text().contains("is no time such as"), "{}", wrong.text());
    let page = console.page("/console/audit?principal=nobody").await;
    assert!(page.contains("No entry is like this"), "{page}");

    let wrong = console.post("/console/audit/verifications", &[("head", "nonsense")]).await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("It is no head"), "{}", wrong.text());
    let (check, _) = console.done("/console/audit/verifications", &[("head", "")]).await;
    let page = console.says(&check, "Every entry is as it was sealed.").await;
    assert!(page.contains("api-key:read-audit"), "{page}");
    assert_eq!(who_did(&bridge, "AUDIT_VERIFICATION_STARTED").await, ["api-key:read-audit"]);
    assert!(console.page("/console/audit/verifications").await.contains(&check));

    let file = console.get("/console/audit/export").await;
    assert_eq!((file.status, &file.headers["content-type"]), (200, &"application/x-ndjson".parse().unwrap()));
    let lines: Vec<Value> = file.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["kind"] == "BRIDGE_STARTED"), "{lines:?}");
    let behind = format!("/console/audit/export?after={}", lines[0]["id"]);
    let first = console.get(&behind).await.text().lines().next().map(str::to_owned);
    assert_eq!(first.as_deref(), file.text().lines().nth(1));
    let all_tenants = console.get("/console/audit/export?tenant=all").await;
    assert_eq!(all_tenants.status, 403, "{}", all_tenants.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_tenants_are_made_and_keys_revoked() {
    let bridge = Bridge::start(&[]).await;
    let console = Console::of(&bridge).await;
    let wrong =
        console.post("/console/keys/new", &[("name", "bootstrap"), ("expires_at", "yesterday")]).await;
    assert_eq!(wrong.status, 422);
    let said = wrong.text();
    for what in ["is kept for the key from the environment", "is no time such as", "It is empty."] {
        assert!(said.contains(what), "{what}: {said}");
    }
    let (_, page) = console.done("/console/tenants", &[("name", "<i>other</i>")]).await;
    assert!(page.contains("&lt;i&gt;other") && !page.contains("<i>other"), "{page}");
    let tenants = bridge.get("/v1/tenants").await.json();
    let other = tenants["items"][1]["id"].as_str().unwrap().to_owned();
    let fields =
        [("name", "crm"), ("scopes", "read"), ("scopes", "admin"), ("ends", "7"), ("tenant_id", &other)];
    let made = console.post("/console/keys/new", &fields).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let page = made.text();
    let key = page.split("pb_live_").nth(1).unwrap().split('<').next().unwrap();
    let key = format!("pb_live_{key}");
    assert_eq!(bridge.send_as(&key, "GET", "/v1/webhooks", None).await.status, 200);
    let list = console.page(&format!("/console/keys?tenant={other}")).await;
    assert!(list.contains("crm") && !list.contains(&key), "{list}");

    let theirs = Console::log_in(&bridge, &key).await;
    for operators in ["/console/tenants", "/console/configuration"] {
        assert_eq!(theirs.get(operators).await.status, 403, "{operators}");
    }
    assert!(!theirs.page("/console/keys").await.contains("/console/configuration"), "not in the navigation");
    let all_keys = bridge.get("/v1/api-keys").await.json();
    let ours = all_keys["items"][0]["id"].as_str().unwrap();
    assert_eq!(theirs.get(&format!("/console/keys/{ours}")).await.status, 404);
    assert_eq!(theirs.post(&format!("/console/keys/{ours}/revoke"), &[]).await.status, 404);

    let id = bridge.get(&format!("/v1/api-keys?tenant={other}")).await.json()["items"][0]["id"].clone();
    let address = format!("/console/keys/{}", id.as_str().unwrap());
    assert!(console.page(&format!("{address}/revoke")).await.contains("Revoke key crm?"));
    console.done(&format!("{address}/revoke"), &[]).await;
    assert_eq!(theirs.get("/console/keys").await.status, 303, "its browsers are logged out");
    for (kind, times) in [("TENANT_CREATED", 1), ("API_KEY_REVOKED", 1)] {
        let by = who_did(&bridge, kind).await;
        assert!(by.len() <= times && by.iter().all(|by| by == "api-key:bootstrap"), "{kind} by {by:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_shown_without_secrets() {
    let bridge = Bridge::start(&[
        ("GENESYS_REGION", "mypurecloud.de"),
        ("GENESYS_ALL_USERS", "true"),
        ("GENESYS_CLIENT_ID", "id"),
        ("GENESYS_CLIENT_SECRET", "CANARY-secret"),
    ])
    .await;
    let told = bridge.get("/v1/configuration").await;
    assert_eq!(told.status, 200);
    let page = Console::of(&bridge).await.page("/console/configuration").await;
    for text in [told.text(), page] {
        assert!(text.contains("mypurecloud.de") && text.contains("BRIDGE_DATABASE_CONNECTIONS"), "{text}");
        for secret in ["CANARY-secret", API_KEY, bridge.database_url.as_str()] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    assert_eq!(told.json()["database"]["embedded"], false);
    let reader = bridge.post("/v1/api-keys", &json!({"name": "a", "scopes": ["admin"]})).await.json();
    let key = reader["key"].as_str().unwrap();
    assert_eq!(bridge.send_as(key, "GET", "/v1/configuration", None).await.status, 200, "an operator's key");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_does_what_their_key_may_not() {
    let bridge = Bridge::start(&[]).await;
    let reader = Console::with_scopes(&bridge, &["read"]).await;
    for (scope, address) in ACTIONS {
        let address = address.replace("ID", NOBODYS);
        let answer = reader.post(&address, &[]).await;
        assert_eq!(answer.status, 403, "{address}");
        assert!(answer.text().contains(&format!("scope {scope}")), "{address}: {}", answer.text());
    }
    for page in ["/console/sources", "/console/connections", "/console/rejected-topics"] {
        let page = reader.page(page).await;
        assert!(!page.contains("/console/sources/new") && !page.contains("/console/keys"), "{page}");
    }
    for page in ["/console/audit", "/console/quarantine", "/console/keys", "/console/audit/export"] {
        assert_eq!(reader.get(page).await.status, 403, "{page}");
    }
    let tenant = bridge.post("/v1/tenants", &json!({"name": "other"})).await.json()["id"].clone();
    let scopes = ["read", "sources", "audit"];
    let key = json!({"name": "theirs", "scopes": scopes, "tenant_id": tenant});
    let key = bridge.post("/v1/api-keys", &key).await.json()["key"].as_str().unwrap().to_owned();
    let theirs = Console::log_in(&bridge, &key).await;
    let started = eventually("the start is in the log", || async {
        all(&bridge, "/v1/audit?kind=BRIDGE_STARTED").await.into_iter().next()
    })
    .await;
    assert_eq!(theirs.get(&format!("/console/audit/{}", started["id"])).await.status, 404);
    assert_eq!(theirs.post("/console/audit/verifications", &[]).await.status, 403);
    let file = theirs.get("/console/audit/export").await;
    assert!(!file.text().contains("BRIDGE_STARTED"), "{}", file.text());
}
