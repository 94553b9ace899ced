//! Read models of the API: events, deliveries and agents as callers see them.

pub mod agents;
pub mod deliveries;
pub mod events;
pub mod explain;
pub mod external_ids;
