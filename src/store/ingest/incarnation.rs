//! What a process does in a new incarnation of the database, after a failover or in a restored backup, before
//! it writes events there: stores again what the database does not have (`again.rs`), and lets numbers jump ahead
//! of those that were given out (docs/adr/0057).

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use time::OffsetDateTime;
use tokio::sync::Mutex as AsyncMutex;

use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{EventId, WebhookId};
use crate::domain::presence::notices::FailoverNotice;
use crate::store::delivery::types::Claimed;
use crate::store::ingest::failover_notice;
use crate::store::ingest::filters::shared_generation;
use crate::store::ingest::recent::EventKey;
use crate::store::ingest::record::stored;
use crate::store::locks::BEGIN_WRITING;
use crate::store::primary::{Incarnation, assess};
use crate::store::{Result, Store, StoreError, audit, session, with_long_timeout};

/// Numbers that an agent may have had besides one for each second.
const SEQUENCES: i64 = 1000;
/// Transactions of writers in a second, at most.
const STEPS_PER_SECOND: i64 = 1000;
/// Seconds that the clock of a new server may be behind that of the former one.
const CLOCK_BEHIND: i64 = 60;
/// How this process stands to the incarnations of its database. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The one that events may be written in.
    settled: Mutex<Option<Incarnation>>,
    /// Held by the one who settles.
    progress: AsyncMutex<Progress>,
    /// Numbers of an agent without an event begin behind this.
    sequence_base: AtomicI64,
    /// What settling came to, and nobody has taken yet.
    outcomes: Mutex<Vec<FailoverNotice>>,
}

/// What settling has come to so far; it may be cut off and begin again.
#[derive(Debug, Default)]
struct Progress {
    /// What was found before anything was stored again, and in which incarnation.
    found: Option<(Incarnation, Found)>,
    restored: u64,
    not_restorable: u64,
}

/// How the database was found.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Everything that this process committed is there, or can be stored again.
    is_complete: bool,
    /// No other process dispatched there.
    is_alone: bool,
    /// The last event.
    last: Option<LastEvent>,
}

