//! The buttons of the console, pressed in a real browser with JavaScript and without, and what they do to the
//! bridge. What each form refuses stands in `console_….rs` of its pages, without a browser.

use genesys_simulator::crm::{Behaviour, Secret};
use serde_json::{Value, json};

use crate::support::bridge::API_KEY;
use crate::support::browser::Browser;
use crate::support::cloud::CloudWorld;
use crate::support::{database, eventually, look};

/// A bridge, and a browser that is logged in.
struct Visit {
    world: CloudWorld,
    browser: Browser,
    scripts: bool,
}

impl Visit {
    /// `None` where no browser can be had.
    async fn start(scripts: bool) -> Option<Self> {
        let world = CloudWorld::watching(&["ann"]).await;
        let browser = Browser::start(&world.bridge.url).await?;
        if !scripts {
            browser.without_javascript().await;
        }
        browser.log_in(API_KEY).await;
        Some(Self { world, browser, scripts })
    }

    /// Presses the button of this name, and waits until the page says that it is done.
    async fn press(&self, button: &str, said: &str) {
        self.browser.press(button).await;
        self.browser.says(said).await;
    }

    /// Waits until the page says this: by itself, or when it is loaded again.
    async fn comes_to_say(&self, text: &str) {
        if self.scripts {
            self.browser.says(text).await;
            return;
        }
        eventually(text, || async {
            self.browser.goto(&self.browser.path().await).await;
            self.browser.text().await.contains(text).then_some(())
        })
        .await;
    }

    /// Who is said to have done something last.
    async fn done_by(&self, kind: &str) -> String {
        let entries = self.world.audit(kind).await;
        let last = entries.first().unwrap_or_else(|| panic!("nobody has done {kind}"));
        last["principal"].as_str().unwrap_or_default().to_owned()
    }

    async fn first(&self, path: &str) -> Value {
        self.world.bridge.get(path).await.json()["items"][0].clone()
    }

    /// Of what was begun before, nothing is in the way.
    async fn delete_webhook(&self, id: &str) {
        assert_eq!(self.world.bridge.delete(&format!("/v1/webhooks/{id}")).await.status, 204);
    }
}

