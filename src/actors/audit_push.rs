//! Pushes the audit log to a syslog receiver, at least once, from where the last push ended. Nothing else
//! waits for it. Of several processes with one database one pushes; when it ends, another one goes on.

use std::time::Duration;

use tokio::time::sleep;

use crate::clock::rfc3339;
use crate::domain::audit::syslog::{Message, Receiver};
use crate::metrics::Metrics;
use crate::outbound::syslog::Sink;
use crate::random;
use crate::store::Store;
use crate::store::audit::export::{ExportFilter, Exported};

/// How long a connection must stay open for messages written into it to count as pushed; also how often new
/// rows are looked for.
const COUNTS_AFTER: Duration = Duration::from_secs(1);
/// First and longest wait between tries while the receiver is unavailable.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_LONGEST: Duration = Duration::from_secs(60);

/// Failure of a push.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("{0}")]
    Receiver(#[from] std::io::Error),
    #[error("{0}")]
    Store(#[from] crate::store::StoreError),
    #[error("an entry cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Pushes for as long as the process lives.
///
/// Messages are at most `max_bytes` long; longer ones are shortened.
pub async fn run(store: Store, receiver: Receiver, max_bytes: usize, metrics: Metrics) {
    let max = receiver.message_max(max_bytes);
    let mut wait = WAIT_FIRST;
    // Error that was logged last, so that each is logged once; `None` once rows were pushed.
    let mut logged = None;
    loop {
        let mut pushed = 0_u64;
        let Err(error) = push(&store, &receiver, max, &metrics, &mut pushed, &mut logged).await;
        if pushed > 0 {
            wait = WAIT_FIRST;
        }
        metrics.audit_push_failures.inc();
        let error = error.to_string();
        let delay = wait.mul_f64(1.0 + random::unit() / 4.0);
        wait = (wait * 2).min(WAIT_LONGEST);
        if logged.as_ref() != Some(&error) {
            tracing::warn!(%receiver, error, ?delay, "failed to push the audit log; retrying after the delay");
            logged = Some(error);
        }
        sleep(delay).await;
    }
}

/// Waits until no other process pushes to this receiver, and pushes over one connection until that ends.
async fn push(
    store: &Store,
    receiver: &Receiver,
    max: usize,
    metrics: &Metrics,
    pushed: &mut u64,
    logged: &mut Option<String>,
) -> Result<std::convert::Infallible, PushError> {
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
            rows.iter().map(|row| message(row, max)).collect::<Result<Vec<_>, serde_json::Error>>()?;
        sink.send(&messages).await?;
        sink.stays_open(COUNTS_AFTER).await?;
        if let Some(last) = rows.last() {
            after = last.id;
            store.note_pushed(&name, after).await?;
            let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
            metrics.audit_pushed.inc_by(count);
            *pushed = pushed.saturating_add(count);
            if logged.take().is_some() {
                tracing::info!(%receiver, count, "pushing the audit log works again");
            }
        }
    }
}

fn message(row: &Exported, max: usize) -> Result<String, serde_json::Error> {
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
    Ok(message.write(max))
}
