//! Floor 3, below the front ends: what a caller may ask for. Rights are verified, rules held, and steps of
//! the store put together here, so that the REST API and any other front end do the same. No HTTP, no SQL.
//!
//! Functions take the [`Caller`](caller::Caller) first. A `check` comes before the step that takes its
//! result: it says all that is wrong with the given fields at once, for a front end to add what it could not
//! read. Single reads and writes of `store` need nothing of this: front ends call them with `caller.store`,
//! which holds no row of another tenant.

pub mod agents;
pub mod api_keys;
pub mod audit;
pub mod caller;
pub mod deliveries;
pub mod error;
pub mod feed;
pub mod follow;
pub mod overview;
pub mod principal;
pub mod readiness;
pub mod recoveries;
pub mod sessions;
pub mod sources;
pub mod tenants;
pub mod webhooks;

pub use error::ServiceError;

type Result<T, E = ServiceError> = std::result::Result<T, E>;
