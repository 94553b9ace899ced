//! The webhooks' filters, kept in memory by the writers of events and read again whenever a webhook changes: with
//! ten thousand of them a comparison in SQL would cost more than all the rest.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;

use super::Result;
use crate::domain::delivery_settings::{Format, Mode, USUAL_CONCURRENCY};
use crate::domain::ids::{SourceId, TenantId, WebhookId};
use crate::domain::matching::Subscription;
use crate::domain::presence::EventKind;

/// The filters as of one generation.
pub type Subscriptions = Arc<Vec<Subscription>>;

/// What was read last.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<Option<(i64, Subscriptions)>>>);

impl Known {
    /// The filters of this generation, which the caller has read in its transaction after taking the writers' lock. What
    /// was committed before that reading counts.
    pub(super) async fn of(&self, conn: &mut PgConnection, generation: i64) -> Result<Subscriptions> {
        if let Some((known, subscriptions)) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner)
            && *known == generation
        {
            return Ok(subscriptions.clone());
        }
        let subscriptions = Arc::new(read(conn).await?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, subscriptions.clone()));
        Ok(subscriptions)
    }

    /// How many webhooks there were when they were read last.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |(_, all)| all.len())
    }
}

/// Counts changes of webhooks; ask after taking the writers' lock.
pub(super) async fn generation(conn: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar!("select generation from webhook_generation").fetch_one(conn).await?)
}

async fn read(conn: &mut PgConnection) -> Result<Vec<Subscription>> {
    let rows = sqlx::query!(
        r#"select webhook_id as "webhook_id: WebhookId", tenant_id as "tenant_id: TenantId", version, events, agents, topics, presences,
                  sources as "sources: Vec<SourceId>", mode, min_dwell_ms, batch_max_wait_ms, format,
                  state = 'paused' as "paused!",
                  (rate_limit_requests is not null or max_concurrency < $1) as "limited!"
           from webhook
           where deleted_at is null
             and state in ('active', 'paused')
           order by webhook_id"#,
        i32::from(USUAL_CONCURRENCY),
    )
    .fetch_all(conn)
    .await?;
    let ms = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    Ok(rows
        .into_iter()
        .map(|row| Subscription {
            webhook_id: row.webhook_id,
            tenant_id: row.tenant_id,
            version: row.version,
            events: row.events.iter().filter_map(|name| EventKind::from_name(name)).collect(),
            agents: HashSet::from_iter(row.agents),
            topics: HashSet::from_iter(row.topics),
            presences: HashSet::from_iter(row.presences),
            sources: HashSet::from_iter(row.sources),
            mode: Mode::from_name(&row.mode).unwrap_or_default(),
            min_dwell: ms(row.min_dwell_ms),
            batch_wait: row.batch_max_wait_ms.map(ms),
            format: Format::from_name(&row.format).unwrap_or_default(),
            paused: row.paused,
            limited: row.limited,
        })
        .collect())
}
