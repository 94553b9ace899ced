//! Events of a past time delivered again to a webhook that asks for them.

pub(super) mod missed_events;
pub mod requests;
pub(super) mod worker;
