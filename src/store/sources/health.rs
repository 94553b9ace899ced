//! Stale and recovered sources: the row, the event, its deliveries and the audit entry share a transaction.
//! Called by the supervisor.

use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::{ConnectionId, EventId, GapId, SourceId, WebhookId};
use crate::domain::presence::EventKind;
use crate::domain::presence::notices::{GAPS_MAX, NoticedGap, SourceNotice};
use crate::store::delivery::receiver_notices;
use crate::store::{Result, Store, audit};

/// Coverage of a source, and the last reading of its rosters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Last proof of a live connection; `None` unless the source is stale.
    #[serde(with = "time::serde::rfc3339::option")]
    pub stale_since: Option<OffsetDateTime>,
    /// Last time that the agents to watch were planned.
    #[serde(with = "time::serde::rfc3339::option")]
    pub roster_read_at: Option<OffsetDateTime>,
    /// Error of the last reading of a roster; `None` if it succeeded.
    pub roster_error: Option<String>,
    /// Agents that are to be watched.
    pub agents_wanted: i64,
    /// Of those, how many stay unwatched because the client's channels are full.
    pub agents_over_limit: i64,
    /// Of those, how many upstream rejects.
    pub agents_rejected: i64,
    /// Connections that are to be open.
    pub connections: i64,
    /// Of those, how many are.
    pub connections_open: i64,
}

impl Store {
    /// Notes that a source has had no live connection since then. Call
    /// [`deliveries_due`](crate::store::wake::Wake::deliveries_due) afterwards.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn source_became_stale(
        &self,
        source: SourceId,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            let changed = sqlx::query!(
                "insert into source_health (source_id, stale_since)
                 values ($1, $2)
                 on conflict (source_id) do update
                 set stale_since = excluded.stale_since
                 where source_health.stale_since is null",
                source as _,
                since,
            )
            .execute(&mut *tx)
            .await?;
            if changed.rows_affected() > 0 {
                let mut notice = SourceNotice { since, until: None, gaps: Vec::new(), gap_count: 0 };
                add_gaps(&mut tx, source, &mut notice).await?;
                write_notice(&mut tx, EventKind::SourceStale, source, &notice, now).await?;
                let entry = Entry::new(now, Kind::SourceStale).level(Level::Error);
                audit::write(&mut tx, &[concerning(entry, source, &notice)]).await?;
            }
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Notes that a stale source has a live connection again. Call
    /// [`deliveries_due`](crate::store::wake::Wake::deliveries_due) afterwards.
    ///
    /// # Errors
    /// If the database is unavailable.
    pub async fn source_recovered(&self, source: SourceId, now: OffsetDateTime) -> Result<()> {
        self.with_patience(async {
            let mut tx = self.begin().await?;
            let since = sqlx::query_scalar!(
                r#"update source_health h
                   set stale_since = null
                   from source_health before
                   where h.source_id = $1
                     and before.source_id = h.source_id
                     and before.stale_since is not null
                   returning before.stale_since as "since!""#,
                source as _,
            )
            .fetch_optional(&mut *tx)
            .await?;
            if let Some(since) = since {
                let mut notice = SourceNotice { since, until: Some(now), gaps: Vec::new(), gap_count: 0 };
                add_gaps(&mut tx, source, &mut notice).await?;
                write_notice(&mut tx, EventKind::SourceRecovered, source, &notice, now).await?;
                let entry = Entry::new(now, Kind::SourceRecovered);
                audit::write(&mut tx, &[concerning(entry, source, &notice)]).await?;
            }
            tx.commit().await?;
            Ok(())
        })
        .await
    }
}

/// Lists the gaps that reach into the stale time.
async fn add_gaps(conn: &mut PgConnection, source: SourceId, notice: &mut SourceNotice) -> Result<()> {
    let rows = sqlx::query!(
        r#"select gap_id as "gap_id: GapId", connection_id as "connection_id: ConnectionId", cause, from_at, to_at,
                  coalesce(cardinality(agents), 0) as "agents!", count(*) over () as "all!"
           from gap
           where source_id = $1
             and (to_at is null or to_at >= $2)
           order by from_at, gap_id
           limit $3"#,
        source as _,
        notice.since,
        i64::try_from(GAPS_MAX).unwrap_or(i64::MAX),
    )
    .fetch_all(conn)
    .await?;
    notice.gap_count = rows.first().map_or(0, |row| u32::try_from(row.all).unwrap_or(u32::MAX));
    notice.gaps = rows
        .into_iter()
        .map(|row| NoticedGap {
            id: row.gap_id,
            connection_id: row.connection_id,
            cause: row.cause,
            from: row.from_at,
            to: row.to_at,
            agents: u32::try_from(row.agents).unwrap_or(0),
        })
        .collect();
    Ok(())
}

/// Writes the event and a delivery for every webhook that asks for its kind, in the lane of events without an
/// agent.
async fn write_notice(
    conn: &mut PgConnection,
    kind: EventKind,
    source: SourceId,
    notice: &SourceNotice,
    now: OffsetDateTime,
) -> Result<()> {
    let event = EventId::generate();
    let position = sqlx::query_scalar!(
        "insert into event (event_id, received_at, kind, source_id, source_name, occurred_at, raw, state, committed_at)
         select $1, $2, $3, source_id, name, $4, $5, $6, $2
         from source
         where source_id = $7
         returning position",
        event as _,
        now,
        kind.as_str(),
        notice.until.unwrap_or(notice.since),
        b"null",
        Json(notice) as _,
        source as _,
    )
    .fetch_one(&mut *conn)
    .await?;
    let webhooks = sqlx::query_scalar!(
        r#"select webhook_id as "webhook_id: WebhookId"
           from webhook
           where deleted_at is null
             and state in ('active', 'paused')
             and $1 = any (events)
             and tenant_id = (select tenant_id from source where source_id = $2)
             and (sources = '{}' or $2 = any (sources))
           order by webhook_id"#,
        kind.as_str(),
        source as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    receiver_notices::insert_unordered(conn, event, &webhooks, position, now).await
}

fn concerning(entry: Entry, source: SourceId, notice: &SourceNotice) -> Entry {
    let mut entry = entry.data("since", crate::clock::rfc3339(notice.since)).data("gaps", notice.gap_count);
    entry.source_id = Some(source);
    entry
}
