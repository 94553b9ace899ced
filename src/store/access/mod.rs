//! Callers: their keys, their tenants, and answers that are stored for calls that may be repeated.
//!
//! Read `authenticate` (the key of a request), `api_keys` (keys made, listed, revoked), `tenants`,
//! `sessions` (browsers that are logged in to the console), then `idempotency` (answers by `Idempotency-Key`).

pub mod api_keys;
pub mod authenticate;
pub mod idempotency;
pub mod sessions;
pub mod tenants;
