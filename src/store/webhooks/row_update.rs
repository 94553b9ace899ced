//! `webhook`, written as a whole: settings to columns. Called by `store/webhooks/mod.rs`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::delivery::access::Access;
use crate::domain::ids::WebhookId;
use crate::domain::secret::MasterKey;
use crate::domain::webhook::WebhookSettings;
use crate::domain::webhook::state::{StateReason, WebhookState};
use crate::random;
use crate::store::Result;
use crate::store::webhooks::rows::corrupt;

/// Everything that a change of a webhook writes.
pub(in crate::store) struct RowUpdate<'a> {
    pub settings: &'a WebhookSettings,
    pub access: &'a Access,
    pub state: WebhookState,
    pub state_reason: Option<StateReason>,
    pub now: OffsetDateTime,
}

/// Writes everything that can be set of a webhook whose row is there.
pub(in crate::store) async fn write(
    conn: &mut PgConnection,
    id: WebhookId,
    master_key: &MasterKey,
    update: &RowUpdate<'_>,
) -> Result<()> {
    let (settings, access) = (update.settings, update.access);
    let delivery = &settings.delivery;
    let header_names: Vec<&str> = access.headers.iter().map(|(name, _)| name.as_str()).collect();
    let sealed = seal(access, id, master_key)?;
    let schedule: Option<Vec<i32>> =
        delivery.retry_schedule.as_ref().map(|waits| waits.iter().map(|wait| column(*wait)).collect());
    sqlx::query!(
        "update webhook
         set url = $2, description = $3, agents = $4, topics = $5, presences = $6, sources = $7, events = $8,
             mode = $9, max_age_seconds = $10, min_dwell_ms = $11, batch_max_items = $12, batch_max_wait_ms = $13,
             retry_schedule_seconds = $14, timeout_ms = $15, max_concurrency = $16, rate_limit_requests = $17,
             rate_limit_per_seconds = $18, disable_after_seconds = $19, format = $20, signatures = $21,
             verification = $22, auth_kind = $23, access_sealed = $24, header_names = $25, state = $26,
             state_reason = $27, version = version + 1, updated_at = $28,
             batch_max_bytes = coalesce($29, batch_max_bytes), queues = $30, routing_statuses = $31,
             transitions = $32
         where webhook_id = $1",
        id as _,
        settings.url,
        settings.description,
        &settings.agents,
        &settings.topics,
        &settings.presences,
        &settings.sources as _,
        &settings.events,
        delivery.mode.as_str(),
        delivery.max_age.map(|age| column(age.as_secs())),
        column(delivery.min_dwell.as_millis()),
        delivery.batch.map(|batch| column(batch.max_items)),
        delivery.batch.map(|batch| column(batch.max_wait.as_millis())),
        schedule.as_deref(),
        column(delivery.timeout.as_millis()),
        column(delivery.max_concurrency),
        delivery.rate_limit.map(|limit| column(limit.requests)),
        delivery.rate_limit.map(|limit| column(limit.per.as_secs())),
        column(delivery.disable_after.as_secs()),
        delivery.format.as_str(),
        &settings.signatures.words() as _,
        settings.verification.as_str(),
        access.auth.kind(),
        sealed,
        &header_names as _,
        update.state as _,
        update.state_reason as _,
        update.now,
        delivery.batch.map(|batch| column(batch.max_bytes)),
        &settings.queues,
        &settings.routing_statuses,
        &settings.transitions,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A number as its column holds it; the rules keep it in range, and the column's check would tell if they did
/// not.
fn column<T: TryInto<i32>>(number: T) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

fn seal(access: &Access, id: WebhookId, master_key: &MasterKey) -> Result<Option<Vec<u8>>> {
    if access.is_empty() {
        return Ok(None);
    }
    let plain = serde_json::to_vec(access)
        .map_err(|_| corrupt(id, "access_sealed", "cannot be written as JSON".to_owned()))?;
    Ok(Some(master_key.seal(&plain, id.0.as_bytes(), random::bytes())))
}
