//! What a webhook registration must be like: [`filters`] says what it is told, [`delivery_settings_input`]
//! how, [`access_input`] how its receiver is entered. The API asks before it stores one.

use url::Url;

use super::ids::SourceId;
use super::violation::{Violation, without_repeats};
use crate::domain::delivery::access::Access;
use crate::domain::delivery::settings::{DeliverySettings, Format, Signatures, Verification};
use target::TargetPolicy;

pub mod access_input;
pub mod delivery_settings_input;
pub mod dial_budget;
pub mod fan_out;
pub mod filter_index;
pub mod filter_key;
pub mod filters;
pub mod matching;
pub mod state;
pub mod target;
pub mod transition;

use access_input::{AccessChanges, AccessInput};
use delivery_settings_input::{DeliveryChanges, DeliveryInput};

/// How long a replaced secret signs too, unless the owner says otherwise: a receiver has a day to change
/// over.
pub const FORMER_SECRET_SIGNS_ON: time::Duration = time::Duration::hours(24);
/// Longest that a replaced secret may sign on, in seconds.
pub const OVERLAP_SECONDS_MAX: i32 = 7 * 24 * 3600;
/// Secrets that sign at once, the present one included. Each adds 48 bytes to a header of every POST.
pub const SIGNING_SECRETS_MAX: i64 = 5;

/// Kinds of event that a webhook may ask for.
pub const EVENTS: [&str; 8] = [
    "presence.updated",
    "presence.gap",
    "source.stale",
    "source.recovered",
    "webhook.failing",
    "webhook.disabled",
    "webhook.recovered",
    "database.failed_over",
];

/// Fields of a registration or of a change to one, as given; `None` is what was not mentioned.
#[derive(Debug, Default)]
pub struct WebhookInput {
    /// Where POSTs shall go.
    pub url: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Only these agents, by Genesys user id or by the CRM's own; empty: all.
    pub agents: Option<Vec<String>>,
    /// Only these topics; empty: all.
    pub topics: Option<Vec<String>>,
    /// Only changes to these system presences, in any spelling; empty: all.
    pub presences: Option<Vec<String>>,
    /// Only these sources; empty: all.
    pub sources: Option<Vec<SourceId>>,
    /// Only agents that work in one of these queues, or have just left one; empty: all.
    pub queues: Option<Vec<String>>,
    /// Only changes to states with these routing statuses; empty: all.
    pub routing_statuses: Option<Vec<String>>,
    /// Only these changes of the system presence (`transition`); empty: all.
    pub transitions: Option<Vec<String>>,
    /// Kinds of event it is sent.
    pub events: Option<Vec<String>>,
    /// How it wants them.
    pub delivery: DeliveryInput,
    /// How its receiver is entered.
    pub access: AccessInput,
}

/// The same fields, found to be good: the address parsed, presences in our spelling, lists without repeats.
#[derive(Debug, Default)]
pub struct WebhookChanges {
    /// Where POSTs go.
    pub url: Option<Url>,
    /// Free text.
    pub description: Option<String>,
    /// Only these agents, by Genesys user id or by the CRM's own; empty: all.
    pub agents: Option<Vec<String>>,
    /// Only these topics; empty: all.
    pub topics: Option<Vec<String>>,
    /// Only changes to these system presences; empty: all.
    pub presences: Option<Vec<String>>,
    /// Only these sources; empty: all.
    pub sources: Option<Vec<SourceId>>,
    /// Only agents that work in one of these queues, or have just left one; empty: all.
    pub queues: Option<Vec<String>>,
    /// Only changes to states with these routing statuses; empty: all.
    pub routing_statuses: Option<Vec<String>>,
    /// Only these changes of the system presence (`transition`); empty: all.
    pub transitions: Option<Vec<String>>,
    /// Kinds of event it is sent.
    pub events: Option<Vec<String>>,
    /// How it wants them.
    pub delivery: DeliveryChanges,
    /// How its receiver is entered.
    pub access: AccessChanges,
}

/// All settings of a webhook but those that are secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where POSTs go, in the form our URL parser writes it.
    pub url: String,
    /// Free text.
    pub description: String,
    /// Only these agents, by Genesys user id or by the CRM's own; empty: all.
    pub agents: Vec<String>,
    /// Only these topics; empty: all.
    pub topics: Vec<String>,
    /// Only changes to these system presences; empty: all.
    pub presences: Vec<String>,
    /// Only these sources; empty: all.
    pub sources: Vec<SourceId>,
    /// Only agents that work in one of these queues, or have just left one; empty: all.
    pub queues: Vec<String>,
    /// Only changes to states with these routing statuses; empty: all.
    pub routing_statuses: Vec<String>,
    /// Only these changes of the system presence (`transition`); empty: all.
    pub transitions: Vec<String>,
    /// Kinds of event it is sent.
    pub events: Vec<String>,
    /// How it wants them.
    pub delivery: DeliverySettings,
    /// What POSTs are signed with.
    pub signatures: Signatures,
    /// How the receiver must show that it wants them.
    pub verification: Verification,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            description: String::new(),
            agents: Vec::new(),
            topics: Vec::new(),
            presences: Vec::new(),
            sources: Vec::new(),
            queues: Vec::new(),
            routing_statuses: Vec::new(),
            transitions: Vec::new(),
            events: vec!["presence.updated".to_owned()],
            delivery: DeliverySettings::default(),
            signatures: Signatures::default(),
            verification: Verification::None,
        }
    }
}

