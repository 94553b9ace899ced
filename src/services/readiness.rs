//! Whether the bridge can do its work now.

use std::time::Duration;

use tokio::time::timeout;

use super::caller::Services;

/// How long readiness waits for the database; whoever probes us does not wait much longer.
const DATABASE_WITHIN: Duration = Duration::from_secs(2);

/// Everything that keeps the bridge from its work now, as `/readyz` says it; nothing if it is ready.
pub async fn obstacles(services: &Services) -> Vec<String> {
    let mut reasons = Vec::new();
    match timeout(DATABASE_WITHIN, services.whole_store.coverage()).await {
        Ok(Ok(coverage)) => {
            if coverage.any_wanted && !coverage.any_open {
                reasons.push("upstream: no connection is open".to_owned());
            }
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "readiness: the database refused the question for coverage; answering not ready");
            reasons.push("database: cannot be asked".to_owned());
        }
        Err(_) => reasons.push("database: does not answer".to_owned()),
    }
    if let Some(why) = services.status.not_storing() {
        reasons.push(format!("database: {why}"));
    }
    for part in services.status.dead_parts() {
        reasons.push(format!("{}: gives no sign of life", part.as_str()));
    }
    reasons
}
