//! Webhooks: registered, changed, given another secret.

use std::collections::{HashMap, HashSet};

use time::{Duration, OffsetDateTime, Time};
use uuid::Uuid;

use super::caller::Caller;
use super::{Result, ServiceError};
use crate::clock;
use crate::domain::delivery::signature::SigningKey;
use crate::domain::explain::{Verdict, why_open};
use crate::domain::ids::{SourceId, WebhookId, canonical_guid, with_canonical_guids};
use crate::domain::violation::Violation;
use crate::domain::webhook::{
    FORMER_SECRET_SIGNS_ON, OVERLAP_SECONDS_MAX, WebhookChanges, WebhookInput, WebhookSettings, filters,
};
use crate::random;
use crate::store::audit::outcomes::HourOutcome;
use crate::store::views::lanes::{Lane, Lanes, Traffic};
use crate::store::webhooks::{NewWebhook, Webhook};

/// Bytes of a secret that we make.
const SECRET_BYTES: usize = 32;

/// Holds the fields of a registration, or of a change to the `present` settings, against the rules.
///
/// # Errors
/// Everything that is wrong.
pub fn check(
    caller: &Caller,
    input: WebhookInput,
    present: &WebhookSettings,
) -> Result<WebhookChanges, Vec<Violation>> {
    let changes = input.check(&caller.services.targets)?;
    changes.over(present).check().map_err(|violation| vec![violation])?;
    Ok(changes)
}

/// Registers a webhook, with a secret of ours unless one is given, and gives it with its secret.
///
/// # Errors
/// If it is more than the tenant may have, or the database refuses.
pub async fn create(
    caller: &Caller,
    changes: &WebhookChanges,
    secret: Option<SigningKey>,
    snapshot: bool,
) -> Result<(Webhook, SigningKey)> {
    let secret = secret_or_new(secret)?;
    let quota = caller.services.tenant_quota;
    let new = NewWebhook { changes, secret: &secret, snapshot, quota };
    let webhook =
        caller.store.create_webhook(&new, &caller.services.master_key, caller.principal.as_str()).await?;
    Ok((webhook, secret))
}

/// Changes a webhook; only if it is still at the `expected` version, if one is given.
///
/// # Errors
/// If there is none, it was changed meanwhile, its settings would contradict each other, it is more than the
/// tenant may have, or the database refuses.
pub async fn update(
    caller: &Caller,
    id: WebhookId,
    expected: Option<i64>,
    changes: &WebhookChanges,
) -> Result<Webhook> {
    let (quota, master_key) = (caller.services.tenant_quota, &caller.services.master_key);
    let at = (id, expected);
    Ok(caller.store.update_webhook(at, changes, quota, master_key, caller.principal.as_str()).await?)
}

/// Sources by the ids that were given as text, and what is wrong with those that are none.
///
/// # Errors
/// If the database does not answer.
pub async fn read_sources(caller: &Caller, texts: &[String]) -> Result<(Vec<SourceId>, Vec<Violation>)> {
    let (mut ids, mut wrong) = (Vec::with_capacity(texts.len()), Vec::new());
    for (i, text) in texts.iter().enumerate() {
        match Uuid::try_parse(text) {
            Ok(id) => ids.push(SourceId(id)),
            Err(_) => wrong.push(Violation::new(format!("sources/{i}"), "is no uuid")),
        }
    }
    for unknown in caller.store.unknown_sources(&ids).await? {
        if let Some(i) = texts.iter().position(|text| Uuid::try_parse(text) == Ok(unknown.0)) {
            wrong.push(Violation::new(format!("sources/{i}"), "is no source that we know"));
        }
    }
    Ok((ids, wrong))
}

/// What a list says of each of these webhooks besides its settings: what is open, and what came of the
/// attempts of the present hour and the one before it.
///
/// # Errors
/// If the database does not answer.
pub async fn traffic(caller: &Caller, webhooks: &[WebhookId]) -> Result<HashMap<WebhookId, Traffic>> {
    let rows = caller.store.traffic(webhooks, this_hour() - Duration::HOUR).await?;
    Ok(rows.into_iter().map(|row| (row.webhook, row)).collect())
}

/// What came of attempts in one hour.
#[derive(Clone, Debug)]
pub struct Hour {
    /// Its begin.
    pub hour: OffsetDateTime,
    /// By outcome; none if there were no attempts.
    pub outcomes: Vec<HourOutcome>,
}

