//! Floor 1: examinations of sources' settings, under way and just ended. They live in memory alone and are
//! forgotten after minutes, for settings hold a client secret. Services ask for them, `actors/examiner.rs`
//! carries them out.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{OnceCell, mpsc};

use crate::clock;
use crate::domain::ids::{ExaminationId, SourceId, TenantId};
use crate::domain::presence::examination::{Finding, Step};
use crate::domain::presence::source::SourceSettings;

/// How long an examination is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// Examinations that run at once in this process, and of them those of one tenant.
const RUNNING_MAX: usize = 4;
const RUNNING_OF_ONE: usize = 2;
/// Examinations that are remembered.
const REMEMBERED_MAX: usize = 50;

/// What is to be examined.
#[derive(Clone)]
pub struct Draft {
    /// Whose it is.
    pub tenant: TenantId,
    pub settings: SourceSettings,
    /// The source that they are of, and its version; `None`: of none yet.
    pub source: Option<(SourceId, i64)>,
    /// They are those that the source has already.
    pub is_kept: bool,
    /// Addresses that whoever adds a source may not lead us to are not dialled.
    pub guarded: bool,
}

/// Shows no settings: they hold a secret.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("source", &self.source).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Progress {
    steps: Vec<Step>,
    ended_at: Option<OffsetDateTime>,
}

/// One examination.
#[derive(Debug)]
pub struct Examination {
    pub id: ExaminationId,
    pub started_at: OffsetDateTime,
    pub draft: Draft,
    /// The source that has its settings, once somebody has kept them.
    pub kept_as: OnceCell<SourceId>,
    progress: Mutex<Progress>,
}

impl Examination {
    /// A step has come to this.
    pub fn tell(&self, step: Step) {
        lock(&self.progress).steps.push(step);
    }

    /// No step comes any more.
    pub fn end(&self) {
        lock(&self.progress).ended_at.get_or_insert(clock::now());
    }

    /// The steps so far, and when the last one was done.
    #[must_use]
    pub fn so_far(&self) -> (Vec<Step>, Option<OffsetDateTime>) {
        let progress = lock(&self.progress);
        (progress.steps.clone(), progress.ended_at)
    }

    /// Whether every step has worked; `None` while they go on.
    #[must_use]
    pub fn works(&self) -> Option<bool> {
        let (steps, ended_at) = self.so_far();
        ended_at.map(|_| !steps.iter().any(|step| matches!(step.finding, Finding::Bad(_))))
    }

    fn runs(&self) -> bool {
        lock(&self.progress).ended_at.is_none()
    }
}

/// Whoever has it runs it; dropped, it is ended.
#[derive(Debug)]
pub struct Order(pub Arc<Examination>);

impl Drop for Order {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Why an examination is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many run as may.
    TooMany,
    /// Nobody carries them out: the process ends.
    Stopping,
}

/// Every examination of this process.
#[derive(Debug)]
pub struct Examinations {
    orders: mpsc::Sender<Order>,
    remembered: Mutex<Vec<Arc<Examination>>>,
}

impl Examinations {
    /// None yet, and where orders come out.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, carried_out) = mpsc::channel(RUNNING_MAX);
        (Self { orders, remembered: Mutex::default() }, carried_out)
    }

    /// Begins one.
    ///
    /// # Errors
    /// If as many run as may, or the process ends.
    pub fn begin(&self, draft: Draft) -> Result<Arc<Examination>, Refused> {
        let mut remembered = self.remembered();
        let running = remembered.iter().filter(|one| one.runs());
        let of_one = running.clone().filter(|one| one.draft.tenant == draft.tenant).count();
        if running.count() >= RUNNING_MAX || of_one >= RUNNING_OF_ONE {
            return Err(Refused::TooMany);
        }
        let begun = Arc::new(Examination {
            id: ExaminationId::generate(),
            started_at: clock::now(),
            draft,
            kept_as: OnceCell::new(),
            progress: Mutex::default(),
        });
        self.orders.try_send(Order(begun.clone())).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::TooMany,
            mpsc::error::TrySendError::Closed(_) => Refused::Stopping,
        })?;
        remembered.push(begun.clone());
        if remembered.len() > REMEMBERED_MAX {
            remembered.remove(0);
        }
        Ok(begun)
    }

    /// One of a tenant, if it is remembered.
    #[must_use]
    pub fn find(&self, id: ExaminationId, tenant: TenantId) -> Option<Arc<Examination>> {
        self.remembered().iter().find(|one| one.id == id && one.draft.tenant == tenant).cloned()
    }

    /// Forgets what is too old.
    pub fn forget_old(&self) {
        drop(self.remembered());
    }

    /// Those that are not too old.
    fn remembered(&self) -> MutexGuard<'_, Vec<Arc<Examination>>> {
        let mut remembered = lock(&self.remembered);
        let since = clock::now() - REMEMBERED;
        remembered.retain(|one| one.started_at > since);
        remembered
    }
}

/// A poisoned lock still holds usable steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn draft(tenant: TenantId) -> Draft {
        Draft { tenant, settings: SourceSettings::default(), source: None, is_kept: false, guarded: true }
    }

    #[tokio::test]
    async fn a_tenant_has_its_share_and_one_that_nobody_carries_out_ends() {
        let (all, mut orders) = Examinations::new();
        let (ours, theirs) = (TenantId::generate(), TenantId::generate());
        let first = all.begin(draft(ours)).unwrap();
        all.begin(draft(ours)).unwrap();
        assert_eq!(all.begin(draft(ours)).map(drop), Err(Refused::TooMany));
        all.begin(draft(theirs)).unwrap();
        assert!(all.find(first.id, theirs).is_none(), "of another tenant");
        assert_eq!(first.works(), None);
        drop(orders.recv().await);
        assert_eq!(first.works(), Some(true));
        all.begin(draft(ours)).unwrap();
        drop(orders);
        assert_eq!(all.begin(draft(theirs)).map(drop), Err(Refused::Stopping));
    }

    #[test]
    fn no_secret_is_shown_by_debug() {
        let secret = crate::domain::secret::Secret::new("CANARY");
        let settings = SourceSettings { client_secret: secret, ..SourceSettings::default() };
        let (all, _orders) = Examinations::new();
        let begun = all.begin(Draft { settings, ..draft(TenantId::DEFAULT) }).unwrap();
        assert!(!format!("{begun:?} {all:?}").contains("CANARY"));
    }
}
