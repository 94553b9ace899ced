//! `presence-bridge doctor`, and the same over the API: each trouble that a newcomer meets is named, with
//! what to do about it.

use std::time::Duration;

use genesys_simulator::cloud::{ClientState, Cloud, Deed, Fault, Manner, Place, Reach};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::cloud::{CloudWorld, options};
use crate::support::{SOON, eventually};

/// Runs the doctor against a platform; gives its exit code and what it said.
async fn doctor(cloud: &Cloud, variables: &[(&str, &str)]) -> (i32, String) {
    let url = cloud.api_url();
    let mut command = Command::new(env!("CARGO_BIN_EXE_presence-bridge"));
    command
        .arg("doctor")
        .env_clear()
        .envs([
            ("GENESYS_API_URL", url.as_str()),
            ("GENESYS_LOGIN_URL", url.as_str()),
            ("GENESYS_CLIENT_ID", "sim-client"),
            ("GENESYS_CLIENT_SECRET", "sim-secret"),
            ("GENESYS_ALL_USERS", "true"),
        ])
        .envs(variables.iter().copied())
        .current_dir(std::env::temp_dir());
    let output = tokio::time::timeout(SOON, command.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("sim-secret") && !said.contains("/channels/"), "{said}");
    println!("{said}");
    (output.status.code().unwrap(), said)
}

async fn cloud() -> Cloud {
    Cloud::start(options(&["ann", "bob"])).await.unwrap()
}