/// What came of the attempts at a webhook in each of the last 24 hours and the present one, oldest first.
///
/// # Errors
/// If there is no such webhook, or the database does not answer.
pub async fn outcomes(caller: &Caller, id: WebhookId) -> Result<Vec<Hour>> {
    caller.store.webhook(id).await?;
    let first = this_hour() - Duration::DAY;
    let mut hours: Vec<Hour> =
        (0..=24).map(|n| Hour { hour: first + Duration::hours(n), outcomes: Vec::new() }).collect();
    for outcome in caller.store.outcomes(id, first).await? {
        if let Some(hour) = hours.iter_mut().find(|hour| hour.hour == outcome.hour) {
            hour.outcomes.push(outcome);
        }
    }
    Ok(hours)
}

/// Begin of the present hour, in UTC.
fn this_hour() -> OffsetDateTime {
    let now = clock::now();
    now.replace_time(Time::from_hms(now.hour(), 0, 0).unwrap_or(Time::MIDNIGHT))
}

/// What is open at a webhook, with the `limit` lanes whose heads have waited longest.
///
/// # Errors
/// If there is no such webhook, or the database does not answer.
pub async fn lanes(caller: &Caller, id: WebhookId, limit: i64) -> Result<Lanes> {
    caller.store.webhook(id).await?;
    Ok(caller.store.lanes(id, limit).await?)
}

/// Why the head of a lane has not left, as a verdict and a sentence. `write` writes a time.
#[must_use]
pub fn why_waits(lanes: &Lanes, lane: &Lane, write: fn(OffsetDateTime) -> String) -> (Verdict, String) {
    why_open(&lane.head, &lanes.webhook, lane.last_reason.as_deref(), clock::now(), write)
}

/// What can never match among the filters: names that the platform does not have, and agents that nobody has
/// named yet. They may come: it is no violation.
///
/// # Errors
/// If the database does not answer.
pub async fn never_matching(caller: &Caller, settings: &WebhookSettings) -> Result<Vec<Violation>> {
    let mut found = filters::never_matching(settings);
    let unknown = caller.store.unknown_agents(&with_canonical_guids(&settings.agents)).await?;
    let unknown: HashSet<String> = unknown.into_iter().collect();
    for (i, agent) in settings.agents.iter().enumerate() {
        if unknown.contains(agent) && unknown.contains(&canonical_guid(agent.clone())) {
            found.push(Violation::new(
                format!("agents/{i}"),
                "is no agent that was seen or is watched, by Genesys id or external id",
            ));
        }
    }
    Ok(found)
}

/// How long a replaced secret signs on, by the seconds that are given.
///
/// # Errors
/// If they are out of range.
pub fn check_overlap(seconds: Option<i32>) -> Result<Duration, Vec<Violation>> {
    match seconds {
        None => Ok(FORMER_SECRET_SIGNS_ON),
        Some(seconds) if (0..=OVERLAP_SECONDS_MAX).contains(&seconds) => {
            Ok(Duration::seconds(seconds.into()))
        }
        Some(_) => {
            let what = format!("is not between 0 and {OVERLAP_SECONDS_MAX}");
            Err(vec![Violation::new("overlap_seconds", what)])
        }
    }
}

/// Gives a webhook another secret, one of ours unless one is given; the former signs too for the time of
/// `overlap`.
///
/// # Errors
/// If there is no such webhook, too many of its secrets sign, or the database refuses.
pub async fn rotate_secret(
    caller: &Caller,
    id: WebhookId,
    secret: Option<SigningKey>,
    overlap: Duration,
) -> Result<(Webhook, SigningKey)> {
    let secret = secret_or_new(secret)?;
    let (master_key, principal) = (&caller.services.master_key, caller.principal.as_str());
    let webhook = caller.store.rotate_webhook_secret(id, &secret, overlap, master_key, principal).await?;
    Ok((webhook, secret))
}

/// What may be shown of that which is sealed in a webhook.
#[derive(Clone, Debug)]
pub struct Unsealed {
    /// Whether it has a client certificate.
    pub has_client_certificate: bool,
    /// Public key of its `v1a` signatures; `None` unless it wants them.
    pub public_key: Option<String>,
}

/// Opens what is sealed in a webhook.
///
/// # Errors
/// If it does not open.
pub fn unsealed(caller: &Caller, webhook: &Webhook) -> Result<Unsealed> {
    let master_key = &caller.services.master_key;
    Ok(Unsealed {
        has_client_certificate: webhook.access(master_key)?.client_certificate.is_some(),
        public_key: webhook.public_key(master_key)?,
    })
}

fn secret_or_new(given: Option<SigningKey>) -> Result<SigningKey> {
    match given {
        Some(key) => Ok(key),
        // 32 bytes are within the limits; if the rule ever says otherwise, the caller hears of it.
        None => SigningKey::from_bytes(&random::bytes::<SECRET_BYTES>()).map_err(|_| {
            ServiceError::Invalid(vec![Violation::new("secret", "must be given: none could be made")])
        }),
    }
}
