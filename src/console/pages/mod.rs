//! The pages and what their forms do: a file or a folder for each kind of thing, with its rows of the tables.

use super::{Action, Page};

mod agent;
mod audit;
mod board;
mod configuration;
mod deliveries;
mod events;
mod explain;
mod gaps;
mod keys;
mod overview;
mod presence;
mod quarantine;
mod recoveries;
mod sources;
mod tenants;
mod webhooks;

pub(super) use audit::export as export_audit_log;

/// In the order of the navigation.
pub(super) const PAGES: &[&[Page]] = &[
    overview::PAGES,
    board::PAGES,
    agent::PAGES,
    webhooks::PAGES,
    events::PAGES,
    deliveries::PAGES,
    recoveries::PAGES,
    explain::PAGES,
    gaps::PAGES,
    sources::PAGES,
    audit::PAGES,
    quarantine::PAGES,
    keys::PAGES,
    tenants::PAGES,
    configuration::PAGES,
];

/// In any order.
pub(super) const ACTIONS: &[&[Action]] = &[
    agent::ACTIONS,
    webhooks::ACTIONS,
    deliveries::ACTIONS,
    recoveries::ACTIONS,
    sources::ACTIONS,
    audit::ACTIONS,
    keys::ACTIONS,
    tenants::ACTIONS,
];
