//! Who may call: keys, tenants, and answers kept for calls that are made twice.

pub mod api_keys;
pub mod authenticate;
pub mod idempotency;
pub mod tenants;
