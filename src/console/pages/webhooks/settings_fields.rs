//! The fields of a webhook's settings: first the few that everybody needs, the rest folded.

use maud::{Markup, html};

use super::settings_form::SettingsForm;
use crate::console::fields::{Fields, field};
use crate::domain::webhook::EVENTS;

/// What the choices of a form are taken from.
pub struct Choices {
    /// Id and name of each source.
    pub sources: Vec<(String, String)>,
}

const FORMATS: [(&str, &str); 3] = [
    ("standard", "Standard Webhooks: {\"type\", \"timestamp\", \"data\"}"),
    ("cloudevents-structured", "CloudEvents 1.0, everything in the body"),
    ("cloudevents-binary", "CloudEvents 1.0, attributes in ce- headers"),
];
const MODES: [(&str, &str); 2] = [
    ("every", "every: each change is sent, in order"),
    ("latest", "latest: a newer state replaces a waiting one"),
];
const SIGNATURES: [(&str, &str); 2] = [
    ("v1", "v1: HMAC-SHA256 with the secret, what every library verifies"),
    ("v1a", "v1a: ed25519, verified with a public key"),
];
const VERIFICATIONS: [(&str, &str); 3] = [
    ("none", "none: it gets POSTs at once"),
    ("echo", "echo: it must answer a challenge first"),
    ("options", "options: it must answer the OPTIONS request of CloudEvents first"),
];

/// The settings that are folded, by their folds.
const FILTERS: [&str; 7] =
    ["agents", "sources", "presences", "queues", "routing_statuses", "transitions", "topics"];
const SHAPE: [&str; 7] = [
    "format",
    "signatures",
    "verification",
    "batch",
    "batch/max_items",
    "batch/max_wait_ms",
    "batch/max_bytes",
];
const ORDER: [&str; 3] = ["mode", "max_age_seconds", "min_dwell_ms"];
const PACE: [&str; 6] = [
    "retry_schedule_seconds",
    "timeout_ms",
    "max_concurrency",
    "rate_limit/requests",
    "rate_limit/per_seconds",
    "disable_after_seconds",
];

/// What a kind of event tells.
fn what_it_tells(event: &str) -> &'static str {
    match event {
        "presence.updated" => "presence.updated: an agent's presence or routing status changed",
        "presence.gap" => "presence.gap: an agent could not be seen for a while",
        "source.stale" => "source.stale: a source has had no live connection for too long",
        "source.recovered" => "source.recovered: it has one again",
        "webhook.failing" => "webhook.failing: another webhook's receiver fails",
        "webhook.disabled" => "webhook.disabled: another webhook was disabled",
        "webhook.recovered" => "webhook.recovered: another webhook's receiver is back",
        "database.failed_over" => {
            "database.failed_over: another server took over the database, or it was restored"
        }
        _ => "",
    }
}

/// Every field, filled with what was typed.
pub fn draw(form: &SettingsForm, fields: &Fields, choices: &Choices) -> Markup {
    html! {
        (fields.text(field("url", "Address", "Where POSTs go. It must be public unless the operator allowed its network."), &form.url))
        (fields.lines(field("description", "Description", "What people call it; free text."), &form.description))
        (events(form, fields))
        details open[is_filtered(form) || fields.is_wrong(&FILTERS)] {
            summary { "Which agents and changes (all, unless you say otherwise)" }
            (filters(form, fields, choices))
        }
        details open[fields.is_wrong(&SHAPE)] { summary { "What a POST looks like" } (shape(form, fields)) }
        details open[fields.is_wrong(&ORDER)] { summary { "Order and freshness" } (order(form, fields)) }
        details open[fields.is_wrong(&PACE)] { summary { "Retries and pace" } (pace(form, fields)) }
    }
}

fn is_filtered(form: &SettingsForm) -> bool {
    let texts = [
        &form.agents,
        &form.topics,
        &form.presences,
        &form.queues,
        &form.routing_statuses,
        &form.transitions,
    ];
    texts.iter().any(|text| !text.is_empty()) || !form.sources.is_empty()
}

