//! The pages and what their forms do: a file or a folder for each kind of thing, with its rows of the tables.

use super::{Action, Page};

mod agent;
mod board;
mod deliveries;
mod events;
mod explain;
mod gaps;
mod overview;
mod presence;
mod recoveries;
mod webhooks;

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
];

/// In any order.
pub(super) const ACTIONS: &[&[Action]] =
    &[agent::ACTIONS, webhooks::ACTIONS, deliveries::ACTIONS, recoveries::ACTIONS];
