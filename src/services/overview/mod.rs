//! How everything stands, at a glance: is everybody told everything? Cheap enough to be asked every two
//! seconds; what is expensive to count is counted every ten, for all who ask.

mod problems;

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::Result;
use super::caller::Caller;
use crate::clock;
use crate::domain::access::scope::Scope;
use crate::domain::ids::TenantId;
use crate::domain::webhook::state::WebhookState;
use crate::status::Backlog;
pub use crate::status::Minute;
use crate::store::audit::seals::LastSeal;
use crate::store::sources::Source;
use crate::store::views::backlog::FAILING;
use crate::store::views::overview::{OpenGaps, Process, SourceCoverage};
use crate::store::webhooks::WebhookFilter;
pub use problems::{Kind, Problem, Weight};

/// Sources that are looked at.
const SOURCES_MAX: i64 = 200;
/// States of webhooks that get what is due.
const TAKING_PART: [&str; 2] = [WebhookState::Active.as_str(), FAILING];

/// How everything stands.
#[derive(Clone)]
pub struct Overview {
    /// When it was looked at.
    pub at: OffsetDateTime,
    /// What keeps somebody from being told something, worst first.
    pub problems: Vec<Problem>,
    /// Sources with what their open connections see.
    pub sources: Vec<(Source, Option<SourceCoverage>)>,
    pub gaps: OpenGaps,
    /// Webhooks and open deliveries by state, and when they were counted; `None` if they never were.
    pub backlogs: Option<(OffsetDateTime, Vec<Backlog>)>,
    /// There is a webhook now.
    pub has_webhooks: bool,
    /// What concerns all tenants; `None` for whoever is not the operator's.
    pub bridge: Option<Bridge>,
}

/// What concerns the whole bridge.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// The last hour at this process, oldest minute first, and the running minute at the end.
    pub minutes: Vec<Minute>,
    /// Processes that live and share the database.
    pub processes: Vec<Process>,
    /// The audit log; `None` for keys that may not read it.
    pub audit: Option<AuditChain>,
}

/// How far the audit log is sealed.
#[derive(Clone, Debug)]
pub struct AuditChain {
    /// `None` before the first.
    pub last_seal: Option<LastSeal>,
    /// Why it cannot be sealed.
    pub problem: Option<String>,
}

/// How everything stands for this caller's tenant.
///
/// # Errors
/// If the database does not answer.
pub async fn read(caller: &Caller) -> Result<Overview> {
    let now = clock::now();
    let sources = caller.store.sources(None, SOURCES_MAX).await?;
    let mut coverage: HashMap<_, _> = caller
        .store
        .source_coverage()
        .await?
        .into_iter()
        .map(|coverage| (coverage.source_id, coverage))
        .collect();
    let mut overview = Overview {
        at: now,
        problems: Vec::new(),
        sources: sources
            .into_iter()
            .map(|source| {
                let seen = coverage.remove(&source.source_id);
                (source, seen)
            })
            .collect(),
        gaps: caller.store.open_gaps().await?,
        backlogs: caller.status().backlogs(caller.principal.tenant()),
        has_webhooks: !caller.store.webhooks(&WebhookFilter::default(), None, 1).await?.is_empty(),
        bridge: bridge(caller, now).await?,
    };
    overview.problems = problems::all(caller, &overview);
    Ok(overview)
}

/// What concerns all tenants, for the operator's.
async fn bridge(caller: &Caller, now: OffsetDateTime) -> Result<Option<Bridge>> {
    if caller.principal.tenant() != TenantId::DEFAULT {
        return Ok(None);
    }
    let audit = if caller.principal.must_have(Scope::Audit).is_ok() {
        let last_seal = super::audit::head(caller).await?;
        Some(AuditChain { last_seal, problem: caller.status().not_sealing() })
    } else {
        None
    };
    let processes = caller.store.processes().await?;
    Ok(Some(Bridge { minutes: caller.status().minutes(now), processes, audit }))
}

impl Overview {
    /// Webhooks that are registered, in this state or in any.
    #[must_use]
    pub fn webhooks(&self, state: Option<&str>) -> i64 {
        self.counted(state).map(|backlog| backlog.webhooks).sum()
    }

    /// Deliveries that are open, to webhooks in this state or in any.
    #[must_use]
    pub fn open_deliveries(&self, state: Option<&str>) -> i64 {
        self.counted(state).map(|backlog| backlog.open).sum()
    }

    /// When the delivery was inserted that has waited longest for a webhook that takes part.
    #[must_use]
    pub fn oldest_pending(&self) -> Option<OffsetDateTime> {
        let takes_part = |backlog: &&Backlog| TAKING_PART.contains(&backlog.webhook_state.as_str());
        self.counted(None).filter(takes_part).filter_map(|backlog| backlog.oldest).min()
    }

    /// How long the one had waited that had waited longest, when they were counted.
    #[must_use]
    pub fn longest_wait(&self) -> Option<Duration> {
        let counted_at = self.backlogs.as_ref()?.0;
        Some(Duration::try_from(counted_at - self.oldest_pending()?).unwrap_or_default())
    }

    fn counted(&self, state: Option<&str>) -> impl Iterator<Item = &Backlog> {
        let all = self.backlogs.iter().flat_map(|(_, backlogs)| backlogs);
        all.filter(move |backlog| state.is_none_or(|state| backlog.webhook_state == state))
    }

    /// Agents that are to be watched.
    #[must_use]
    pub fn agents_wanted(&self) -> i64 {
        self.sources.iter().map(|(source, _)| source.health.agents_wanted).sum()
    }

    /// Agents that an open connection watches.
    #[must_use]
    pub fn agents_covered(&self) -> i64 {
        self.sources.iter().filter_map(|(_, coverage)| Some(coverage.as_ref()?.agents)).sum()
    }

    /// The worst that is wrong; `None`: everybody is told everything.
    #[must_use]
    pub fn verdict(&self) -> Option<Weight> {
        self.problems.iter().map(|problem| problem.kind.weight()).min()
    }
}
