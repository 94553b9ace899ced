//! Commits that wait for a synchronous standby. No `statement_timeout` of the server ends them. A step that
//! was given up would leave its transaction on the server, with its locks and its connection, until the
//! standby is back; so it is not given up while the server says that it waits (docs/adr/0055).

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::pool::{STEP_WITHIN, no_answer};
use super::primary::PING_WITHIN;
use super::{Result, Store};

/// Why nothing is stored meanwhile, in words for an operator.
pub const WAITS_FOR_STANDBY: &str = "commits wait for its synchronous standby";

/// The server is asked that long before a step is given up, so that one that answers nobody delays nothing.
const ASK_AHEAD: Duration = PING_WITHIN.saturating_add(Duration::from_millis(500));
/// How often the server is asked whether a commit waits still.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Sessions of this process have its id in their name. A commit of daily life waits for milliseconds.
const ANY_WAITS: &str = "select exists (
         select from pg_stat_activity
         where application_name = current_setting('application_name')
           and wait_event = 'SyncRep'
           and state_change < clock_timestamp() - interval '1 second')";

impl Store {
    /// Gives a step up that the database leaves unanswered, but not while a commit of ours waits for a
    /// standby.
    pub(super) async fn with_patience<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        let (mut step, mut until) = (pin!(step), Instant::now() + STEP_WITHIN);
        loop {
            if let Ok(done) = timeout_at(until - ASK_AHEAD, &mut step).await {
                return done;
            }
            let waits = tokio::select! {
                done = &mut step => return done,
                waits = self.commits_wait_for_standby() => waits,
            };
            if !waits {
                return timeout_at(until, step).await.unwrap_or_else(|_| Err(no_answer()));
            }
            until = Instant::now() + ASK_EVERY + ASK_AHEAD;
        }
    }

    /// Whether the server says, on another connection, that a commit of this process waits for a synchronous
    /// standby; false if it does not answer.
    pub async fn commits_wait_for_standby(&self) -> bool {
        let asked = async {
            let mut connection = self.readiness.acquire().await?;
            sqlx::query_scalar::<_, bool>(ANY_WAITS).fetch_one(&mut *connection).await
        };
        matches!(timeout(PING_WITHIN, asked).await, Ok(Ok(true)))
    }
}
