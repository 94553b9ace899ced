//! Names of regions, addresses and ids in the forms in which people find them.

use genesys_simulator::cloud::Deed;
use serde_json::{Value, json};

use crate::support::cloud::{CloudWorld, options};
use crate::support::{Bridge, SOON, database, eventually};

const ANN: &str = "0e3a4f2b-1111-4abc-9def-001122334455";
const QUEUE: &str = "7c3a4f2b-2222-4abc-9def-001122334455";

#[tokio::test(flavor = "multi_thread")]
async fn a_guid_in_upper_case_is_the_agent_of_the_same_guid_everywhere() {
    let upper = ANN.to_uppercase();
    let world = CloudWorld::starting(options(&[ANN]), &[("GENESYS_AGENTS", &upper)]).await;
    world.sees(1).await;
    let webhook = world.register("/hooks/upper", json!({})).await;
    let changed =
        world.bridge.patch(&format!("/v1/webhooks/{webhook}"), &json!({"agents": [upper]})).await.json();
    assert_eq!((&changed["agents"], &changed["warnings"]), (&json!([upper]), &json!([])), "{changed}");
    let connections = world.bridge.get(&format!("/v1/connections?agent={upper}")).await.json();
    assert_eq!(connections["items"].as_array().unwrap().len(), 1, "{connections}");
    let mapped = world.bridge.patch(&format!("/v1/agents/{upper}"), &json!({"external_id": "crm-1"})).await;
    assert_eq!((mapped.status, &mapped.json()["agent_id"]), (200, &json!(ANN)));
    world.cloud.set_presence(ANN, "BUSY").await;
    let posts = world.crm.wait_for(1, SOON).await.unwrap();
    let body: Value = serde_json::from_slice(&posts[0].body).unwrap();
    assert_eq!(body["data"]["agent"]["id"], ANN);
    assert_eq!(body["data"]["agent"]["external_id"], "crm-1");
    assert_eq!(world.agent(&upper).await["presence"]["system"], "BUSY");
    let events = world.bridge.get(&format!("/v1/events?agent={upper}")).await.json();
    let event = events["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(event["agent"]["id"], ANN);
    let id = event["event_id"].as_str().unwrap();
    let webhooks = world.bridge.get("/v1/webhooks").await.json();
    let webhook = webhooks["items"][0]["id"].as_str().unwrap();
    let explained = world.bridge.get(&format!("/v1/explain?event={id}&webhook={webhook}")).await.json();
    assert_eq!(explained["matched"]["agents"]["matches"], true, "{explained}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_a_former_version_kept_in_upper_case_goes_on_counting() {
    let mut world = CloudWorld::watching(&[ANN]).await;
    world.cloud.set_presence(ANN, "AVAILABLE").await;
    world.agent_is(ANN, "AVAILABLE").await;
    world.bridge.kill().await;
    let pool = database::pool(&world.bridge.database_url).await;
    for former in [
        "update agent set agent_id = upper(agent_id)",
        "update connection_agent set agent_id = upper(agent_id)",
        "update source set agents = array[upper(agents[1]), agents[1]], queues = array['Sales']",
        "insert into agent_external_id (source_id, agent_id, external_id)
         select source_id, upper(agent_id), 'crm-1' from agent",
        "delete from _sqlx_migrations where version = 36",
    ] {
        sqlx::query(former).execute(&pool).await.unwrap();
    }
    world.bridge.restart().await;
    world.sees(1).await;
    world.cloud.set_presence(ANN, "BUSY").await;
    world.agent_is(ANN, "BUSY").await;
    let events = world.events_of(ANN).await;
    let sequences: Vec<_> = events.iter().map(|event| event["sequence"].as_i64().unwrap()).collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert_eq!(events[2]["agent"]["external_id"], "crm-1");
    let kept: Vec<String> =
        sqlx::query_scalar("select agent_id from agent union all select agent_id from connection_agent")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(kept, [ANN, ANN]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_only_queue_is_empty_is_ready_and_not_stale() {
    let queue = QUEUE.to_uppercase();
    let variables = [("GENESYS_QUEUES", queue.as_str()), ("GENESYS_STALE_AFTER_SECONDS", "5")];
    let world = CloudWorld::starting(options(&[ANN]), &variables).await;
    // As long as nobody knows who is in it, there is something wrong.
    world.audit_of("SOURCE_STALE", 1).await;
    assert_eq!(world.bridge.get("/readyz").await.status, 503);
    world.cloud.obey(Deed::Queue { id: QUEUE.into(), members: Vec::new() });
    let source = world.bridge.get("/v1/sources").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let refreshed = world.bridge.post(&format!("/v1/sources/{source}/refresh"), &json!({})).await;
    assert_eq!(refreshed.status, 202);
    world.audit_of("SOURCE_RECOVERED", 1).await;
    eventually("it is ready", || async { (world.bridge.get("/readyz").await.status == 200).then_some(()) })
        .await;
    world.cloud.obey(Deed::Queue { id: QUEUE.into(), members: vec![ANN.into()] });
    assert_eq!(world.bridge.post(&format!("/v1/sources/{source}/refresh"), &json!({})).await.status, 202);
    world.sees(1).await;
    assert_eq!(world.audit("SOURCE_STALE").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_taken_as_it_is_pasted_and_what_cannot_be_is_refused_by_name() {
    let bridge = Bridge::start(&[]).await;
    let source = |more: Value| {
        let mut fields =
            json!({"name": "pasted", "client_id": "id", "client_secret": "secret", "all_users": true});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    for (region, known) in [
        ("api.mypurecloud.de", "mypurecloud.de"),
        ("https://apps.usw2.pure.cloud/directory/", "usw2.pure.cloud"),
        ("eu_central_1", "mypurecloud.de"),
        ("usw2", "usw2.pure.cloud"),
    ] {
        let made = bridge.post("/v1/sources", &source(json!({"region": region}))).await;
        assert_eq!((made.status, &made.json()["region"]), (201, &json!(known)), "{}", made.text());
        let id = made.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(bridge.delete(&format!("/v1/sources/{id}")).await.status, 204);
    }
    for (wrong, field, what) in [
        (json!({"region": "mypurecloud"}), "/region", "mypurecloud.de (eu-central-1)"),
        (json!({"api_url": "https://api.mypurecloud.de/api/v2"}), "/api_url", "/api/v2"),
        (
            json!({"region": "usw2", "login_url": "https://login.usw2.pure.cloud/oauth/token"}),
            "/login_url",
            "/oauth/token",
        ),
    ] {
        let refused = bridge.post("/v1/sources", &source(wrong)).await;
        assert_eq!(refused.status, 422, "{}", refused.text());
        let error = refused.json()["errors"][0].clone();
        assert_eq!(error["pointer"], field, "{error}");
        assert!(error["detail"].as_str().unwrap().contains(what), "{error}");
    }
}
