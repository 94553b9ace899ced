//! `presence-bridge doctor`: each trouble that a newcomer meets is named, with what to do about it.

use std::time::Duration;

use genesys_simulator::cloud::{ClientState, Cloud, Deed, Fault, Manner, Place, Reach};
use tokio::process::Command;

use crate::support::SOON;
use crate::support::cloud::options;

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
