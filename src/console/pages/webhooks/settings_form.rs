//! The settings of a webhook as a form sends them, all of them each time. What they may be is for
//! `services/webhooks.rs` to say, as of a body of the REST API.

use serde::{Deserialize, Serialize};

use crate::console::Result;
use crate::console::fields::{integer, items};
use crate::domain::violation::Violation;
use crate::domain::webhook::delivery_settings_input::{BatchInput, DeliveryInput};
use crate::domain::webhook::{WebhookInput, WebhookSettings};
use crate::services;
use crate::services::caller::Caller;

/// Every field as it was typed; what was not sent is empty.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct SettingsForm {
    pub url: String,
    pub description: String,
    pub events: Vec<String>,
    pub agents: String,
    pub topics: String,
    pub presences: String,
    pub sources: Vec<String>,
    pub queues: String,
    pub routing_statuses: String,
    pub transitions: String,
    pub format: String,
    pub signatures: Vec<String>,
    pub verification: String,
    pub mode: String,
    pub max_age_seconds: String,
    pub min_dwell_ms: String,
    #[serde(rename = "batch/max_items")]
    pub batch_max_items: String,
    #[serde(rename = "batch/max_wait_ms")]
    pub batch_max_wait_ms: String,
    #[serde(rename = "batch/max_bytes")]
    pub batch_max_bytes: String,
    pub retry_schedule_seconds: String,
    pub timeout_ms: String,
    pub max_concurrency: String,
    #[serde(rename = "rate_limit/requests")]
    pub rate_requests: String,
    #[serde(rename = "rate_limit/per_seconds")]
    pub rate_per_seconds: String,
    pub disable_after_seconds: String,
}

/// What stands for a schedule without retries.
pub const NO_RETRIES: &str = "none";

impl SettingsForm {
    /// The form that says what these settings say.
    pub fn of(settings: &WebhookSettings) -> Self {
        let delivery = &settings.delivery;
        let optional = |number: Option<String>| number.unwrap_or_default();
        let schedule = delivery.retry_schedule.as_ref().map(|waits| match waits.as_slice() {
            [] => NO_RETRIES.to_owned(),
            waits => waits.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        });
        Self {
            url: settings.url.clone(),
            description: settings.description.clone(),
            events: settings.events.clone(),
            agents: settings.agents.join("\n"),
            topics: settings.topics.join("\n"),
            presences: settings.presences.join("\n"),
            sources: settings.sources.iter().map(ToString::to_string).collect(),
            queues: settings.queues.join("\n"),
            routing_statuses: settings.routing_statuses.join("\n"),
            transitions: settings.transitions.join("\n"),
            format: delivery.format.as_str().to_owned(),
            signatures: settings.signatures.words().into_iter().map(str::to_owned).collect(),
            verification: settings.verification.as_str().to_owned(),
            mode: delivery.mode.as_str().to_owned(),
            max_age_seconds: optional(delivery.max_age.map(|age| age.as_secs().to_string())),
            min_dwell_ms: delivery.min_dwell.as_millis().to_string(),
            batch_max_items: optional(delivery.batch.map(|batch| batch.max_items.to_string())),
            batch_max_wait_ms: optional(delivery.batch.map(|batch| batch.max_wait.as_millis().to_string())),
            batch_max_bytes: optional(delivery.batch.map(|batch| batch.max_bytes.to_string())),
            retry_schedule_seconds: optional(schedule),
            timeout_ms: delivery.timeout.as_millis().to_string(),
            max_concurrency: delivery.max_concurrency.to_string(),
            rate_requests: optional(delivery.rate_limit.map(|limit| limit.requests.to_string())),
            rate_per_seconds: optional(delivery.rate_limit.map(|limit| limit.per.as_secs().to_string())),
            disable_after_seconds: delivery.disable_after.as_secs().to_string(),
        }
    }

