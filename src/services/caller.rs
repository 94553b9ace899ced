//! What services work with: the parts that every caller shares, and one caller's view of the database.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::runtime::Handle;

use super::feed::Feeds;
use super::principal::Principal;
use crate::domain::access::tenant_quota::TenantQuota;
use crate::domain::delivery::sent_post::{SentAs, SentPost};
use crate::domain::presence::Event;
use crate::domain::secret::MasterKey;
use crate::domain::webhook::target::TargetPolicy;
use crate::examinations::Examinations;
use crate::status::Status;
use crate::store::Store;

/// Parts that every caller shares.
#[derive(Debug)]
pub struct Services {
    /// The database with the rows of every tenant; what is done for a caller goes by [`Caller::store`].
    pub whole_store: Store,
    /// What is true of this process right now.
    pub status: Arc<Status>,
    /// Seals secrets.
    pub master_key: MasterKey,
    /// Which addresses webhooks and sources may have.
    pub targets: TargetPolicy,
    /// How much one tenant may have.
    pub tenant_quota: TenantQuota,
    /// Writes the POST of a delivery as it is sent.
    pub render: fn(&Event, &SentAs) -> SentPost,
    /// Who follows the feed.
    pub feeds: Feeds,
    /// Whether this process serves the console.
    pub has_console: bool,
    /// Examinations of sources' settings.
    pub examinations: Arc<Examinations>,
    /// What the process was started with.
    pub configuration: Configuration,
    /// Where work goes on that outlives its call.
    pub background: Handle,
    /// It is not ready unless commits wait for a standby.
    pub require_sync: bool,
}

/// A variable and its effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of the variable.
    pub name: &'static str,
    /// What it is for, in a few words.
    pub help: &'static str,
    /// Effective value; `None` for a secret that is set.
    pub value: Option<String>,
    /// Where it comes from: `environment`, `.env`, `file` or `default`.
    pub origin: &'static str,
}

/// What a process was started with.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Version of the program.
    pub version: &'static str,
    pub started_at: OffsetDateTime,
    /// The database is our own, on this machine.
    pub embedded_database: bool,
    /// Every variable there is.
    pub settings: Vec<Setting>,
}

/// One caller: who it is, and the database as its tenant sees it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who calls.
    pub principal: Principal,
    /// Holds no row of another tenant.
    pub store: Store,
    pub(super) services: Arc<Services>,
}

impl Caller {
    /// The view of this principal.
    #[must_use]
    pub fn new(principal: Principal, services: Arc<Services>) -> Self {
        Self { store: services.whole_store.for_tenant(principal.tenant()), principal, services }
    }

    /// What is true of this process right now.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.services.status
    }
}
