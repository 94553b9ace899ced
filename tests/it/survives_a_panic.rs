//! A part of the bridge panics: it is started again, and nothing is lost without a word.
//!
//! The program has no switch for that. So it runs within the test here, on one thread, whose log panics at a
//! certain line: whoever writes that line dies of it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use genesys_simulator::clock::parse_rfc3339;
use genesys_simulator::cloud::{Cloud, Deed, Fate, Fault, Place, Reach};
use genesys_simulator::crm::check::Findings;
use genesys_simulator::crm::{Crm, CrmOptions, Secret};
use presence_bridge::config::{Config, Variables};
use presence_bridge::lifecycle;
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber};

use crate::support::bridge::{API_KEY, MASTER_KEY};
use crate::support::chaos::Chaos;
use crate::support::client::Client;
use crate::support::cloud::options;
use crate::support::{SOON, database, eventually};

const STATES: [&str; 2] = ["BUSY", "AWAY"];

/// A log that panics as often as wanted when it is told a certain line.
#[derive(Clone)]
struct Deadly {
    line: &'static str,
    left: Arc<AtomicU32>,
}

impl Deadly {
    fn at(line: &'static str) -> (Self, DefaultGuard) {
        let deadly = Self { line, left: Arc::default() };
        let guard = tracing::subscriber::set_default(deadly.clone());
        (deadly, guard)
    }

    fn kill(&self, times: u32) {
        self.left.store(times, Ordering::SeqCst);
    }

