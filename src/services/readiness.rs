//! Whether the bridge can do its work now.

use std::time::Duration;

use tokio::time::timeout;

use super::caller::Services;
use crate::store::server::{Commits, Standing};
use crate::store::{Result, Store, StoreError};

/// How long readiness waits for the database; whoever probes us does not wait much longer.
const DATABASE_WITHIN: Duration = Duration::from_secs(2);

/// Answer of `/readyz`.
#[derive(Debug)]
pub struct Readiness {
    /// Everything that keeps the bridge from its work now; nothing if it is ready.
    pub reasons: Vec<String>,
    /// The database's server; `None` while the database cannot be worked with.
    pub database: Option<Standing>,
}

/// Tries whether the bridge can do its work now.
pub async fn readiness(services: &Services) -> Readiness {
    let (mut reasons, mut database) = (Vec::new(), None);
    match timeout(DATABASE_WITHIN, database_and_upstream(&services.whole_store)).await {
        Ok(Ok((standing, is_blind))) => {
            if services.require_sync
                && let Some(why) = not_synchronous(standing.commits)
            {
                reasons.push(format!("database: {why}, and BRIDGE_REQUIRE_SYNC is true"));
            }
            if is_blind {
                reasons.push("upstream: no connection is open".to_owned());
            }
            database = Some(standing);
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "readiness: the database refused a question; answering not ready");
            reasons.push(format!("database: {}", in_words(&error)));
        }
        Err(_) => reasons.push("database: does not answer".to_owned()),
    }
    if let Some(why) = services.status.not_storing() {
        let reason = format!("database: {why}");
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    for part in services.status.dead_parts() {
        reasons.push(format!("{}: gives no sign of life", part.as_str()));
    }
    Readiness { reasons, database }
}

/// How the database stands, and whether nobody is seen upstream though somebody should be.
async fn database_and_upstream(store: &Store) -> Result<(Standing, bool)> {
    let standing = store.try_what_calls_need().await?;
    let coverage = store.coverage().await?;
    Ok((standing, coverage.any_wanted && !coverage.any_open))
}

fn not_synchronous(commits: Commits) -> Option<&'static str> {
    match commits {
        Commits::Standby => None,
        Commits::Local => Some("commits wait for no standby (synchronous_standby_names, synchronous_commit)"),
        Commits::StandbyAbsent => Some("no standby is connected"),
    }
}

fn in_words(error: &StoreError) -> String {
    match error {
        StoreError::NoPrimary(_) => error.to_string(),
        _ if error.is_transient() => "cannot be asked".to_owned(),
        StoreError::Conflict(what) => format!("calls of the API cannot run: {what}"),
        other => format!("calls of the API cannot run: {other}"),
    }
}
