//! `webhook`, read as a whole: columns to settings. Called by `store/webhooks/mod.rs`
//! and `store/delivery/targets.rs`.

use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::delivery::access::Access;
use crate::domain::delivery::settings::{
    Batch, DeliverySettings, Format, Mode, RateLimit, Signatures, Verification,
};
use crate::domain::delivery::signing_pair::public_key;
use crate::domain::ids::{SourceId, TenantId, WebhookId, WebhookSecretId};
use crate::domain::secret::MasterKey;
use crate::domain::webhook::WebhookSettings;
use crate::domain::webhook::state::{StateReason, WebhookState};
use crate::store::{Result, StoreError};

/// A registered webhook; its secrets are sealed.
#[derive(Clone, Debug)]
pub struct Webhook {
    pub webhook_id: WebhookId,
    /// Settings of its owner.
    pub settings: WebhookSettings,
    /// Whether it gets deliveries.
    pub state: WebhookState,
    /// Cause of its being disabled or unverified; `None` otherwise.
    pub state_reason: Option<StateReason>,
    /// Counts changes.
    pub version: i64,
    /// Kind of the credentials.
    pub auth_kind: String,
    /// Names of its own headers.
    pub header_names: Vec<String>,
    /// Health of its receiver.
    pub health: WebhookHealth,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Until then a former secret signs too; `None` if none does.
    pub former_secrets_expire_at: Option<OffsetDateTime>,
    /// When it was registered.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
    access_sealed: Option<Vec<u8>>,
    seed: Option<(WebhookSecretId, Vec<u8>)>,
}

/// Health of a webhook's receiver since the last success.
#[derive(Clone, Debug, Default)]
pub struct WebhookHealth {
    /// Failed attempts since the last success.
    pub failures: i32,
    /// First failure since the last success.
    pub failing_since: Option<OffsetDateTime>,
    /// Nothing is sent before.
    pub hold_until: Option<OffsetDateTime>,
    /// When its receiver is asked next, while it is disabled or unverified.
    pub probe_at: Option<OffsetDateTime>,
    /// Outcome class of the last failed attempt.
    pub last_outcome: Option<String>,
    /// Why it failed, in words.
    pub last_reason: Option<String>,
    /// `webhook.failing` was written, and no `webhook.recovered` since.
    pub noticed: bool,
    /// Its present address has accepted a POST.
    pub is_proven: bool,
}

impl Webhook {
    /// Credentials, own headers and client certificate, opened.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if they do not open.
    pub fn access(&self, master_key: &MasterKey) -> Result<Access> {
        let Some(sealed) = &self.access_sealed else {
            return Ok(Access::default());
        };
        let corrupt = |what: String| corrupt(self.webhook_id, "access_sealed", what);
        let plain =
            master_key.open(sealed, self.webhook_id.0.as_bytes()).map_err(|e| corrupt(e.to_string()))?;
        // The reader's own words could repeat a piece of what it read.
        serde_json::from_slice(&plain).map_err(|_| corrupt("is not what was sealed".to_owned()))
    }

    /// Whether it has a pair for `v1a` signatures, wanted or not.
    pub(in crate::store) fn has_seed(&self) -> bool {
        self.seed.is_some()
    }

    /// Public key of its present `v1a` signatures; `None` unless it wants them.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the seed does not open.
    pub fn public_key(&self, master_key: &MasterKey) -> Result<Option<String>> {
        match &self.seed {
            Some((id, sealed)) if self.settings.signatures.v1a => {
                Ok(Some(public_key(&open_seed(*id, sealed, master_key)?)))
            }
            _ => Ok(None),
        }
    }
}

/// Opens the seed of a `v1a` signing pair.
pub(in crate::store) fn open_seed(
    id: WebhookSecretId,
    sealed: &[u8],
    master_key: &MasterKey,
) -> Result<[u8; 32]> {
    let corrupt = |what: String| StoreError::Corrupt {
        table: "webhook_secret",
        column: "sealed",
        row: id.to_string(),
        what,
    };
    let plain = master_key.open(sealed, id.0.as_bytes()).map_err(|e| corrupt(e.to_string()))?;
    plain.try_into().map_err(|_| corrupt("is not 32 bytes long".to_owned()))
}

pub(super) fn corrupt(id: WebhookId, column: &'static str, what: String) -> StoreError {
    StoreError::Corrupt { table: "webhook", column, row: id.to_string(), what }
}

