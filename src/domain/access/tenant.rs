//! Who owns what: sources, webhooks, keys and all that comes of them belong to one tenant, and nobody else
//! sees them.

use uuid::Uuid;

pub use crate::domain::ids::TenantId;

impl TenantId {
    /// The tenant that a bridge begins with. The source of the environment and the bootstrap key are its own,
    /// and a key of it with the scope `admin` is the operator's: it makes tenants, and keys for them.
    pub const DEFAULT: Self = Self(Uuid::from_u128(1));
}