/// The line of the step that failed, and its remedy.
fn failed(said: &str) -> (String, String) {
    let mut lines = said.lines().skip_while(|line| !line.starts_with("FAILED"));
    let line = lines.next().unwrap_or_else(|| panic!("nothing failed:\n{said}"));
    (line.split_whitespace().nth(1).unwrap().to_owned(), lines.next().unwrap().trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_source_passes_every_step_and_leaves_nothing_behind() {
    let cloud = cloud().await;
    let (code, said) = doctor(&cloud, &[]).await;
    assert_eq!(code, 0, "{said}");
    let steps: Vec<&str> = said.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(
        steps,
        [
            "settings",
            "login",
            "token",
            "rosters",
            "presences",
            "channels",
            "subscribe",
            "socket",
            "ping",
            "state"
        ]
    );
    assert!(said.lines().all(|line| line.starts_with("ok ")), "{said}");
    assert!(cloud.snapshot().channels.iter().all(|channel| channel.topics == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_told_from_a_disabled_client_and_from_a_forbidden_address() {
    let cloud = cloud().await;
    let (code, said) = doctor(&cloud, &[("GENESYS_CLIENT_SECRET", "wrong")]).await;
    let (step, remedy) = failed(&said);
    assert_eq!((code, step.as_str()), (1, "login"));
    assert!(remedy.contains("secret are wrong"), "{remedy}");
    let state = |state| Deed::ClientState { client: "sim-client".into(), state };
    cloud.obey(state(ClientState::Disabled));
    let (step, remedy) = failed(&doctor(&cloud, &[]).await.1);
    assert_eq!(step, "login");
    assert!(remedy.contains("disabled"), "{remedy}");
    cloud.obey(state(ClientState::IpNotAllowed));
    let (step, remedy) = failed(&doctor(&cloud, &[]).await.1);
    assert_eq!(step, "token");
    assert!(remedy.contains("public address"), "{remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_division_is_told_with_the_agents_and_the_permission() {
    let cloud = cloud().await;
    cloud.obey(Deed::Hide { client: "sim-client".into(), agents: vec!["bob".into()] });
    let (code, said) = doctor(&cloud, &[]).await;
    let (step, remedy) = failed(&said);
    assert_eq!((code, step.as_str()), (1, "subscribe"));
    assert!(
        said.contains("1 of 2 agents are rejected (bob)") && said.contains("directory:user:view"),
        "{said}"
    );
    assert!(remedy.contains("role in the division"), "{remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_to_watch_and_a_queue_that_does_not_exist_are_told() {
    let cloud = cloud().await;
    let (step, remedy) = failed(&doctor(&cloud, &[("GENESYS_QUEUES", "nowhere")]).await.1);
    assert_eq!(step, "rosters");
    assert!(remedy.contains("does not exist"), "{remedy}");
    cloud.obey(Deed::Queue { id: "empty".into(), members: Vec::new() });
    let empty = [("GENESYS_ALL_USERS", "false"), ("GENESYS_QUEUES", "empty")];
    let (step, remedy) = failed(&doctor(&cloud, &empty).await.1);
    assert_eq!(step, "rosters");
    assert!(remedy.contains("put members"), "{remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_another_program_takes_away_is_told() {
    let cloud = cloud().await;
    cloud.fault(
        Place::Subscriptions,
        Fault { status: None, ..Fault::status(0).after(Duration::from_secs(1)) },
    );
    let displacing = async {
        cloud.wait_until(|seen| seen.requests(Place::Subscriptions) == 1, SOON).await.unwrap();
        cloud.obey(Deed::Displace { reach: Reach::All, manner: Manner::Silent });
    };
    let ((code, said), ()) = tokio::join!(doctor(&cloud, &[]), displacing);
    let (step, remedy) = failed(&said);
    assert_eq!((code, step.as_str()), (1, "channel"));
    assert!(remedy.contains("client of its own"), "{remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nobody_answers_is_told() {
    let cloud = cloud().await;
    let nowhere = [("GENESYS_LOGIN_URL", "http://127.0.0.1:1")];
    let (step, remedy) = failed(&doctor(&cloud, &nowhere).await.1);
    assert_eq!(step, "login");
    assert!(remedy.contains("firewall"), "{remedy}");
}

/// Has settings examined over the API; gives the result.
async fn examined(world: &CloudWorld, settings: &Value) -> Value {
    let begun = world.bridge.post("/v1/sources/examinations", settings).await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let path = begun.headers["location"].to_str().unwrap().to_owned();
    let ended = eventually("the examination has ended", || async {
        let answer = world.bridge.get(&path).await;
        assert!(!answer.text().contains("sim-secret") && !answer.text().contains("/channels/"));
        Some(answer.json()).filter(|examination| examination["state"] == "ended")
    })
    .await;
    println!("{ended:#}");
    ended
}

fn steps(examination: &Value) -> Vec<&str> {
    examination["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_api_settings_are_examined_as_the_doctor_does_and_nothing_is_stored() {
    let world = CloudWorld::starting(options(&["ann", "bob"]), &[("GENESYS_ALL_USERS", "true")]).await;
    world.sees(2).await;
    let url = world.cloud.api_url();
    let settings = json!({
        "name": "desk", "api_url": url, "login_url": url, "client_id": "sim-client",
        "client_secret": "sim-secret", "all_users": true,
    });
    let good = examined(&world, &settings).await;
    assert_eq!(good["works"], true);
    assert_eq!(steps(&good)[..4], ["settings", "login", "token", "rosters"]);
    assert_eq!(steps(&good).last(), Some(&"state"));
    let mut wrong = settings.clone();
    wrong["client_secret"] = json!("wrong");
    let bad = examined(&world, &wrong).await;
    assert_eq!((&bad["works"], steps(&bad)), (&json!(false), vec!["settings", "login"]));
    assert!(bad["steps"][1]["remedy"].as_str().unwrap().contains("secret are wrong"));

    // The one from the environment, by its id alone: its secret is meant.
    let source = world.bridge.get("/v1/sources").await.json()["items"][0]["id"].clone();
    let of_source = examined(&world, &json!({"source_id": source, "name": "tried"})).await;
    assert_eq!((&of_source["works"], &of_source["source_id"]), (&json!(true), &source));
    assert_eq!(world.bridge.get("/v1/sources").await.json()["items"].as_array().unwrap().len(), 1);
    let entries = world.audit("SOURCE_EXAMINED").await;
    assert_eq!(entries.len(), 3);
    assert_eq!((&entries[0]["source_id"], &entries[2]["data"]["api_url"]), (&source, &json!(url)));
    assert!(!world.bridge.log().contains("sim-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_api_the_guard_the_rules_and_the_limits_hold_and_tenants_are_apart() {
    let world = CloudWorld::watching(&["ann"]).await;
    let url = world.cloud.api_url();
    let settings = |api_url: &str| {
        json!({
            "name": "desk", "api_url": api_url, "login_url": api_url, "client_id": "sim-client",
            "client_secret": "sim-secret", "all_users": true,
        })
    };
    let refused = world.bridge.post("/v1/sources/examinations", &settings("http://10.0.0.1")).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/api_url")));
    let missing = world.bridge.post("/v1/sources/examinations", &json!({"all_users": true})).await;
    assert_eq!(missing.status, 422, "{}", missing.text());

    for _ in 0..2 {
        let slow = Fault { status: None, ..Fault::status(0).after(Duration::from_secs(3)) };
        world.cloud.fault(Place::Login, slow);
    }
    let first = world.bridge.post("/v1/sources/examinations", &settings(&url)).await;
    let second = world.bridge.post("/v1/sources/examinations", &settings(&url)).await;
    let third = world.bridge.post("/v1/sources/examinations", &settings(&url)).await;
    assert_eq!((first.status, second.status, third.status), (202, 202, 409), "{}", third.text());
    let tenant = world.bridge.post("/v1/tenants", &json!({"name": "other"})).await.json()["id"].clone();
    let key = json!({"name": "theirs", "scopes": ["read", "sources"], "tenant_id": tenant});
    let key = world.bridge.post("/v1/api-keys", &key).await.json()["key"].as_str().unwrap().to_owned();
    let path = first.headers["location"].to_str().unwrap();
    assert_eq!(world.bridge.send_as(&key, "GET", path, None).await.status, 404);
    assert_eq!(world.bridge.get(path).await.status, 200);
}