struct Row {
    webhook_id: WebhookId,
    url: String,
    description: String,
    agents: Vec<String>,
    topics: Vec<String>,
    presences: Vec<String>,
    sources: Vec<SourceId>,
    queues: Vec<String>,
    routing_statuses: Vec<String>,
    transitions: Vec<String>,
    events: Vec<String>,
    mode: String,
    max_age_seconds: Option<i32>,
    min_dwell_ms: i32,
    batch_max_items: Option<i32>,
    batch_max_wait_ms: Option<i32>,
    batch_max_bytes: i32,
    retry_schedule_seconds: Option<Vec<i32>>,
    timeout_ms: i32,
    max_concurrency: i32,
    rate_limit_requests: Option<i32>,
    rate_limit_per_seconds: Option<i32>,
    disable_after_seconds: i32,
    format: String,
    signatures: Vec<String>,
    verification: String,
    auth_kind: String,
    access_sealed: Option<Vec<u8>>,
    header_names: Vec<String>,
    state: WebhookState,
    state_reason: Option<StateReason>,
    version: i64,
    failures: i32,
    failing_since: Option<OffsetDateTime>,
    hold_until: Option<OffsetDateTime>,
    probe_at: Option<OffsetDateTime>,
    last_outcome: Option<String>,
    last_reason: Option<String>,
    noticed: bool,
    is_proven: bool,
    tenant_id: TenantId,
    former_secrets_expire_at: Option<OffsetDateTime>,
    seed_id: Option<WebhookSecretId>,
    seed_sealed: Option<Vec<u8>>,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

/// A number that the column's check keeps in range.
fn number<T: TryFrom<i32> + Default>(column: i32) -> T {
    T::try_from(column).unwrap_or_default()
}

fn seconds(column: i32) -> Duration {
    Duration::from_secs(number::<u32>(column).into())
}

fn millis(column: i32) -> Duration {
    Duration::from_millis(number::<u32>(column).into())
}

fn health_of(row: &Row) -> WebhookHealth {
    WebhookHealth {
        failures: row.failures,
        failing_since: row.failing_since,
        hold_until: row.hold_until,
        probe_at: row.probe_at,
        last_outcome: row.last_outcome.clone(),
        last_reason: row.last_reason.clone(),
        noticed: row.noticed,
        is_proven: row.is_proven,
    }
}

impl TryFrom<Row> for Webhook {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        let health = health_of(&row);
        let unknown = |column| corrupt(row.webhook_id, column, "holds a word that is not known".to_owned());
        let delivery = DeliverySettings {
            mode: Mode::from_name(&row.mode).ok_or_else(|| unknown("mode"))?,
            max_age: row.max_age_seconds.map(seconds),
            min_dwell: millis(row.min_dwell_ms),
            batch: row.batch_max_items.zip(row.batch_max_wait_ms).map(|(max_items, max_wait)| Batch {
                max_items: number(max_items),
                max_wait: millis(max_wait),
                max_bytes: number(row.batch_max_bytes),
            }),
            retry_schedule: row.retry_schedule_seconds.map(|waits| waits.into_iter().map(number).collect()),
            timeout: millis(row.timeout_ms),
            max_concurrency: number(row.max_concurrency),
            rate_limit: row
                .rate_limit_requests
                .zip(row.rate_limit_per_seconds)
                .map(|(requests, per)| RateLimit { requests: number(requests), per: seconds(per) }),
            disable_after: seconds(row.disable_after_seconds),
            format: Format::from_name(&row.format).ok_or_else(|| unknown("format"))?,
        };
        let settings = WebhookSettings {
            url: row.url,
            description: row.description,
            agents: row.agents,
            topics: row.topics,
            presences: row.presences,
            sources: row.sources,
            queues: row.queues,
            routing_statuses: row.routing_statuses,
            transitions: row.transitions,
            events: row.events,
            delivery,
            signatures: Signatures::from_words(&row.signatures),
            verification: Verification::from_name(&row.verification)
                .ok_or_else(|| unknown("verification"))?,
        };
        Ok(Self {
            webhook_id: row.webhook_id,
            settings,
            state: row.state,
            state_reason: row.state_reason,
            version: row.version,
            auth_kind: row.auth_kind,
            header_names: row.header_names,
            health,
            tenant_id: row.tenant_id,
            former_secrets_expire_at: row.former_secrets_expire_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            access_sealed: row.access_sealed,
            seed: row.seed_id.zip(row.seed_sealed),
        })
    }
}

