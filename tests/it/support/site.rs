//! A bridge that has something to show on each page of the console, written by people who mean it ill
//! wherever somebody else may write: harmless markup, which must be text.

use genesys_simulator::cloud::{Deed, Reach};
use genesys_simulator::crm::Behaviour;
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::cloud::{CloudWorld, options};
use super::{bridge::API_KEY, eventually};

/// Would be two elements if it were not shown as text: in the text of an element, and in an attribute.
pub const HOSTILE: &str = r#"<b id="marker">x</b>"><i data-marker>y</i>"#;
/// What finds them.
pub const MARKED: &str = "#marker, [data-marker]";

pub struct Site {
    pub world: CloudWorld,
    /// A key that may read and no more.
    pub reader: String,
    /// A key with every right of another tenant, which has nothing.
    pub other: String,
}

impl Site {
    /// Three agents, two sources, three webhooks, one of them paused and one whose receiver fails, deliveries
    /// of each end, a gap, and malformed content.
    pub async fn start() -> Self {
        let agents = ["agent-1", "agent-2", "agent-3"];
        let variables = [("GENESYS_AGENTS", "agent-1,agent-2"), ("BRIDGE_API_RATE", "off")];
        let world = CloudWorld::starting(options(&agents), &variables).await;
        world.sees(2).await;
        let reader = key(&world, json!({"name": HOSTILE, "scopes": ["read"]})).await;
        let tenant = made(&world, "/v1/tenants", &json!({"name": HOSTILE})).await["id"].clone();
        let scopes = ["read", "webhooks", "sources", "audit", "admin"];
        let other = key(&world, json!({"name": "other", "scopes": scopes, "tenant_id": tenant})).await;
        let site = Self { world, reader, other };
        site.upstream().await;
        site.deliveries().await;
        site
    }

    async fn upstream(&self) {
        let world = &self.world;
        let source = json!({
            "name": HOSTILE, "api_url": world.cloud.api_url(), "login_url": world.cloud.api_url(),
            "client_id": "sim-client", "client_secret": "sim-secret", "agents": ["agent-3"],
        });
        for agent in ["agent-1", "agent-3"] {
            world.cloud.obey(Deed::Rename { agent: agent.into(), name: HOSTILE.into() });
            world.cloud.obey(Deed::Message { agent: agent.into(), message: HOSTILE.into() });
        }
        made(world, "/v1/sources", &source).await;
        world.sees(3).await;
        world.cloud.obey(Deed::Text { reach: Reach::All, text: HOSTILE.into() });
        world.cloud.obey(Deed::Drop { reach: Reach::All });
        eventually("malformed content and a gap", || async {
            let [malformed, gaps] = [self.items("/v1/quarantine").await, self.items("/v1/gaps").await];
            (!malformed.is_empty() && !gaps.is_empty()).then_some(())
        })
        .await;
        world.sees(3).await;
    }

    async fn deliveries(&self) {
        let world = &self.world;
        world.crm.always("/bad", Behaviour::status(500).header("x-answer", HOSTILE).body(HOSTILE));
        for (path, schedule) in [("/good", json!([1])), ("/bad", json!([])), ("/paused", json!([1]))] {
            world.register(path, json!({"description": HOSTILE, "retry_schedule_seconds": schedule})).await;
        }
        let paused = self.webhook("/paused").await;
        made(world, &format!("/v1/webhooks/{paused}/pause"), &json!({})).await;
        for agent in ["agent-1", "agent-2", "agent-3"] {
            let named = json!({"external_id": format!("{HOSTILE} {agent}")});
            assert_eq!(world.bridge.patch(&format!("/v1/agents/{agent}"), &named).await.status, 200);
            world.cloud.push_presence(agent, "AVAILABLE");
        }
        // One that fails has the others wait.
        for (state, at_least) in [("delivered", 3), ("dead", 1), ("paused", 3)] {
            eventually(state, || async {
                (self.items(&format!("/v1/deliveries?state={state}")).await.len() >= at_least).then_some(())
            })
            .await;
        }
    }

    /// The id of the webhook at a path of the receiver.
    pub async fn webhook(&self, path: &str) -> String {
        let url = json!(self.world.crm.url(path));
        let hooks = self.items("/v1/webhooks").await;
        hooks.iter().find(|hook| hook["url"] == url).unwrap()["id"].as_str().unwrap().to_owned()
    }

    pub async fn items(&self, path: &str) -> Vec<Value> {
        self.world.bridge.get(path).await.json()["items"].as_array().cloned().unwrap_or_default()
    }

    /// Asks the console as a page of it would, with a browser's cookies.
    pub async fn ask(&self, cookies: &str, method: &str, path: &str) -> Answer {
        let origin = self.world.bridge.url.as_str();
        let mut headers = vec![("cookie", cookies)];
        if method == "POST" {
            headers.extend([("origin", origin), ("content-type", "application/x-www-form-urlencoded")]);
        }
        Client::new(origin.to_owned()).try_send(method, path, &headers, None).await.expect("an answer")
    }
}

async fn made(world: &CloudWorld, path: &str, fields: &Value) -> Value {
    let answer = world.bridge.send_as(API_KEY, "POST", path, Some(fields)).await;
    assert!((200..300).contains(&answer.status), "{path}: {}", answer.text());
    answer.json()
}

async fn key(world: &CloudWorld, fields: Value) -> String {
    made(world, "/v1/api-keys", &fields).await["key"].as_str().unwrap().to_owned()
}