    /// The fields as `services/webhooks.rs` takes them, and what could not be read.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn read(&self, caller: &Caller) -> Result<(WebhookInput, Vec<Violation>)> {
        let (sources, mut wrong) = services::webhooks::read_sources(caller, &self.sources).await?;
        let input = WebhookInput {
            url: Some(self.url.trim().to_owned()),
            // Forms send line breaks as two characters.
            description: Some(self.description.replace("\r\n", "\n")),
            agents: Some(items(&self.agents)),
            topics: Some(items(&self.topics)),
            presences: Some(items(&self.presences)),
            sources: Some(sources),
            queues: Some(items(&self.queues)),
            routing_statuses: Some(items(&self.routing_statuses)),
            transitions: Some(items(&self.transitions)),
            events: Some(self.events.clone()),
            delivery: self.read_delivery(&mut wrong),
            ..WebhookInput::default()
        };
        Ok((input, wrong))
    }

    fn read_delivery(&self, wrong: &mut Vec<Violation>) -> DeliveryInput {
        let word = |text: &String| (!text.is_empty()).then(|| text.clone());
        DeliveryInput {
            mode: word(&self.mode),
            max_age_seconds: Some(integer("max_age_seconds", &self.max_age_seconds, wrong)),
            min_dwell_ms: integer("min_dwell_ms", &self.min_dwell_ms, wrong),
            batch: Some(self.read_batch(wrong)),
            retry_schedule_seconds: Some(self.read_schedule(wrong)),
            timeout_ms: integer("timeout_ms", &self.timeout_ms, wrong),
            max_concurrency: integer("max_concurrency", &self.max_concurrency, wrong),
            rate_limit: Some(both(
                ("rate_limit/requests", &self.rate_requests),
                ("rate_limit/per_seconds", &self.rate_per_seconds),
                false,
                wrong,
            )),
            disable_after_seconds: integer("disable_after_seconds", &self.disable_after_seconds, wrong),
            format: word(&self.format),
            signatures: Some(self.signatures.clone()),
            verification: word(&self.verification),
        }
    }

    fn read_batch(&self, wrong: &mut Vec<Violation>) -> Option<BatchInput> {
        let max_bytes = integer("batch/max_bytes", &self.batch_max_bytes, wrong);
        let (max_items, max_wait_ms) = both(
            ("batch/max_items", &self.batch_max_items),
            ("batch/max_wait_ms", &self.batch_max_wait_ms),
            !self.batch_max_bytes.trim().is_empty(),
            wrong,
        )?;
        Some(BatchInput { max_items, max_wait_ms, max_bytes })
    }

    /// Seconds, with blanks or commas between them.
    fn read_schedule(&self, wrong: &mut Vec<Violation>) -> Option<Vec<i32>> {
        let text = self.retry_schedule_seconds.trim();
        if text.is_empty() {
            return None;
        }
        if text.eq_ignore_ascii_case(NO_RETRIES) {
            return Some(Vec::new());
        }
        let waits = text.split([' ', ',', '\t', '\r', '\n']).filter(|wait| !wait.is_empty());
        waits.map(|wait| integer("retry_schedule_seconds", wait, wrong)).collect()
    }
}

/// Two whole numbers that go together: if one is given, or `wanted`, both must be.
fn both(
    (first, first_text): (&str, &str),
    (second, second_text): (&str, &str),
    wanted: bool,
    wrong: &mut Vec<Violation>,
) -> Option<(i32, i32)> {
    let given = |text: &str| !text.trim().is_empty();
    if !wanted && !given(first_text) && !given(second_text) {
        return None;
    }
    for (name, text) in [(first, first_text), (second, second_text)] {
        if !given(text) {
            wrong.push(Violation::new(name, "is missing"));
        }
    }
    let (first, second) = (integer(first, first_text, wrong), integer(second, second_text, wrong));
    first.zip(second)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read_delivery(form: &SettingsForm) -> (DeliveryInput, Vec<String>) {
        let mut wrong = Vec::new();
        let input = form.read_delivery(&mut wrong);
        (input, wrong.into_iter().map(|violation| violation.to_string()).collect())
    }

    #[test]
    fn a_form_that_nobody_touched_says_what_the_settings_say() {
        let form = SettingsForm::of(&WebhookSettings::default());
        let (input, wrong) = read_delivery(&form);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(input.batch.map(|batch| batch.is_some()), Some(false));
        assert_eq!(input.retry_schedule_seconds, Some(None));
        assert_eq!(input.rate_limit, Some(None));
        assert_eq!(input.timeout_ms, Some(15_000));
        assert_eq!(input.mode.as_deref(), Some("every"));
    }

    #[test]
    fn two_numbers_that_go_together_are_both_asked_for() {
        let form = SettingsForm {
            batch_max_bytes: "4096".to_owned(),
            batch_max_items: "10".to_owned(),
            rate_per_seconds: "x".to_owned(),
            ..SettingsForm::default()
        };
        let (_, wrong) = read_delivery(&form);
        assert_eq!(
            wrong,
            [
                "batch/max_wait_ms is missing",
                "rate_limit/requests is missing",
                "rate_limit/per_seconds is no whole number of the allowed size",
            ]
        );
    }

    #[test]
    fn a_schedule_is_read_with_blanks_and_commas_and_a_word_for_none() {
        let schedule = |text: &str| {
            let form = SettingsForm { retry_schedule_seconds: text.to_owned(), ..SettingsForm::default() };
            read_delivery(&form).0.retry_schedule_seconds.unwrap()
        };
        assert_eq!(schedule("5, 30 300"), Some(vec![5, 30, 300]));
        assert_eq!(schedule("None"), Some(Vec::new()));
        assert_eq!(schedule(" "), None);
    }
}
