//! The webhooks' filters in memory, for the writers of events: with ten thousand webhooks a comparison in SQL
//! would cost more than all the rest. Each change of a webhook has a number; the cache reads newer ones, a
//! piece at a time, outside of the writers' transactions (docs/adr/0031).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;

use crate::domain::delivery::settings::{Format, Mode, USUAL_CONCURRENCY};
use crate::domain::ids::{SourceId, TenantId, WebhookId, with_canonical_guids};
use crate::domain::presence::EventKind;
use crate::domain::webhook::filter_index::Filters;
use crate::domain::webhook::matching::Subscription;
use crate::store::{Result, Store, StoreError, with_timeout};

/// Webhooks that one statement reads at most, and about how many items of their filters.
const WEBHOOKS_AT_ONCE: i64 = 200;
const ITEMS_AT_ONCE: i64 = 20_000;
/// Times that a step ends because filters have changed, before it reads them in its own transaction, which
/// keeps changes of webhooks out until it ends.
const TRIES_WITHOUT_LOCK: u32 = 3;

#[derive(Debug, Default)]
struct CachedFilters {
    /// All changes up to this number are in the filters; 0: nothing was read yet.
    generation: i64,
    /// Webhooks that were removed up to this number have never been in them.
    begun_at: i64,
    /// First number of this incarnation of the database.
    oldest: i64,
    /// How often everything was forgotten.
    forgotten: u64,
    filters: Filters,
}

impl CachedFilters {
    fn forget(&mut self) {
        *self = Self { oldest: self.oldest, forgotten: self.forgotten + 1, ..Self::default() };
    }
}

/// Filters read so far, and the number of the last change in them. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FilterCache(Arc<Mutex<CachedFilters>>);

impl FilterCache {
    /// Asks something of the filters; first see that they are [current](Self::are_current) if that matters.
    pub(in crate::store) fn ask<T>(&self, question: impl FnOnce(&Filters) -> T) -> T {
        question(&self.lock().filters)
    }

    /// Whether the filters are up to date for a transaction that has [shared](shared_generation) this
    /// generation. With `insist` they are brought up to date in the transaction.
    pub(in crate::store) async fn are_current(
        &self,
        conn: &mut PgConnection,
        generation: i64,
        insist: bool,
    ) -> Result<bool> {
        while insist && self.lock().generation != generation {
            self.read_piece(conn).await?;
        }
        Ok(self.lock().generation == generation)
    }

    /// Forgets everything, as in a database that may have gone back. One whose generation is below this one is
    /// the former one.
    pub(super) fn forget(&self, oldest: i64) {
        let mut cached = self.lock();
        cached.oldest = oldest;
        cached.forget();
    }

    /// Reads the next changes; true if none are left.
    async fn read_piece(&self, conn: &mut PgConnection) -> Result<bool> {
        let as_of = |cached: &CachedFilters| (cached.forgotten, cached.generation);
        let read = as_of(&self.lock());
        let (_, from) = read;
        let there = generation(conn).await?;
        let begun_at = {
            let mut cached = self.lock();
            if as_of(&cached) != read {
                return Ok(false); // somebody else was faster
            }
            if there < cached.oldest {
                return Err(StoreError::former_primary());
            }
            // The database has gone back and nobody has noticed: the server does not say its incarnation.
            if there < from {
                cached.forget();
                return Ok(false);
            }
            if from == 0 {
                cached.begun_at = there;
            }
            cached.begun_at
        };
        if from == there {
            return Ok(true);
        }
        let changed = changed(conn, from, begun_at).await?;
        let mut cached = self.lock();
        if as_of(&cached) != read {
            return Ok(false);
        }
        cached.generation = changed.last().map_or(there, |last| last.generation);
        for webhook in changed {
            match webhook.asks {
                Some(filter) => cached.filters.put(Arc::new(filter)),
                None => cached.filters.remove(webhook.webhook_id),
            }
        }
        Ok(cached.generation >= there)
    }

    fn oldest(&self) -> i64 {
        self.lock().oldest
    }

    fn lock(&self) -> MutexGuard<'_, CachedFilters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Runs a step whose transaction [shares](shared_generation) the generation of the filters. A step that
    /// finds the cache [out of date](FilterCache::are_current) gives `None`, and runs again once the changes
    /// are read; called with `true`, it must insist.
    pub(in crate::store) async fn by_filters<T, F>(&self, step: impl Fn(bool) -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let mut tries = 0;
        loop {
            if let Some(done) = self.with_patience(step(tries >= TRIES_WITHOUT_LOCK)).await? {
                return Ok(done);
            }
            self.read_filters().await?;
            tries += 1;
        }
    }

