//! How a connection is assessed: whether its server is the primary, takes writes, and in which incarnation the
//! database is there. The connections of the pools and all others are assessed here, and nowhere else.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Time that a connection has for a sign of life before it counts as dead.
pub(super) const PING_WITHIN: Duration = Duration::from_secs(2);

/// Time that a step waits for a primary: less than a step may take.
const WAIT_WITHIN: Duration = Duration::from_secs(3);

/// Plain queries all of them: a pooler need not keep prepared ones, and only in a plain one are both times the
/// same outside of a transaction. On a standby every transaction is read-only.
const ALIVE: &str =
    "select now() = statement_timestamp(), current_setting('transaction_read_only') = 'on', false";
/// The same without the server's state: what is asked after each use must cost as little as can be.
const CLEAN: &str = "select now() = statement_timestamp(), false, false";
const ROLE: &str = "select true, current_setting('transaction_read_only') = 'on', pg_is_in_recovery()";
/// `pg_control_checkpoint` would name the timeline of the last checkpoint: the former one, for a while after a
/// promotion.
const TIMELINE: &str = "select case when pg_is_in_recovery() then null \
                        else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end";
const IDENTIFIER: &str = "select system_identifier::text from pg_control_system()";

/// Which history of which cluster the database is in. It changes with a failover (a new timeline) and with a
/// restored backup (a new timeline, or another cluster); a copy of the files of a stopped server keeps both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// Identifier that initdb gave the cluster; `None`: this user, or this kind of server, may not be asked.
    pub(super) system_identifier: Option<String>,
    /// Goes up by one with each promotion; `None` as above.
    pub(super) timeline: Option<u32>,
}

impl Incarnation {
    /// Whether this is a history that `known` has left: that of a primary from before a failover.
    #[must_use]
    pub(super) fn is_before(&self, known: &Self) -> bool {
        self.system_identifier == known.system_identifier
            && self.timeline.zip(known.timeline).is_some_and(|(own, known)| own < known)
    }
}

/// Why a server that answers is not the one to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotPrimary {
    #[error("is a standby")]
    Standby,
    #[error("takes no writes: it is read-only")]
    ReadOnly,
    #[error("is a former primary: it is in timeline {own}, and the database has gone on in timeline {known}")]
    Former { own: u32, known: u32 },
}

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("{0}")]
    NotPrimary(#[from] NotPrimary),
    #[error("{0}")]
    Failed(#[from] sqlx::Error),
}

impl From<Unfit> for sqlx::Error {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::NotPrimary(why) => Self::Protocol(format!("the server {why}")),
            Unfit::Failed(error) => error,
        }
    }
}

/// The server that all connections of a store lead to, and the incarnation that they have found there. Clones
/// share it.
#[derive(Clone, Debug)]
pub(super) struct Primary(Arc<State>);

#[derive(Debug)]
struct State {
    incarnation: watch::Sender<Option<Incarnation>>,
    /// Its number in the list of servers.
    server: AtomicUsize,
    /// Connections from before are to a server that is not the primary any more.
    since: Mutex<Instant>,
    /// The database has gone on in another history then.
    gone_on: watch::Sender<Option<Instant>>,
    /// A step waits for an answer.
    slow: Notify,
    /// A connection has found that its server is not the primary any more.
    demoted: AtomicBool,
    suspected: Notify,
    /// Why there is no primary at present.
    trouble: watch::Sender<Option<String>>,
}

impl Primary {
    pub(super) fn new(server: usize) -> Self {
        Self(Arc::new(State {
            incarnation: watch::Sender::new(None),
            server: AtomicUsize::new(server),
            since: Mutex::new(Instant::now()),
            gone_on: watch::Sender::new(None),
            slow: Notify::new(),
            demoted: AtomicBool::new(false),
            suspected: Notify::new(),
            trouble: watch::Sender::new(None),
        }))
    }

