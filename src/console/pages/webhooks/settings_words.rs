//! The settings of a webhook in words, to be read and to be compared.

use std::time::Duration;

use maud::{Markup, html};

use super::settings_form::NO_RETRIES;
use crate::domain::plural::plural;
use crate::domain::webhook::WebhookSettings;

/// One setting: its name, what people call it, and what it says.
pub struct Setting {
    pub field: &'static str,
    pub label: &'static str,
    pub value: String,
}

/// Every setting, in the order of the form. Names are those of
/// [`WebhookSettings::fields_changed_by`].
pub fn of(settings: &WebhookSettings) -> Vec<Setting> {
    let delivery = &settings.delivery;
    let all = |items: &[String]| if items.is_empty() { "all".to_owned() } else { items.join(", ") };
    let sources: Vec<String> = settings.sources.iter().map(ToString::to_string).collect();
    let setting = |field, label, value| Setting { field, label, value };
    vec![
        setting("url", "Address", settings.url.clone()),
        setting("description", "Description", settings.description.clone()),
        setting("events", "Events", settings.events.join(", ")),
        setting("agents", "Agents", all(&settings.agents)),
        setting("sources", "Sources", all(&sources)),
        setting("presences", "Presences", all(&settings.presences)),
        setting("queues", "Queues", all(&settings.queues)),
        setting("routing_statuses", "Routing statuses", all(&settings.routing_statuses)),
        setting("transitions", "Transitions", all(&settings.transitions)),
        setting("topics", "Topics", all(&settings.topics)),
        setting("format", "Format", delivery.format.as_str().to_owned()),
        setting("signatures", "Signatures", settings.signatures.words().join(", ")),
        setting("verification", "Verification", settings.verification.as_str().to_owned()),
        setting("batch", "Batches", batch(settings)),
        setting("mode", "Mode", delivery.mode.as_str().to_owned()),
        setting(
            "max_age_seconds",
            "Too old after",
            delivery.max_age.map_or_else(|| "never".to_owned(), words),
        ),
        setting("min_dwell_ms", "A state must last", words(delivery.min_dwell)),
        setting("retry_schedule_seconds", "Waits between attempts", schedule(settings)),
        setting("timeout_ms", "An answer must come within", words(delivery.timeout)),
        setting("max_concurrency", "POSTs under way at once", delivery.max_concurrency.to_string()),
        setting("rate_limit", "Rate limit", rate(settings)),
        setting("disable_after_seconds", "Disabled after failing for", words(delivery.disable_after)),
    ]
}

fn batch(settings: &WebhookSettings) -> String {
    settings.delivery.batch.map_or_else(
        || "none: one change in each POST".to_owned(),
        |batch| {
            let items = plural(batch.max_items, "change", "changes");
            format!("{items}, {} bytes, after {}", batch.max_bytes, words(batch.max_wait))
        },
    )
}

fn schedule(settings: &WebhookSettings) -> String {
    match settings.delivery.retry_schedule.as_deref() {
        None => "the usual ones: ten over a little more than a day".to_owned(),
        Some([]) => NO_RETRIES.to_owned(),
        Some(waits) => {
            waits.iter().map(|wait| words(Duration::from_secs((*wait).into()))).collect::<Vec<_>>().join(", ")
        }
    }
}

fn rate(settings: &WebhookSettings) -> String {
    settings.delivery.rate_limit.map_or_else(
        || "none".to_owned(),
        |limit| format!("{} POSTs in {}", limit.requests, words(limit.per)),
    )
}

/// A length of time in the largest unit that needs no fraction.
pub fn words(length: Duration) -> String {
    let millis = length.as_millis();
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")] {
        if millis > 0 && millis.is_multiple_of(unit) {
            return format!("{} {name}", millis / unit);
        }
    }
    format!("{millis} ms")
}

/// What differs between two sets of settings, the old value and the new one.
pub fn difference(before: &WebhookSettings, after: &WebhookSettings) -> Markup {
    let changed = before.fields_changed_by(after);
    let pairs: Vec<(Setting, Setting)> =
        of(before).into_iter().zip(of(after)).filter(|(old, _)| changed.contains(&old.field)).collect();
    html! {
        div.scroll role="region" aria-label="What changes" tabindex="0" {
            table.difference {
                thead { tr { th scope="col" { "Setting" } th scope="col" { "Now" } th scope="col" { "Then" } } }
                tbody { @for (old, new) in &pairs {
                    tr { th scope="row" { (old.label) } td.old { del { (old.value) } } td.new { ins { (new.value) } } }
                } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_can_change_has_words() {
        let before = WebhookSettings::default();
        let named: Vec<&str> = of(&before).iter().map(|setting| setting.field).collect();
        let mut after = before.clone();
        after.url.push('x');
        after.description.push('x');
        for list in [
            &mut after.agents,
            &mut after.topics,
            &mut after.presences,
            &mut after.queues,
            &mut after.routing_statuses,
            &mut after.transitions,
            &mut after.events,
        ] {
            list.push("x".to_owned());
        }
        let changed = before.fields_changed_by(&after);
        assert_eq!(changed.len(), 9);
        assert!(changed.iter().all(|field| named.contains(field)), "{changed:?} {named:?}");
        let drawn = difference(&before, &after).into_string();
        assert_eq!(drawn.matches("<tr>").count(), 1 + changed.len(), "{drawn}");
        assert_eq!(named.len(), 22, "all that `fields_changed_by` looks at");
    }

    #[test]
    fn lengths_of_time_are_told_in_their_unit() {
        for (length, told) in [
            (Duration::ZERO, "0 ms"),
            (Duration::from_millis(1500), "1500 ms"),
            (Duration::from_secs(90), "90 s"),
            (Duration::from_secs(7200), "2 h"),
            (Duration::from_secs(432_000), "5 d"),
        ] {
            assert_eq!(words(length), told);
        }
    }
}
