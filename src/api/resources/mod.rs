//! The handlers, a file for each resource.

pub(super) mod agents;
pub(super) mod api_keys;
pub(super) mod audit;
pub(super) mod configuration;
pub(super) mod connections;
pub(super) mod deliveries;
pub(super) mod events;
pub(super) mod explain;
pub(super) mod gaps;
pub(super) mod login_links;
pub(super) mod overview;
pub(super) mod recoveries;
pub(super) mod sources;
pub(super) mod tenants;
pub(super) mod webhooks;