    /// Number of the last change of a webhook, and the webhooks that have changed since another number;
    /// `None` if any may have.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn webhooks_changed(&self, since: i64) -> Result<(i64, Option<Vec<WebhookId>>)> {
        with_timeout(async {
            let mut conn = self.pool.acquire().await?;
            let there = generation(&mut conn).await?;
            if there == since {
                return Ok((there, Some(Vec::new())));
            }
            if since < self.filters.oldest() || since == 0 || there < since {
                return Ok((there, None));
            }
            let changed = sqlx::query_scalar!(
                r#"select webhook_id as "webhook_id: WebhookId" from webhook where changed_generation > $1"#,
                since,
            );
            Ok((there, Some(changed.fetch_all(&mut *conn).await?)))
        })
        .await
    }

    /// Reads the filters that have changed.
    ///
    /// # Errors
    /// If the database is unavailable; filters read so far count.
    pub async fn read_filters(&self) -> Result<()> {
        let piece = async || self.filters.read_piece(&mut *self.pool.acquire().await?).await;
        while !with_timeout(piece()).await? {}
        Ok(())
    }
}

/// Number of the last change of a webhook.
async fn generation(conn: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar!("select generation from webhook_generation").fetch_one(conn).await?)
}

/// The same for writers of events: no change of a webhook commits from here until the transaction ends, so
/// the filters hold at its commit too. Take the writers' lock and all row locks of `webhook` before.
pub(in crate::store) async fn shared_generation(conn: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar!("select generation from webhook_generation for share").fetch_one(conn).await?)
}

struct Changed {
    webhook_id: WebhookId,
    generation: i64,
    /// `None`: it gets no deliveries.
    asks: Option<Subscription>,
}

/// Next webhooks that have changed, in the order of their last changes.
async fn changed(conn: &mut PgConnection, from: i64, begun_at: i64) -> Result<Vec<Changed>> {
    let rows = sqlx::query!(
        r#"select w.webhook_id as "webhook_id: WebhookId", w.changed_generation as "generation!",
                  w.deleted_at is null and w.state in ('active', 'paused') as "takes_part!",
                  w.tenant_id as "tenant_id: TenantId", w.version, w.events, w.agents, w.topics, w.presences,
                  w.sources as "sources: Vec<SourceId>", w.queues, w.routing_statuses, w.transitions, w.mode, w.min_dwell_ms, w.batch_max_wait_ms, w.format,
                  w.state = 'paused' as "paused!",
                  (w.rate_limit_requests is not null or w.max_concurrency < $5) as "limited!"
           from (
               select n.webhook_id,
                      sum(n.filter_items) over (order by n.changed_generation) - n.filter_items as before
               from (
                   select webhook_id, changed_generation, filter_items
                   from webhook
                   where changed_generation > $1
                     and (changed_generation > $2 or (deleted_at is null and state in ('active', 'paused')))
                   order by changed_generation
                   limit $3) n) p
           join webhook w on w.webhook_id = p.webhook_id
           where p.before < $4
           order by w.changed_generation"#,
        from,
        begun_at,
        WEBHOOKS_AT_ONCE,
        ITEMS_AT_ONCE,
        i32::from(USUAL_CONCURRENCY),
    )
    .fetch_all(conn)
    .await?;
    let ms = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    Ok(rows
        .into_iter()
        .map(|row| Changed {
            webhook_id: row.webhook_id,
            generation: row.generation,
            asks: row.takes_part.then(|| Subscription {
                webhook_id: row.webhook_id,
                tenant_id: row.tenant_id,
                version: row.version,
                events: row.events.iter().filter_map(|name| EventKind::from_name(name)).collect(),
                agents: with_canonical_guids(&row.agents).iter().collect(),
                topics: row.topics.iter().collect(),
                presences: row.presences.iter().collect(),
                sources: HashSet::from_iter(row.sources),
                queues: row.queues.iter().collect(),
                routing_statuses: row.routing_statuses.iter().collect(),
                transitions: row.transitions.iter().collect(),
                mode: Mode::from_name(&row.mode).unwrap_or_default(),
                min_dwell: ms(row.min_dwell_ms),
                batch_wait: row.batch_max_wait_ms.map(ms),
                format: Format::from_name(&row.format).unwrap_or_default(),
                paused: row.paused,
                limited: row.limited,
            }),
        })
        .collect())
}
