//! The buttons of the console, pressed in a real browser with JavaScript and without, and what they do to the
//! bridge. What each form refuses stands in `console_….rs` of its pages, without a browser.

use genesys_simulator::crm::Behaviour;
use serde_json::json;

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
    /// Twice, the second time without JavaScript; none where no browser can be had.
    async fn both() -> Vec<Self> {
        let mut both = Vec::new();
        for scripts in [true, false] {
            let world = CloudWorld::watching(&["ann"]).await;
            let Some(browser) = Browser::start(&world.bridge.url).await else { return both };
            if !scripts {
                browser.without_javascript().await;
            }
            browser.log_in(API_KEY).await;
            both.push(Self { world, browser, scripts });
        }
        both
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

    /// Who is said to have done something, newest first.
    async fn done_by(&self, kind: &str) -> Vec<String> {
        let entries = self.world.audit(kind).await;
        entries.iter().map(|entry| entry["principal"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_given_up_is_tried_again() {
    for visit in Visit::both().await {
        let Visit { world, browser, .. } = &visit;
        world.crm.always("/hook", Behaviour::status(500));
        world.register("/hook", json!({"retry_schedule_seconds": []})).await;
        world.cloud.push_presence("ann", "AVAILABLE");
        world.audit_of("DELIVERY_ATTEMPT", 1).await;
        browser.goto("/console/deliveries?state=dead").await;
        browser.click("tbody th a").await;
        world.crm.always("/hook", Behaviour::status(204));
        visit.press("Try again now", "It is tried again now.").await;
        visit.comes_to_say("delivered").await;
        assert_eq!(visit.done_by("DELIVERY_RETRIED").await, ["api-key:bootstrap"]);
        let faults = browser.faults().await;
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_deliveries_that_match_are_tried_again_after_a_question() {
    for visit in Visit::both().await {
        let Visit { world, browser, .. } = &visit;
        let hook = world.register("/hook", json!({})).await;
        world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await;
        for state in ["AVAILABLE", "BUSY"] {
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
        browser.says("2 deliveries to 1 webhook would be tried again").await;
        visit.press("Try 2 deliveries again", "2 deliveries to 1 webhook tried again.").await;
        visit.comes_to_say("done").await;
        assert_eq!(visit.done_by("RECOVERY_REQUESTED").await, ["api-key:bootstrap"]);
        let faults = browser.faults().await;
        assert!(faults.is_empty(), "{faults:#?}");
    }
}