impl Found {
    /// The same after another failover before all was stored again: what is there may have been stored again in
    /// the incarnation between, so only both together say what was lost.
    fn after(self, former: Self) -> Self {
        Self {
            is_complete: self.is_complete && former.is_complete,
            is_alone: self.is_alone && former.is_alone,
            last: [self.last, former.last].into_iter().flatten().min_by_key(|last| last.committed_at),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct LastEvent {
    key: EventKey,
    committed_at: OffsetDateTime,
}

/// The incarnation that the rows were written in last.
struct Known {
    is_same: bool,
    sequence_base: i64,
    begun_at: OffsetDateTime,
}

impl History {
    /// Numbers of an agent without an event begin behind this.
    pub(super) fn sequence_base(&self) -> i64 {
        self.0.sequence_base.load(Ordering::Acquire)
    }

    fn settled(&self) -> MutexGuard<'_, Option<Incarnation>> {
        self.0.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcomes(&self) -> MutexGuard<'_, Vec<FailoverNotice>> {
        self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Begins a transaction that writes events or claims deliveries.
    ///
    /// # Errors
    /// If the database is unavailable, or its incarnation has changed since [`settle`](Self::settle).
    pub(in crate::store) async fn begin_settled(
        &self,
        statement: &'static str,
    ) -> Result<Transaction<'static, Postgres>> {
        let tx = self.pipeline().await?.begin_with(statement).await?;
        if let Err(error) = self.check_settled() {
            tx.rollback().await?;
            return Err(error);
        }
        Ok(tx)
    }

    /// Whether events may be written by a connection that is had at this moment: one to another incarnation is
    /// handed out only after that is known.
    pub(in crate::store) fn check_settled(&self) -> Result<()> {
        if self.is_settled() {
            return Ok(());
        }
        Err(StoreError::GoneOn)
    }

    fn is_settled(&self) -> bool {
        self.history.settled().as_ref().is_some_and(|settled| self.primary.is_in(settled))
    }

    /// Stores again what this process has committed and a new incarnation of the database does not have, and
    /// lets numbers jump ahead if that cannot be complete. Does nothing in an incarnation in which it was done.
    ///
    /// # Errors
    /// If the database is unavailable; what is stored again stays, and the next call goes on from there.
    pub async fn settle(&self) -> Result<()> {
        if self.is_settled() { Ok(()) } else { Box::pin(self.settle_in_turn()).await }
    }

    async fn settle_in_turn(&self) -> Result<()> {
        let mut progress = self.history.0.progress.lock().await;
        if self.is_settled() {
            return Ok(());
        }
        let settling = with_long_timeout(Box::pin(self.settle_by(&mut progress)));
        let (incarnation, notice) = self.unless_gone_on(Instant::now(), settling).await?;
        *progress = Progress::default();
        self.history.settled().replace(incarnation);
        self.history.outcomes().extend(notice);
        self.wake.events_stored();
        self.wake.deliveries_due();
        Ok(())
    }

    /// What settling has come to since the last call, in an incarnation that was new.
    #[must_use]
    pub fn take_settled(&self) -> Vec<FailoverNotice> {
        std::mem::take(&mut *self.history.outcomes())
    }

    /// Notes that the database is a restored copy although it looks like its original: the next process that
    /// begins to write in it takes it for a new incarnation.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn count_as_restored(&self) -> Result<()> {
        sqlx::query!("update incarnation set table_oid = 0").execute(&self.pool).await?;
        Ok(())
    }

    /// Keeps for a minute with which bytes deliveries are about to be sent for the first time.
    pub fn keep_sent(&self, claimed: &[Claimed]) {
        self.recent.keep_sent(claimed.iter());
    }

    /// Gives back what was kept for a minute.
    pub fn forget_old_writes(&self) {
        self.recent.forget_old(Instant::now());
    }

    async fn settle_by(&self, progress: &mut Progress) -> Result<(Incarnation, Option<FailoverNotice>)> {
        let is_start = self.history.settled().is_none();
        let (settled_in, found) = self.find_out_once(&mut progress.found, is_start).await?;
        if !is_start {
            Box::pin(self.store_all_again((&mut progress.restored, &mut progress.not_restorable))).await?;
            self.restore_bodies().await?;
        }
        let (mut connection, incarnation) = self.assessed().await?;
        if incarnation != settled_in {
            return Err(StoreError::GoneOn);
        }
        let mut tx = connection.begin_with(BEGIN_WRITING).await?;
        session::allow_a_minute(&mut tx).await?;
        let known = known(&mut tx, &incarnation).await?;
        let is_new = known.as_ref().is_some_and(|known| !known.is_same);
        let is_whole = found.is_complete && progress.not_restorable == 0;
        let since = found.last.map(|last| last.committed_at);
        let notice = FailoverNotice {
            timeline: incarnation.timeline,
            restored: progress.restored,
            not_restorable: progress.not_restorable,
            lost_since: since.filter(|_| if is_start { is_new } else { !is_whole }),
        };
        let is_told = is_new || notice.restored > 0 || notice.lost_since.is_some();
        let told = if is_told { failover_notice::lock(&mut tx).await? } else { Vec::new() };
        let now = clock::now();
        let mut base = known.as_ref().map_or(0, |known| known.sequence_base);
        let oldest = match known.filter(|_| is_new) {
            Some(known) => {
                let seconds = (now - since.unwrap_or(known.begun_at)).whole_seconds().max(0) + 1;
                if !is_whole || !found.is_alone {
                    let by = SEQUENCES + seconds;
                    raise_sequences(&mut tx, by).await?;
                    base += by;
                }
                self.begin_numbers(&mut tx, seconds).await?
            }
            None => shared_generation(&mut tx).await?,
        };
        set_known(&mut tx, &incarnation, base).await?;
        self.forget_lost_removals(&mut tx).await?;
        let last = last_event(&mut tx).await?;
        if is_told {
            audit::write(&mut tx, &[entry(&notice, now)]).await?;
            failover_notice::tell(&mut tx, &notice, now, &told).await?;
        }
        tx.commit().await?;
        // What could not be stored again need not be tried in the next failover.
        if is_start || !is_whole {
            self.recent.begin_behind(last.map(|last| last.key));
        }
        self.history.0.sequence_base.store(base, Ordering::Release);
        self.filters.forget(oldest);
        Ok((incarnation, is_told.then_some(notice)))
    }

    /// A connection, and the incarnation that it leads to, which is the one that is known.
    pub(super) async fn assessed(&self) -> Result<(PoolConnection<Postgres>, Incarnation)> {
        let mut connection = self.first_in_pipeline().await?;
        let known = self.incarnation();
        let found = assess(&mut connection, known.as_ref()).await.map_err(sqlx::Error::from)?;
        if known.as_ref() == Some(&found) {
            return Ok((connection, found));
        }
        drop(connection.detach());
        Err(StoreError::former_primary())
    }

    /// What was found in the incarnation that is known, from before anything was stored again there.
    async fn find_out_once(
        &self,
        found: &mut Option<(Incarnation, Found)>,
        is_start: bool,
    ) -> Result<(Incarnation, Found)> {
        let present = self.incarnation();
        if let Some(found) = found.as_ref().filter(|(incarnation, _)| present.as_ref() == Some(incarnation)) {
            return Ok(found.clone());
        }
        let (incarnation, mut now) = self.find_out(is_start).await?;
        if let Some((_, former)) = found {
            now = now.after(*former);
        }
        Ok(found.insert((incarnation, now)).clone())
    }

    async fn find_out(&self, is_start: bool) -> Result<(Incarnation, Found)> {
        let (mut connection, incarnation) = self.assessed().await?;
        let mut tx = connection.begin_with(BEGIN_WRITING).await?;
        let last = last_event(&mut tx).await?;
        let recent = self.recent.get();
        let first = recent.writes.first().and_then(|write| write.events.first()).map(EventKey::of);
        let proofs = recent.before.into_iter().chain(first);
        let is_proven = !stored(&mut tx, proofs.map(|key| (key.event_id, key.received_at))).await?.is_empty();
        let is_alone = sqlx::query_scalar!(
            r#"select not exists (
                   select
                   from dispatcher
                   where process_id is distinct from $1) as "is_alone!""#,
            self.process as _,
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        let is_complete = !is_start && (recent.before.is_none() || is_proven);
        Ok((incarnation, Found { is_complete, is_alone, last }))
    }

    /// A webhook whose removal was lost gets its deliveries as before.
    async fn forget_lost_removals(&self, conn: &mut PgConnection) -> Result<()> {
        let asked = Instant::now();
        let back = sqlx::query_scalar!(
            r#"select webhook_id as "webhook_id: WebhookId"
               from webhook
               where webhook_id = any ($1)
                 and deleted_at is null"#,
            &self.handoff.removed() as _,
        )
        .fetch_all(conn)
        .await?;
        self.handoff.put_back(&back, asked);
        Ok(())
    }

    /// Lets the numbers that all share jump ahead; gives the new generation of the webhooks.
    async fn begin_numbers(&self, conn: &mut PgConnection, seconds: i64) -> Result<i64> {
        let events = self.recent.get().writes.into_iter().rev();
        let position = events.filter_map(|write| write.events.last().map(|new| new.event.position)).max();
        Ok(sqlx::query_scalar!(
            r#"select begin_numbers($1, $2) as "generation!""#,
            STEPS_PER_SECOND * (seconds + CLOCK_BEHIND),
            position.unwrap_or(0),
        )
        .fetch_one(conn)
        .await?)
    }
}

fn entry(notice: &FailoverNotice, now: OffsetDateTime) -> Entry {
    let level = if notice.lost_since.is_some() { Level::Error } else { Level::Warn };
    Entry::new(now, Kind::DatabaseFailedOver)
        .level(level)
        .data("timeline", notice.timeline)
        .data("restored", notice.restored)
        .data("not_restorable", notice.not_restorable)
        .data("lost_since", notice.lost_since.map(clock::rfc3339))
}

/// Reads in which incarnation the rows were written last; `None`: they never were.
async fn known(conn: &mut PgConnection, incarnation: &Incarnation) -> Result<Option<Known>> {
    let row = sqlx::query!(
        r#"select system_identifier, timeline, table_oid = 'incarnation'::regclass::oid::bigint
                  and database_oid = (select oid::bigint from pg_database where datname = current_database())
                      as "is_same_place!",
                  sequence_base, begun_at
           from incarnation"#
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| {
        let cluster = row.system_identifier.zip(incarnation.system_identifier.clone());
        let timeline = row.timeline.zip(incarnation.timeline.map(i64::from));
        Known {
            is_same: row.is_same_place
                && cluster.is_none_or(|(known, present)| known == present)
                && timeline.is_none_or(|(known, present)| known == present),
            sequence_base: row.sequence_base,
            begun_at: row.begun_at,
        }
    }))
}