/// One after the other at one bridge: starting it and a browser takes longer than all of them.
async fn press_everything(scripts: bool) {
    let Some(visit) = Visit::start(scripts).await else { return };
    a_delivery_that_was_given_up_is_tried_again(&visit).await;
    all_deliveries_that_match_are_tried_again_after_a_question(&visit).await;
    a_webhook_is_registered_tried_changed_and_deleted(&visit).await;
    an_agent_gets_its_id_in_the_crm(&visit).await;
    a_key_is_made_and_revoked(&visit).await;
    the_audit_log_is_checked_to_its_end(&visit).await;
    a_connection_is_restarted_and_terminated_and_its_source_removed(&visit).await;
    let faults = visit.browser.faults().await;
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_button_does_what_it_says() {
    press_everything(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_button_does_so_without_javascript() {
    press_everything(false).await;
}

async fn a_delivery_that_was_given_up_is_tried_again(visit: &Visit) {
    let Visit { world, browser, .. } = visit;
    world.crm.always("/gives-up", Behaviour::status(500));
    let hook = world.register("/gives-up", json!({"retry_schedule_seconds": []})).await;
    world.cloud.push_presence("ann", "AVAILABLE");
    world.audit_of("DELIVERY_ATTEMPT", 1).await;
    browser.goto("/console/deliveries?state=dead").await;
    browser.click("tbody th a").await;
    world.crm.always("/gives-up", Behaviour::status(204));
    visit.press("Try again now", "It is tried again now.").await;
    visit.comes_to_say("delivered").await;
    assert_eq!(visit.done_by("DELIVERY_RETRIED").await, "api-key:bootstrap");
    visit.delete_webhook(&hook).await;
}

async fn all_deliveries_that_match_are_tried_again_after_a_question(visit: &Visit) {
    let Visit { world, browser, .. } = visit;
    let hook = world.register("/waits", json!({})).await;
    world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await;
    for state in ["MEAL", "BUSY"] {
        world.cloud.push_presence("ann", state);
    }
    let given_up = database::pool(&world.bridge.database_url).await;
    eventually("both are given up", || async {
        look::give_up(&given_up).await;
        let dead = look::all(&world.bridge, "/v1/deliveries?state=dead").await;
        (dead.len() == 2).then_some(())
    })
    .await;
    browser.goto("/console/deliveries?state=dead").await;
    browser.follow("Try all that match again").await;
    browser.says("2 deliveries to 1 webhook would be").await;
    visit.press("Try 2 deliveries again", "2 deliveries to 1 webhook tried again.").await;
    visit.comes_to_say("done").await;
    assert_eq!(visit.done_by("RECOVERY_REQUESTED").await, "api-key:bootstrap");
    visit.delete_webhook(&hook).await;
}

async fn a_webhook_is_registered_tried_changed_and_deleted(visit: &Visit) {
    let Visit { world, browser, scripts } = visit;
    browser.goto("/console/webhooks/new").await;
    browser.fill("[name=url]", &world.crm.url("/hook")).await;
    browser.fill("[name=description]", "CRM of the north").await;
    visit.press("Register", "This is shown once.").await;
    let secret = browser.find("[data-secret]").await.text().await.unwrap();
    world.crm.set_secrets_of("/hook", vec![Secret::parse(&secret).unwrap()]);
    if *scripts {
        // It stays on the page that shows the secret.
        visit.press("Send a test ping", "Your receiver took it.").await;
        browser.says(&secret).await;
        browser.follow("Go to the webhook").await;
    } else {
        browser.follow("Go to the webhook").await;
        visit.press("Send a test ping", "A test ping is on its way.").await;
        visit.comes_to_say("Your receiver took it.").await;
        browser.follow("Back to the webhook").await;
    }
    let pings = world.crm.received("/hook");
    assert!(!pings.is_empty() && pings.iter().all(|ping| ping.verified()));
    change(visit).await;
    end(visit).await;
}

/// Everything that can be done to a webhook that lives; the page of one is shown.
async fn change(visit: &Visit) {
    let Visit { world, browser, .. } = visit;
    let page = browser.path().await;
    visit.press("Pause", "It is paused").await;
    visit.press("Resume", "It is resumed").await;
    visit.press("Send a snapshot", "It is sent the present state").await;

    browser.follow("Edit settings").await;
    browser.fill("[name=description]", "CRM of the south").await;
    visit.press("See what changes", "CRM of the north").await;
    assert!(browser.text().await.contains("CRM of the south"), "old and new");
    visit.press("Save", "Saved: ").await;
    browser.says("CRM of the south").await;

    browser.follow("Rotate the secret").await;
    visit.press("Rotate", "This is shown once.").await;
    let secret = browser.find("[data-secret]").await.text().await.unwrap();
    world.crm.set_secrets_of("/hook", vec![Secret::parse(&secret).unwrap()]);

    browser.goto(&page).await;
    browser.follow("Recover").await;
    visit.press("Recover", "The recovery has begun.").await;
    visit.comes_to_say("done").await;

    world.crm.always("/hook", Behaviour::status(410));
    world.cloud.push_presence("ann", "AWAY");
    world.audit_of("WEBHOOK_DISABLED", 1).await;
    world.crm.always("/hook", Behaviour::status(204));
    browser.goto(&page).await;
    visit.press("Enable", "It is enabled").await;
    for kind in ["WEBHOOK_PAUSED", "WEBHOOK_RESUMED", "WEBHOOK_UPDATED", "WEBHOOK_ENABLED"] {
        assert_eq!(visit.done_by(kind).await, "api-key:bootstrap", "{kind}");
    }
}

/// It is deleted by whoever knows its name.
async fn end(visit: &Visit) {
    visit.browser.follow("Delete").await;
    visit.browser.fill("[name=name]", "another").await;
    visit.press("Delete", "is not its name").await;
    // Chromium itself notes the answer's status, and there was nothing else until now.
    let faults = visit.browser.faults().await;
    assert!(faults.len() == 1 && faults[0].contains("a status of 422"), "{faults:#?}");
    visit.browser.fill("[name=name]", "CRM of the south").await;
    visit.press("Delete", "CRM of the south is deleted.").await;
    assert_eq!(visit.first("/v1/webhooks").await, Value::Null);
}

async fn an_agent_gets_its_id_in_the_crm(visit: &Visit) {
    visit.browser.goto("/console/agents/ann").await;
    visit.browser.fill("[name=external_id]", "crm-7").await;
    visit.browser.press("Save").await;
    eventually("it is saved", || async {
        (visit.world.agent("ann").await["external_id"] == "crm-7").then_some(())
    })
    .await;
    assert_eq!(visit.done_by("AGENTS_MAPPED").await, "api-key:bootstrap");
}

async fn a_key_is_made_and_revoked(visit: &Visit) {
    let browser = &visit.browser;
    browser.goto("/console/keys").await;
    browser.follow("Create a key").await;
    browser.fill("[name=name]", "crm").await;
    visit.press("Create", "Copy it now").await;
    browser.follow("See the key").await;
    browser.follow("Revoke").await;
    visit.press("Revoke", "Key crm is revoked.").await;
    let keys = look::all(&visit.world.bridge, "/v1/api-keys").await;
    let made = keys.iter().find(|key| key["name"] == "crm").unwrap();
    assert_eq!(made["state"], "revoked");
}

async fn the_audit_log_is_checked_to_its_end(visit: &Visit) {
    visit.browser.goto("/console/audit/verifications").await;
    visit.press("Check the whole log", "The check has begun.").await;
    visit.comes_to_say("Every entry is as it was sealed.").await;
}

async fn a_connection_is_restarted_and_terminated_and_its_source_removed(visit: &Visit) {
    let Visit { world, browser, .. } = visit;
    let id = async |path: &str| visit.first(path).await["id"].as_str().unwrap().to_owned();
    browser.goto(&format!("/console/connections/{}", id("/v1/connections").await)).await;
    visit.press("Restart", "is being restarted.").await;
    world.sees(1).await;
    browser.follow("Terminate").await;
    visit.press("Terminate", "is being closed.").await;
    visit.comes_to_say("terminated").await;
    browser.goto(&format!("/console/sources/{}", id("/v1/sources").await)).await;
    visit.press("Read the rosters now", "The rosters are read now").await;
    // This one is of the environment, which alone can remove it.
    assert!(browser.text().await.contains("set by the environment of the process"));
    let added = json!({
        "name": "another", "api_url": world.cloud.api_url(), "login_url": world.cloud.api_url(),
        "client_id": "sim-client", "client_secret": "sim-secret", "agents": ["ann"],
    });
    let added = world.bridge.post("/v1/sources", &added).await.json()["id"].as_str().unwrap().to_owned();
    browser.goto(&format!("/console/sources/{added}")).await;
    browser.follow("Delete").await;
    visit.press("Delete", "The source is deleted.").await;
    assert_eq!(world.bridge.get(&format!("/v1/sources/{added}")).await.status, 404);
}