    /// Admits a new connection if its server is the primary of the incarnation that is known, or of a later
    /// one, which is known then.
    pub(super) async fn admit(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let known = self.incarnation();
        let found = assess(connection, known.as_ref()).await?;
        if known.is_some_and(|known| known != found) {
            // The address leads elsewhere now, and the connections of before are still to the former server.
            self.is_elsewhere();
            self.suspect();
        }
        self.found(found);
        Ok(())
    }

    /// Asks a connection that was opened this long ago for a sign of life, whether it is outside of any
    /// transaction, and whether its server still takes writes; one round trip. A step that was given up in the
    /// middle of a statement may leave a transaction open or aborted that sqlx knows nothing of: handed out
    /// again and again, it would fail every step that gets it.
    pub(super) async fn check(
        &self,
        connection: &mut PgConnection,
        age: Duration,
    ) -> Result<(), sqlx::Error> {
        self.check_age(age)?;
        match ask(connection, ALIVE).await {
            Ok(_) => Ok(()),
            Err(Unfit::NotPrimary(why)) => {
                // Another server may have become the primary while it was asked.
                if self.check_age(age).is_ok() {
                    self.suspect();
                }
                Err(Unfit::NotPrimary(why).into())
            }
            Err(Unfit::Failed(error)) => Err(error),
        }
    }

    /// The same without asking whether the server takes writes.
    pub(super) async fn check_clean(
        &self,
        connection: &mut PgConnection,
        age: Duration,
    ) -> Result<(), sqlx::Error> {
        self.check_age(age)?;
        Ok(ask(connection, CLEAN).await?)
    }

    /// Refuses a connection that leads to a former primary; asks nobody.
    pub(super) fn check_age(&self, age: Duration) -> Result<(), sqlx::Error> {
        let opened = Instant::now().checked_sub(age);
        if opened.is_some_and(|opened| opened < *self.since()) {
            return Err(sqlx::Error::Protocol("it leads to a former primary".to_owned()));
        }
        Ok(())
    }

    /// Every connection of before leads to a former primary.
    pub(super) fn is_elsewhere(&self) {
        *self.since() = Instant::now();
    }

    pub(super) fn leads_to(&self, server: usize) {
        self.0.server.store(server, Ordering::Release);
    }

    pub(super) fn server(&self) -> usize {
        self.0.server.load(Ordering::Acquire)
    }

    pub(super) fn found(&self, found: Incarnation) {
        let changed = |known: &mut Option<Incarnation>| {
            let differs = known.as_ref() != Some(&found);
            let former = if differs { known.replace(found) } else { None };
            if former.is_some() {
                self.0.gone_on.send_replace(Some(Instant::now()));
            }
            differs
        };
        self.0.incarnation.send_if_modified(changed);
    }

    /// Waits until the database has gone on in another history after this time: what was begun before, and is
    /// not answered, is not answered any more.
    pub(super) async fn has_gone_on(&self, after: Instant) {
        let mut gone_on = self.0.gone_on.subscribe();
        let _ = gone_on.wait_for(|at| at.is_some_and(|at| at > after)).await;
    }

    /// A step waits for an answer: another server may be the primary.
    pub(super) fn answers_slowly(&self) {
        self.0.slow.notify_one();
    }

    /// Waits until a step waits for an answer.
    pub(super) async fn slow(&self) {
        self.0.slow.notified().await;
    }

