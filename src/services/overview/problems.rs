//! What keeps somebody from being told something.

use std::time::Duration;

use super::{Overview, TAKING_PART};
use crate::domain::plural::plural;
use crate::domain::webhook::state::WebhookState;
use crate::services::caller::Caller;
use crate::store::sources::Source;
use crate::store::views::backlog::FAILING;

/// A delivery that waits for longer than this is late. Retries of a receiver that fails are told as that.
const LATE_AFTER: Duration = Duration::from_secs(60);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Somebody is not told something now.
    Wrong,
    /// Worth a look.
    Notable,
    /// Nothing is wrong, but nothing can happen yet.
    Idle,
}

impl Weight {
    /// As the API says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Notable => "notable",
            Self::Idle => "idle",
        }
    }
}

/// Kind of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    NotStoring,
    PartDead,
    SourceStale,
    AgentsNotCovered,
    WebhooksDisabled,
    WebhooksFailing,
    DeliveriesLate,
    AuditNotSealed,
    GapsOpen,
    RosterUnread,
    AgentsRejected,
    AgentsOverLimit,
    WebhooksUnverified,
    NoSource,
    NoWebhook,
}

impl Kind {
    /// As the API says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotStoring => "not_storing",
            Self::PartDead => "part_dead",
            Self::SourceStale => "source_stale",
            Self::AgentsNotCovered => "agents_not_covered",
            Self::WebhooksDisabled => "webhooks_disabled",
            Self::WebhooksFailing => "webhooks_failing",
            Self::DeliveriesLate => "deliveries_late",
            Self::AuditNotSealed => "audit_not_sealed",
            Self::GapsOpen => "gaps_open",
            Self::RosterUnread => "roster_unread",
            Self::AgentsRejected => "agents_rejected",
            Self::AgentsOverLimit => "agents_over_limit",
            Self::WebhooksUnverified => "webhooks_unverified",
            Self::NoSource => "no_source",
            Self::NoWebhook => "no_webhook",
        }
    }

    /// How bad it is.
    #[must_use]
    pub fn weight(self) -> Weight {
        match self {
            Self::NotStoring
            | Self::PartDead
            | Self::SourceStale
            | Self::AgentsNotCovered
            | Self::WebhooksDisabled
            | Self::WebhooksFailing
            | Self::DeliveriesLate
            | Self::AuditNotSealed => Weight::Wrong,
            Self::GapsOpen
            | Self::RosterUnread
            | Self::AgentsRejected
            | Self::AgentsOverLimit
            | Self::WebhooksUnverified => Weight::Notable,
            Self::NoSource | Self::NoWebhook => Weight::Idle,
        }
    }
}

/// Something that keeps somebody from being told something.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: Kind,
    /// What is wrong, without a full stop.
    pub what: String,
    /// How many of that kind there are.
    pub number: i64,
}

/// What is wrong, worst first.
pub(super) fn all(caller: &Caller, overview: &Overview) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |kind: Kind, number: i64, what: String| {
        if number > 0 {
            problems.push(Problem { kind, what, number });
        }
    };
    if let Some(why) = caller.status().not_storing() {
        add(Kind::NotStoring, 1, format!("changes are not stored: {why}"));
    }
    for part in caller.status().dead_parts() {
        add(Kind::PartDead, 1, format!("the {} gives no sign of life", part.as_str()));
    }
    add_of_sources(overview, &mut add);
    add_of_webhooks(overview, &mut add);
    add(Kind::GapsOpen, overview.gaps.number, plural(overview.gaps.number, "gap is open", "gaps are open"));
    let chain = overview.bridge.as_ref().and_then(|bridge| bridge.audit.as_ref());
    if let Some(why) = chain.and_then(|chain| chain.problem.as_ref()) {
        add(Kind::AuditNotSealed, 1, format!("the audit log cannot be sealed: {why}"));
    }
    problems.sort_by_key(|problem| problem.kind.weight());
    problems
}

fn add_of_sources(overview: &Overview, add: &mut impl FnMut(Kind, i64, String)) {
    if overview.sources.is_empty() {
        add(Kind::NoSource, 1, "no source is there to be watched".to_owned());
    }
    for (source, _) in &overview.sources {
        if source.health.stale_since.is_some() {
            add(
                Kind::SourceStale,
                1,
                format!("source {} has had no live connection for too long", source.name),
            );
        }
        if let Some(error) = &source.health.roster_error {
            add(
                Kind::RosterUnread,
                1,
                format!("the rosters of source {} cannot be read: {error}", source.name),
            );
        }
    }
    let of = |number: fn(&Source) -> i64| overview.sources.iter().map(|(source, _)| number(source)).sum();
    let rejected: i64 = of(|source| source.health.agents_rejected);
    let over_limit: i64 = of(|source| source.health.agents_over_limit);
    let unseen = overview.agents_wanted() - overview.agents_covered() - rejected - over_limit;
    add(Kind::AgentsNotCovered, unseen, plural(unseen, "agent is not covered", "agents are not covered"));
    add(
        Kind::AgentsRejected,
        rejected,
        plural(rejected, "agent may not be watched", "agents may not be watched"),
    );
    let what = plural(over_limit, "agent does not fit the channels", "agents do not fit the channels");
    add(Kind::AgentsOverLimit, over_limit, what);
}

fn add_of_webhooks(overview: &Overview, add: &mut impl FnMut(Kind, i64, String)) {
    if overview.backlogs.is_none() {
        return;
    }
    let kinds = [
        (Kind::WebhooksDisabled, WebhookState::Disabled.as_str(), "is disabled", "are disabled"),
        (Kind::WebhooksFailing, FAILING, "is failing", "are failing"),
        (Kind::WebhooksUnverified, WebhookState::Unverified.as_str(), "is unverified", "are unverified"),
    ];
    for (kind, state, is, are) in kinds {
        let number = overview.webhooks(Some(state));
        add(kind, number, plural(number, &format!("webhook {is}"), &format!("webhooks {are}")));
    }
    if !overview.has_webhooks {
        add(Kind::NoWebhook, 1, "no webhook is registered".to_owned());
    }
    if overview.longest_wait().is_some_and(|wait| wait > LATE_AFTER) {
        let open = TAKING_PART.iter().map(|state| overview.open_deliveries(Some(state))).sum();
        let open_ones = plural(open, "open delivery", "open deliveries");
        add(Kind::DeliveriesLate, open, format!("the oldest of {open_ones} has waited for over a minute"));
    }
}
