//! Whoever may add sources is an untrusted peer too: none of them leads the bridge to an inner address.
//! Webhooks are tried by scripts/syn-check, packet by packet.

use genesys_simulator::genesys::{Genesys, GenesysOptions};
use serde_json::{Value, json};

use crate::support::bridge::UNSET;
use crate::support::{Bridge, SOON, database, eventually};

fn source(api_url: &str, login_url: Option<&str>) -> Value {
    json!({
        "name": "theirs", "protocol": "realtime", "api_url": api_url, "login_url": login_url, "client_id": "sim-client",
        "client_secret": "sim-secret", "agents": ["ann"], "topic_matrix": {"topics": ["routing:agent:state"]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_from_the_api_may_not_have_an_inner_address() {
    let bridge = Bridge::start(&[("BRIDGE_ALLOW_TARGETS", UNSET)]).await;
    for url in [
        "http://127.0.0.1:9",
        "https://127.0.0.1",
        "https://0x7f.1",
        "https://localhost",
        "https://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]",
        "http://api.example.com",
        &bridge.url.replace("http", "https"),
    ] {
        let elsewhere = "https://api.example.com";
        for (body, field) in [(source(url, None), "/api_url"), (source(elsewhere, Some(url)), "/login_url")] {
            let refused = bridge.post("/v1/sources", &body).await;
            assert_eq!(refused.status, 422, "{url}: {}", refused.text());
            assert_eq!(refused.json()["errors"][0]["pointer"], field, "{url}");
        }
    }
}

/// A name may lead elsewhere when it is dialled than when it was registered; so does a row that was changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_from_the_api_is_checked_again_whenever_it_is_dialled() {
    let inner = Genesys::start(GenesysOptions::default()).await.unwrap();
    let mut bridge = Bridge::start(&[]).await;
    let added = bridge.post("/v1/sources", &source(&inner.api_url(), None)).await;
    assert_eq!(added.status, 201, "{}", added.text());
    inner.wait_until(|seen| seen.connected() == 1, SOON).await.unwrap();
    bridge.set("BRIDGE_ALLOW_TARGETS", "");
    let pool = database::pool(&bridge.database_url).await;
    let failures = || async {
        let count = sqlx::query_scalar("select count(*) from audit_log where kind = 'TOKEN_FAILED'");
        count.fetch_one(&pool).await.unwrap()
    };
    let requests = || inner.snapshot().tally.requests.values().sum::<u64>();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        bridge.kill().await;
        let url = inner.api_url().replace("127.0.0.1", host);
        sqlx::query("update source set api_url = $1, version = version + 1")
            .bind(&url)
            .execute(&pool)
            .await
            .unwrap();
        let (failed, asked): (i64, u64) = (failures().await, requests());
        bridge.restart().await;
        eventually("it was tried", || async { (failures().await > failed).then_some(()) }).await;
        assert_eq!(requests(), asked, "{url}: something came");
    }
}

/// What docker-compose.yml opens by itself: two services of the demo, and not this machine behind their network.
#[tokio::test(flavor = "multi_thread")]
async fn compose_opens_the_services_of_the_demo_and_nothing_without_them() {
    let compose = include_str!("../../docker-compose.yml");
    let opened = compose.split_once("${BRIDGE_ALLOW_TARGETS:-").unwrap().1.split_once('}').unwrap().0;
    let services: Vec<_> = compose.split("\n\n").filter(|block| block.contains("    image: ")).collect();
    for address in opened.split(',').map(|network| network.strip_suffix("/32").expect("one address")) {
        let holders =
            services.iter().filter(|service| service.contains(&format!("ipv4_address: {address}}}")));
        assert!(holders.clone().count() == 1 && holders.clone().all(|one| one.contains("profiles: [demo]")));
    }
    assert_eq!(compose.matches("    image: ").count(), compose.matches("    logging: *logging\n").count());
    assert!(compose.contains("max-size: ") && compose.contains("max-file: "));
    let bridge = Bridge::start(&[("BRIDGE_ALLOW_TARGETS", opened)]).await;
    for (address, status) in [("10.213.77.11:9091", 201), ("10.213.77.1", 422), ("10.213.77.129", 422)] {
        let answer = bridge.post("/v1/webhooks", &json!({"url": format!("http://{address}/presence")})).await;
        assert_eq!(answer.status, status, "{address}: {}", answer.text());
    }
}