/// Whole webhooks, for a condition that ends the statement. Two plans, because one for both looks at all of
/// them.
macro_rules! whole {
    ($conn:expr, $condition:literal, $($value:expr),+) => {
        sqlx::query_as!(
            Row,
            r#"select w.webhook_id as "webhook_id: WebhookId", url, description, agents, topics, presences,
                      sources as "sources: Vec<SourceId>", queues, routing_statuses, transitions, events, mode,
                      max_age_seconds, min_dwell_ms, batch_max_items, batch_max_wait_ms, batch_max_bytes,
                      retry_schedule_seconds, timeout_ms, max_concurrency, rate_limit_requests,
                      rate_limit_per_seconds, disable_after_seconds, format, signatures,
                      verification, auth_kind, access_sealed, header_names, state as "state: WebhookState",
                      state_reason as "state_reason: StateReason", version,
                      coalesce(h.failures, 0) as "failures!", h.failing_since as "failing_since?",
                      h.hold_until as "hold_until?", h.probe_at as "probe_at?", h.last_outcome as "last_outcome?",
                      h.last_reason as "last_reason?",
                      coalesce(h.noticed, false) as "noticed!", h.succeeded_at is not null as "is_proven!",
                      w.tenant_id as "tenant_id: TenantId",
                      (select max(expires_at) from webhook_secret s
                       where s.webhook_id = w.webhook_id and expires_at > now()) as former_secrets_expire_at,
                      seed.webhook_secret_id as "seed_id?: WebhookSecretId", seed.sealed as "seed_sealed?",
                      w.created_at, w.updated_at
               from webhook w
               left join webhook_health h on h.webhook_id = w.webhook_id
               left join lateral (
                   select s.webhook_secret_id, s.sealed
                   from webhook_secret s
                   where s.webhook_id = w.webhook_id
                     and s.kind = 'ed25519'
                     and s.expires_at is null
                   order by s.created_at desc
                   limit 1) seed on true
               where deleted_at is null
                 and coalesce(w.tenant_id = tenant_asking(), true)
                 and "# + $condition,
            $($value),+
        )
        .fetch_all($conn)
        .await?
        .into_iter()
        .map(Webhook::try_from)
    };
}

/// One webhook.
pub(in crate::store) async fn read(conn: &mut PgConnection, id: WebhookId) -> Result<Webhook> {
    whole!(conn, "w.webhook_id = $1", id as _).next().ok_or(StoreError::NotFound("webhook"))?
}

/// Filter of the webhooks on a page; `None` lets all pass.
#[derive(Clone, Debug, Default)]
pub struct WebhookFilter {
    /// Only in this state.
    pub state: Option<WebhookState>,
    /// Only those whose last attempt failed (true), or did not (false).
    pub failing: Option<bool>,
    /// Only those that hold this text in address or description, in whatever case.
    pub text: Option<String>,
}

/// A page of webhooks, oldest first.
pub(in crate::store) async fn page(
    conn: &mut PgConnection,
    filter: &WebhookFilter,
    after: Option<WebhookId>,
    limit: i64,
) -> Result<Vec<Webhook>> {
    let after = after.unwrap_or(WebhookId(Uuid::nil()));
    whole!(
        conn,
        "w.webhook_id > $1
         and ($3::text is null or w.state = $3)
         and ($4::boolean is null or (coalesce(h.failures, 0) > 0) = $4)
         and ($5::text is null or strpos(lower(w.url), lower($5)) > 0 or strpos(lower(w.description), lower($5)) > 0)
         order by w.webhook_id limit $2",
        after as _,
        limit,
        filter.state as _,
        filter.failing,
        filter.text.as_deref()
    )
    .collect()
}

/// A webhook that is disabled or unverified takes no part.
pub(in crate::store) fn must_take_part(webhook: &Webhook) -> Result<()> {
    match webhook.state {
        WebhookState::Disabled => Err(StoreError::Conflict("it is disabled; enable it".to_owned())),
        WebhookState::Unverified => {
            Err(StoreError::Conflict("its receiver has not shown yet that it wants the POSTs".to_owned()))
        }
        WebhookState::Active | WebhookState::Paused => Ok(()),
    }
}
