//! Waiting for a bridge that is only reachable by HTTP: the one place where polling is right.

use std::time::Duration;

use anyhow::bail;
use genesys_simulator::http::Api;
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(200);

/// Waits until `GET /readyz` answers 200.
pub async fn for_ready(api: &Api, within: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let last = match api.get("/readyz").await {
            Ok(reply) if reply.status == 200 => return Ok(()),
            Ok(reply) => format!("{} {}", reply.status, reply.excerpt()),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            bail!("the bridge is not ready after {within:?}: {last}");
        }
        sleep(PAUSE).await;
    }
}

/// Waits until a look gives something.
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {within:?}");
        }
        sleep(PAUSE).await;
    }
}