fn events(form: &SettingsForm, fields: &Fields) -> Markup {
    let known: Vec<(&str, &str)> = EVENTS.iter().map(|event| (*event, what_it_tells(event))).collect();
    fields.ticks(field("events", "Events", "What it is told of."), &form.events, &known)
}

fn filters(form: &SettingsForm, fields: &Fields, choices: &Choices) -> Markup {
    let sources: Vec<(&str, &str)> =
        choices.sources.iter().map(|(id, name)| (id.as_str(), name.as_str())).collect();
    html! {
        p.hint { "An empty filter lets everything pass. Of several filters all must let a change pass. One item on each line." }
        (fields.lines(field("agents", "Agents", "Genesys user ids, or ids of your CRM."), &form.agents))
        @if !sources.is_empty() { (fields.ticks(field("sources", "Sources", ""), &form.sources, &sources)) }
        (fields.lines(field("presences", "Presences", "Only changes to these, such as AVAILABLE or ON_QUEUE."), &form.presences))
        (fields.lines(field("queues", "Queues", "Ids: only agents who work in one of them, or have just left one."), &form.queues))
        (fields.lines(field("routing_statuses", "Routing statuses", "Such as IDLE or INTERACTING."), &form.routing_statuses))
        (fields.lines(field("transitions", "Transitions", "Such as AWAY -> ON_QUEUE, or * -> OFFLINE for any before it."), &form.transitions))
        (fields.lines(field("topics", "Topics", "Upstream topics; hardly ever needed."), &form.topics))
    }
}

fn shape(form: &SettingsForm, fields: &Fields) -> Markup {
    html! {
        (fields.choice(field("format", "Format", ""), &form.format, &FORMATS))
        (fields.ticks(field("signatures", "Signatures", ""), &form.signatures, &SIGNATURES))
        (fields.choice(field("verification", "Verification", "Whether the receiver must agree before it gets anything."), &form.verification, &VERIFICATIONS))
        p.label { "Batches" }
        p.hint { "Several changes in one POST. Leave these empty for one change in each." }
        (fields.number(field("batch/max_items", "Changes of one POST at most", "1 to 1000."), &form.batch_max_items, "no batches"))
        (fields.number(field("batch/max_wait_ms", "Milliseconds that a batch may wait to fill", "0 to 60000."), &form.batch_max_wait_ms, "no batches"))
        (fields.number(field("batch/max_bytes", "Bytes of one POST at most", "1024 to 1048576."), &form.batch_max_bytes, "96000"))
    }
}

fn order(form: &SettingsForm, fields: &Fields) -> Markup {
    html! {
        (fields.choice(field("mode", "Mode", "Changes of one agent always come in order, one at a time."), &form.mode, &MODES))
        (fields.number(field("max_age_seconds", "Too old after (seconds)", "What waits longer ends unsent. 1 to 2592000."), &form.max_age_seconds, "never"))
        (fields.number(field("min_dwell_ms", "A state must last (milliseconds)", "What changes sooner is not sent. 0 to 3600000."), &form.min_dwell_ms, "0"))
    }
}

fn pace(form: &SettingsForm, fields: &Fields) -> Markup {
    html! {
        (fields.text(field("retry_schedule_seconds", "Waits between attempts (seconds)", "Such as 5 30 300; none for no retries. Empty: ten retries over a little more than a day."), &form.retry_schedule_seconds))
        (fields.number(field("timeout_ms", "An answer must come within (milliseconds)", "1000 to 30000."), &form.timeout_ms, "15000"))
        (fields.number(field("max_concurrency", "POSTs under way at once at most", "1 to 1000."), &form.max_concurrency, "100"))
        p.label { "Rate limit" }
        p.hint { "Leave both empty for as fast as the receiver answers." }
        (fields.number(field("rate_limit/requests", "POSTs at most", "1 to 10000."), &form.rate_requests, "no limit"))
        (fields.number(field("rate_limit/per_seconds", "In how many seconds", "1 to 3600."), &form.rate_per_seconds, "no limit"))
        (fields.number(field("disable_after_seconds", "Disable it after failing for (seconds)", "60 to 2592000; five days unless you say otherwise."), &form.disable_after_seconds, "432000"))
    }
}
