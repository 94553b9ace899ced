//! Who may call: keys, scopes, tenants and their limits.

pub mod api_key;
pub mod caller;
pub mod scope;
pub mod tenant;
pub mod tenant_quota;
pub mod token_bucket;
