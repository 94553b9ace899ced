//! Webhooks: registered, changed, given another secret.

use std::collections::HashSet;

use super::caller::Caller;
use super::{Result, ServiceError};
use crate::domain::delivery::signature::SigningKey;
use crate::domain::ids::{WebhookId, canonical_guid, with_canonical_guids};
use crate::domain::violation::Violation;
use crate::domain::webhook::{
    FORMER_SECRET_SIGNS_ON, OVERLAP_SECONDS_MAX, WebhookChanges, WebhookInput, WebhookSettings, filters,
};
use crate::random;
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

/// Changes a webhook.
///
/// # Errors
/// If there is none, its settings would contradict each other, it is more than the tenant may have, or the
/// database refuses.
pub async fn update(caller: &Caller, id: WebhookId, changes: &WebhookChanges) -> Result<Webhook> {
    let (quota, master_key) = (caller.services.tenant_quota, &caller.services.master_key);
    Ok(caller.store.update_webhook(id, changes, quota, master_key, caller.principal.as_str()).await?)
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
pub fn check_overlap(seconds: Option<i32>) -> Result<time::Duration, Vec<Violation>> {
    match seconds {
        None => Ok(FORMER_SECRET_SIGNS_ON),
        Some(seconds) if (0..=OVERLAP_SECONDS_MAX).contains(&seconds) => {
            Ok(time::Duration::seconds(seconds.into()))
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
    overlap: time::Duration,
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