    /// What the last connection found; `None` while there has been none.
    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        self.0.incarnation.borrow().clone()
    }

    /// Timeline of that.
    pub(super) fn timeline(&self) -> Option<u32> {
        self.0.incarnation.borrow().as_ref().and_then(|known| known.timeline)
    }

    /// Whether this is the incarnation that is known.
    pub(super) fn is_in(&self, incarnation: &Incarnation) -> bool {
        self.0.incarnation.borrow().as_ref() == Some(incarnation)
    }

    pub(super) fn watch_incarnation(&self) -> watch::Receiver<Option<Incarnation>> {
        self.0.incarnation.subscribe()
    }

    fn suspect(&self) {
        self.0.demoted.store(true, Ordering::Release);
        self.0.suspected.notify_one();
    }

    /// Waits until a connection finds that its server is not the primary any more.
    pub(super) async fn suspected(&self) {
        self.0.suspected.notified().await;
    }

    /// Whether one has, since this was asked last.
    pub(super) fn take_demoted(&self) -> bool {
        self.0.demoted.swap(false, Ordering::AcqRel)
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.0.trouble.send_replace(trouble);
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.0.trouble.borrow().clone()
    }

    /// Waits a while for a primary if there is none: behind a dial to a server that is not the primary, a caller
    /// would go on waiting when there is one.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn wait_a_while(&self) -> Result<(), String> {
        if self.0.trouble.borrow().is_none() {
            return Ok(());
        }
        let _ = timeout(WAIT_WITHIN, self.is_back()).await;
        self.trouble().map_or(Ok(()), Err)
    }

    /// Waits until there is none; gives why.
    pub(super) async fn is_absent(&self) -> String {
        let mut trouble = self.0.trouble.subscribe();
        let why = trouble.wait_for(Option::is_some).await;
        why.map(|why| why.clone().unwrap_or_default()).unwrap_or_default()
    }

    /// Waits until there is a primary.
    pub(super) async fn is_back(&self) {
        let _ = self.0.trouble.subscribe().wait_for(Option::is_none).await;
    }

    fn since(&self) -> MutexGuard<'_, Instant> {
        self.0.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Assesses a connection; gives the incarnation that it has found.
pub(super) async fn assess(
    connection: &mut PgConnection,
    known: Option<&Incarnation>,
) -> Result<Incarnation, Unfit> {
    ask(connection, ROLE).await?;
    let timeline = ask_if_allowed(connection, TIMELINE).await?;
    let found = Incarnation {
        timeline: timeline.and_then(|hex| u32::from_str_radix(&hex, 16).ok()),
        system_identifier: ask_if_allowed(connection, IDENTIFIER).await?,
    };
    if let Some(known) = known.filter(|known| found.is_before(known))
        && let (Some(own), Some(known)) = (found.timeline, known.timeline)
    {
        return Err(NotPrimary::Former { own, known }.into());
    }
    Ok(found)
}

/// Asks whether all is well, whether the server is read-only, and whether it is a standby.
async fn ask(connection: &mut PgConnection, question: &'static str) -> Result<(), Unfit> {
    let row = within(sqlx::raw_sql(question).fetch_one(connection)).await?;
    match (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?) {
        (_, _, true) => Err(NotPrimary::Standby.into()),
        (_, true, false) => Err(NotPrimary::ReadOnly.into()),
        (true, false, false) => Ok(()),
        (false, false, false) => Err(sqlx::Error::Protocol("a transaction was left open".to_owned()).into()),
    }
}

/// An answer, `None` if this user may not ask, or the server is of a kind that has none.
async fn ask_if_allowed(
    connection: &mut PgConnection,
    question: &'static str,
) -> Result<Option<String>, sqlx::Error> {
    match within(sqlx::raw_sql(question).fetch_one(connection)).await {
        Ok(row) => row.try_get(0),
        // 42: no right, no such function; 0A, 55: not here.
        Err(sqlx::Error::Database(refusal))
            if refusal
                .code()
                .is_some_and(|code| ["42", "0A", "55"].iter().any(|class| code.starts_with(class))) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn within(asked: impl Future<Output = Result<PgRow, sqlx::Error>>) -> Result<PgRow, sqlx::Error> {
    timeout(PING_WITHIN, asked).await.unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_before_another_only_in_the_same_cluster() {
        let of = |cluster: &str, timeline| Incarnation {
            system_identifier: Some(cluster.to_owned()),
            timeline: Some(timeline),
        };
        assert!(of("a", 1).is_before(&of("a", 2)));
        assert!(!of("a", 2).is_before(&of("a", 2)) && !of("a", 3).is_before(&of("a", 2)));
        assert!(!of("b", 1).is_before(&of("a", 2)), "a dump restored elsewhere");
        let unknown = Incarnation { system_identifier: None, timeline: None };
        assert!(!unknown.is_before(&of("a", 2)) && !of("a", 1).is_before(&unknown));
    }
}
