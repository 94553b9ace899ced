//! Steps that the database leaves unanswered: commits that wait for a synchronous standby, and servers that hang.
//!
//! No `statement_timeout` of the server ends a commit that waits. A step that was given up would leave its
//! transaction on the server, with its locks and its connection, until the standby is back; so it is not given up
//! while the server says that it waits (docs/adr/0055). It is, at once, when another server is the primary.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::pool::{STEP_WITHIN, no_answer};
use super::primary::PING_WITHIN;
use super::{Result, Store, StoreError};

/// Why nothing is stored meanwhile, in words for an operator.
pub const WAITS_FOR_STANDBY: &str = "commits wait for its synchronous standby";

/// The server is asked that long before a step is given up, so that one that answers nobody delays nothing.
const ASK_AHEAD: Duration = PING_WITHIN.saturating_add(Duration::from_millis(500));
/// How often the server is asked whether a commit waits still.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer makes the primary doubtful: the servers are asked, and again after as long.
const PROMPT: Duration = Duration::from_millis(250);
/// Time that a step has to end once another server is the primary: it may run there.
const END_WITHIN: Duration = Duration::from_millis(100);
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
        // A step takes kilobytes, and what is waiting for one holds it: each connection, for example.
        let (began, mut step) = (Instant::now(), Box::pin(step));
        match timeout(PROMPT, &mut step).await {
            Ok(done) => done,
            Err(_) => Box::pin(self.unless_gone_on(began, self.patiently(step))).await,
        }
    }

    async fn patiently<T>(&self, mut step: impl Future<Output = Result<T>> + Unpin) -> Result<T> {
        let mut left = STEP_WITHIN - PROMPT;
        loop {
            if let Ok(done) = timeout(left - ASK_AHEAD, &mut step).await {
                return done;
            }
            let asked = Instant::now();
            let waits = tokio::select! {
                done = &mut step => return done,
                waits = self.commits_wait_for_standby() => waits,
            };
            if !waits {
                let left = ASK_AHEAD.saturating_sub(asked.elapsed());
                return timeout(left, step).await.unwrap_or_else(|_| Err(no_answer()));
            }
            left = ASK_EVERY + ASK_AHEAD;
        }
    }

    /// Gives a step up, however patient its caller is, once the database has gone on at another server. As long
    /// as the step waits, the servers are asked whether it has.
    pub(super) async fn unless_gone_on<T>(
        &self,
        began: Instant,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let asking = async {
            loop {
                self.primary.answers_slowly();
                sleep(PROMPT).await;
            }
        };
        let gone_on = async {
            self.primary.has_gone_on(began).await;
            sleep(END_WITHIN).await;
        };
        tokio::select! {
            biased;
            done = step => done,
            () = gone_on => Err(StoreError::GoneOn),
            never = asking => never,
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
