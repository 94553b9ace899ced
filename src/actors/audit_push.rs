//! Pushes the audit log to a syslog receiver, at least once, from where it was. Waits for nobody, and nobody waits for it. Of
//! several processes with one database one pushes, and another one goes on when it ends.

use std::time::Duration;

use tokio::time::sleep;

use crate::clock::rfc3339;
use crate::domain::audit::syslog::{Message, Receiver};
use crate::metrics::Metrics;
use crate::outbound::syslog::Sink;
use crate::random;
use crate::store::Store;
use crate::store::audit::export::{ExportFilter, Exported};

/// How long a connection must stay whole for what was written into it to count; also how often there is a look for more.
const COUNTS_AFTER: Duration = Duration::from_secs(1);
/// Waits between tries while the receiver is away.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_LONGEST: Duration = Duration::from_secs(60);

/// Why a try ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Receiver(#[from] std::io::Error),
    #[error("{0}")]
    Store(#[from] crate::store::StoreError),
    #[error("an entry cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Pushes for as long as the process lives.
pub async fn run(store: Store, receiver: Receiver, metrics: Metrics) {
    let mut wait = WAIT_FIRST;
    // What was told of the present trouble, so that it is told once.
    let mut told = None;
    loop {
        let mut pushed = 0_u64;
        let Err(ended) = push(&store, &receiver, &metrics, &mut pushed, &mut told).await;
        if pushed > 0 {
            wait = WAIT_FIRST;
        }
        metrics.audit_push_failures.inc();
        let why = ended.to_string();
        if told.as_ref() != Some(&why) {
            tracing::warn!(%receiver, error = %why, "the audit log cannot be pushed; it waits");
            told = Some(why);
        }
        sleep(wait.mul_f64(1.0 + random::unit() / 4.0)).await;
        wait = (wait * 2).min(WAIT_LONGEST);
    }
}

/// Waits for its turn, and pushes over one connection until that ends.
async fn push(
    store: &Store,
    receiver: &Receiver,
    metrics: &Metrics,
    pushed: &mut u64,
    told: &mut Option<String>,
) -> Result<std::convert::Infallible, Ended> {
    let name = receiver.to_string();
    let mut lock = store.push_lock(&name).await?;
    while !lock.try_acquire().await? {
        sleep(COUNTS_AFTER).await;
    }
    let mut after = store.pushed_through(&name).await?;
    let mut sink = Sink::open(receiver).await?;
    loop {
        lock.try_acquire().await?;
        let through = store.sealed_through().await?;
        let rows = match after < through {
            true => store.export_audit(after, through, ExportFilter::default()).await?,
            false => Vec::new(),
        };
        let messages =
            rows.iter().map(|row| message(row, receiver)).collect::<Result<Vec<_>, serde_json::Error>>()?;
        sink.send(&messages).await?;
        sink.stays_open(COUNTS_AFTER).await?;
        if let Some(last) = rows.last() {
            after = last.id;
            store.note_pushed(&name, after).await?;
            let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
            metrics.audit_pushed.inc_by(count);
            *pushed = pushed.saturating_add(count);
            if told.take().is_some() {
                tracing::info!(%receiver, "the audit log is pushed again");
            }
        }
    }
}

fn message(row: &Exported, receiver: &Receiver) -> Result<String, serde_json::Error> {
    let mut ids = vec![("id", row.id.to_string())];
    let of = |name, id: Option<String>| id.map(|id| (name, id));
    ids.extend(of("tenant", row.tenant_id.map(|id| id.to_string())));
    ids.extend(of("source", row.source_id.map(|id| id.to_string())));
    ids.extend(of("connection", row.connection_id.map(|id| id.to_string())));
    ids.extend(of("agent", row.agent_id.clone()));
    ids.extend(of("webhook", row.webhook_id.map(|id| id.to_string())));
    ids.extend(of("event", row.event_id.map(|id| id.to_string())));
    ids.extend(of("delivery", row.delivery_id.map(|id| id.to_string())));
    ids.extend(of("principal", row.principal.clone()));
    ids.extend(of("outcome", row.outcome.clone()));
    let text = serde_json::to_string(row)?;
    let message =
        Message { level: &row.level, at: &rfc3339(row.at), kind: &row.kind, ids: &ids, text: &text };
    Ok(message.write(receiver.transport))
}