    fn has_killed(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Deadly {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("presence_bridge")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let less = |left: u32| left.checked_sub(1);
        if line.0 == self.line && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            panic!("on purpose, at: {}", self.line);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A bridge within this thread, the platform that it listens to, and a receiver.
struct Within {
    cloud: Cloud,
    crm: Crm,
    client: Client,
}

impl Within {
    async fn start(database_url: &str, agents: &[&str]) -> Self {
        let cloud = Cloud::start(options(agents)).await.unwrap();
        let crm = Crm::start(CrmOptions::default()).await.unwrap();
        // Where it listens is told by a line of the log only, so it is chosen here.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (api_url, list) = (cloud.api_url(), agents.join(","));
        let variables = Variables::from_pairs([
            ("DATABASE_URL", database_url),
            ("BRIDGE_LISTEN", listen.as_str()),
            ("BRIDGE_API_KEY", API_KEY),
            ("BRIDGE_MASTER_KEY", MASTER_KEY),
            ("BRIDGE_ALLOW_TARGETS", "127.0.0.0/8"),
            ("GENESYS_API_URL", api_url.as_str()),
            ("GENESYS_LOGIN_URL", api_url.as_str()),
            ("GENESYS_CLIENT_ID", "sim-client"),
            ("GENESYS_CLIENT_SECRET", "sim-secret"),
            ("GENESYS_AGENTS", list.as_str()),
        ]);
        actix_web::rt::spawn(lifecycle::run(Config::from_variables(&variables).unwrap()));
        let within = Self { cloud, crm, client: Client::new(format!("http://{listen}")) };
        within.cloud.wait_until(|seen| seen.watched() == agents.len(), SOON).await.unwrap();
        let secret = within.send("POST", "/v1/webhooks", &json!({"url": within.crm.url("/hooks/a")})).await;
        let secret = Secret::parse(secret["secret"].as_str().unwrap()).unwrap();
        within.crm.set_secrets_of("/hooks/a", vec![secret]);
        within
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let key = format!("Bearer {API_KEY}");
        let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
        let body = (!body.is_null()).then(|| body.to_string().into_bytes());
        self.client.try_send(method, path, &headers, body).await.expect("the API answers").json()
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        self.send("GET", path, &Value::Null).await["items"].as_array().unwrap().clone()
    }

    /// Waits until the audit log tells that this part was started again; gives that entry.
    async fn restarted(&self, actor: &str) -> Value {
        eventually("a part is started again", || async {
            let entries = self.items("/v1/audit?kind=ACTOR_RESTARTED").await;
            entries.into_iter().find(|entry| entry["data"]["actor"] == actor)
        })
        .await
    }
}

#[actix_web::test]
async fn a_dispatch_loop_that_panics_is_started_again_and_everything_is_delivered_in_order() {
    let agents = ["ann", "bob", "cid"];
    let wire = Chaos::before(&database::create().await).await;
    // What it says when the answer to a commit is lost, with deliveries leased and answers to write down.
    let (log, _guard) = Deadly::at("failed to settle and claim deliveries; retrying after the delay");
    let within = Within::start(&wire.url(), &agents).await;
    log.kill(1);
    let mut sent = Vec::new();
    let mut rounds = 0..;
    for round in rounds.by_ref() {
        for agent in agents {
            sent.push(within.cloud.push_presence(agent, STATES[round % 2]));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        if log.has_killed() {
            break;
        }
        assert!(round < 500, "no cycle lost its answer");
        wire.swallow_commits(1);
    }
    // Each another state than the one before: what is known already is not told again.
    for round in rounds.take(20) {
        for agent in agents {
            sent.push(within.cloud.push_presence(agent, STATES[round % 2]));
        }
    }
    within.restarted("dispatcher").await;
    let all = |posts: &[_]| Findings::of(posts, sent.iter().copied()).missing.is_empty();
    let posts = within.crm.wait_until(all, SOON).await;
    let posts = posts.unwrap_or_else(|_| within.crm.posts());
    let findings = Findings::of(&posts, sent.iter().copied());
    assert!(findings.is_clean(), "{findings:#?}");
}

#[actix_web::test]
async fn a_connection_that_panics_is_started_again_and_what_it_missed_is_told_as_a_gap() {
    let agents = ["ann", "bob"];
    // What its actor says when the platform announces that it closes the socket.
    let (log, _guard) = Deadly::at("replacing a connection while it is open");
    let within = Within::start(&database::create().await, &agents).await;
    let before = within.cloud.set_presence("ann", "BUSY").await;
    // Whoever starts it again is not let in before something was missed.
    within.cloud.fault(Place::Upgrade, Fault::status(503).times(u32::MAX));
    log.kill(1);
    within.cloud.obey(Deed::Maintenance { reach: Reach::default(), grace_ms: 60_000 });
    eventually("it dies", || async { log.has_killed().then_some(()) }).await;
    within.cloud.wait_until(|seen| seen.watched() == 0, SOON).await.expect("its socket dies with it");
    let missed = within.cloud.push_presence("ann", "AWAY");
    within.cloud.obey(Deed::ClearFaults);
    let restarted = within.restarted("connection").await;
    assert_eq!(restarted["level"], "ERROR");
    within.cloud.wait_until(|seen| seen.watched() == agents.len(), SOON).await.unwrap();
    let gap = eventually("the gap is closed", || async {
        let gaps = within.items("/v1/gaps").await;
        gaps.into_iter()
            .find(|gap| gap["agents"].as_array().unwrap().contains(&json!("ann")) && !gap["to"].is_null())
    })
    .await;
    let missed = within.cloud.change(missed).unwrap();
    assert_ne!(missed.fate, Fate::Written, "it was meant to be missed");
    let time = |field: &str| parse_rfc3339(gap[field].as_str().unwrap()).unwrap();
    assert!(time("from") <= missed.at && missed.at <= time("to"), "{gap}");
    // The present state is read, and what comes then is pushed again.
    eventually("what was missed is read", || async {
        let agent = within.send("GET", "/v1/agents/ann", &Value::Null).await;
        (agent["presence"]["system"] == "AWAY").then_some(())
    })
    .await;
    let after = within.cloud.set_presence("ann", "BUSY").await;
    assert_eq!(after.fate, Fate::Written);
    let told =
        |number| move |posts: &[Arc<_>]| Findings::of(posts, [before.number, number]).missing.is_empty();
    let posts = within.crm.wait_until(told(after.number), SOON).await.expect("changes are delivered again");
    let findings = Findings::of(&posts, [before.number, after.number]);
    assert!(findings.is_clean(), "{findings:#?}");
}