impl WebhookInput {
    /// Holds every given field against the rules. Whether the sources exist is for the store to say; what
    /// concerns several fields at once is for [`WebhookSettings::check`].
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(self, targets: &TargetPolicy) -> Result<WebhookChanges, Vec<Violation>> {
        let mut found = Vec::new();
        let url = self.url.and_then(|text| filters::check_url("url", &text, targets, &mut found));
        if let Some(text) = &self.description {
            filters::check_description(text, &mut found);
        }
        let agents = self.agents.map(|texts| filters::check_agents(texts, &mut found));
        let topics = self.topics.map(|texts| filters::check_topics(texts, &mut found));
        let presences = self.presences.map(|texts| filters::check_presences(texts, &mut found));
        let sources = self.sources.map(|sources| filters::check_sources(sources, &mut found));
        let queues = self.queues.map(|texts| filters::check_queues(texts, &mut found));
        let routing_statuses =
            self.routing_statuses.map(|texts| filters::check_routing_statuses(texts, &mut found));
        let transitions = self.transitions.map(|texts| filters::check_transitions(&texts, &mut found));
        let events = self.events.map(without_repeats);
        if let Some(events) = &events {
            filters::check_events(events, &mut found);
        }
        let delivery = self.delivery.check(&mut found);
        let access = self.access.check(targets, &mut found);
        if !found.is_empty() {
            return Err(found);
        }
        Ok(WebhookChanges {
            url,
            description: self.description,
            agents,
            topics,
            presences,
            sources,
            queues,
            routing_statuses,
            transitions,
            events,
            delivery,
            access,
        })
    }
}

impl WebhookChanges {
    /// The settings as they will be.
    #[must_use]
    pub fn over(&self, present: &WebhookSettings) -> WebhookSettings {
        fn or<T: Clone>(wanted: Option<&T>, present: &T) -> T {
            wanted.unwrap_or(present).clone()
        }
        WebhookSettings {
            url: self.url.as_ref().map_or_else(|| present.url.clone(), |url| url.as_str().to_owned()),
            description: or(self.description.as_ref(), &present.description),
            agents: or(self.agents.as_ref(), &present.agents),
            topics: or(self.topics.as_ref(), &present.topics),
            presences: or(self.presences.as_ref(), &present.presences),
            sources: or(self.sources.as_ref(), &present.sources),
            queues: or(self.queues.as_ref(), &present.queues),
            routing_statuses: or(self.routing_statuses.as_ref(), &present.routing_statuses),
            transitions: or(self.transitions.as_ref(), &present.transitions),
            events: or(self.events.as_ref(), &present.events),
            delivery: self.delivery.over(&present.delivery),
            signatures: self.delivery.signatures.unwrap_or(present.signatures),
            verification: self.delivery.verification.unwrap_or(present.verification),
        }
    }
}

impl WebhookSettings {
    /// Holds what concerns several fields at once against the rules.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), Violation> {
        if self.delivery.batch.is_some() && self.delivery.format == Format::CloudEventsBinary {
            return Err(Violation::new(
                "batch",
                "cannot be had with format cloudevents-binary, whose headers describe one event",
            ));
        }
        Ok(())
    }

    /// Items of its filters.
    #[must_use]
    pub fn filter_items(&self) -> usize {
        let texts = [
            &self.agents,
            &self.topics,
            &self.presences,
            &self.queues,
            &self.routing_statuses,
            &self.transitions,
        ];
        self.sources.len() + texts.iter().map(|items| items.len()).sum::<usize>()
    }

    /// Names of the fields in which the two differ. Names alone are written down: an address may hold a
    /// secret.
    #[must_use]
    pub fn fields_changed_by(&self, after: &Self) -> Vec<&'static str> {
        let (a, b) = (&self.delivery, &after.delivery);
        [
            ("url", self.url != after.url),
            ("description", self.description != after.description),
            ("agents", self.agents != after.agents),
            ("topics", self.topics != after.topics),
            ("presences", self.presences != after.presences),
            ("sources", self.sources != after.sources),
            ("queues", self.queues != after.queues),
            ("routing_statuses", self.routing_statuses != after.routing_statuses),
            ("transitions", self.transitions != after.transitions),
            ("events", self.events != after.events),
            ("mode", a.mode != b.mode),
            ("max_age_seconds", a.max_age != b.max_age),
            ("min_dwell_ms", a.min_dwell != b.min_dwell),
            ("batch", a.batch != b.batch),
            ("retry_schedule_seconds", a.retry_schedule != b.retry_schedule),
            ("timeout_ms", a.timeout != b.timeout),
            ("max_concurrency", a.max_concurrency != b.max_concurrency),
            ("rate_limit", a.rate_limit != b.rate_limit),
            ("disable_after_seconds", a.disable_after != b.disable_after),
            ("format", a.format != b.format),
            ("signatures", self.signatures != after.signatures),
            ("verification", self.verification != after.verification),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// Names of the fields in which the two differ; never what is in them.
#[must_use]
pub fn access_fields_changed(before: &Access, after: &Access) -> Vec<&'static str> {
    [
        ("headers", before.headers != after.headers),
        ("auth", before.auth != after.auth),
        ("client_certificate", before.client_certificate != after.client_certificate),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests;