/// Writes down in which incarnation the rows are written from now on.
async fn set_known(conn: &mut PgConnection, incarnation: &Incarnation, sequence_base: i64) -> Result<()> {
    sqlx::query!(
        "insert into incarnation (system_identifier, timeline, table_oid, database_oid, sequence_base)
         select $1, $2, 'incarnation'::regclass::oid::bigint, oid::bigint, $3
         from pg_database
         where datname = current_database()
         on conflict (single) do update
         set system_identifier = coalesce(excluded.system_identifier, incarnation.system_identifier),
             timeline = coalesce(excluded.timeline, incarnation.timeline),
             table_oid = excluded.table_oid,
             database_oid = excluded.database_oid,
             sequence_base = excluded.sequence_base,
             begun_at = now()
         where (incarnation.system_identifier, incarnation.timeline, incarnation.table_oid,
                incarnation.database_oid)
               is distinct from (excluded.system_identifier, excluded.timeline, excluded.table_oid,
                                 excluded.database_oid)",
        incarnation.system_identifier,
        incarnation.timeline.map(i64::from),
        sequence_base,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn last_event(conn: &mut PgConnection) -> Result<Option<LastEvent>> {
    let row = sqlx::query!(
        r#"select event_id as "event_id: EventId", received_at, coalesce(committed_at, received_at) as "at!"
           from event
           where kind in ('presence.updated', 'presence.gap')
           order by position desc
           limit 1"#
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| LastEvent {
        key: EventKey { event_id: row.event_id, received_at: row.received_at },
        committed_at: row.at,
    }))
}

/// Lets the numbers of all agents jump ahead.
async fn raise_sequences(conn: &mut PgConnection, by: i64) -> Result<()> {
    sqlx::query!("update agent set sequence = sequence + $1 where sequence > 0", by).execute(conn).await?;
    Ok(())
}
