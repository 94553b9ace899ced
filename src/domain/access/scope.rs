//! What an API key lets its caller do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Read everything of the tenant but its audit log.
    Read,
    /// Change webhooks and their deliveries, and the agents' own ids.
    Webhooks,
    /// Change sources and connections.
    Sources,
    /// Read the audit log.
    Audit,
    /// Make and revoke keys. Holds no other right by itself.
    Admin,
}

impl Scope {
    /// Every one, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Read, Self::Webhooks, Self::Sources, Self::Audit, Self::Admin];

    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Webhooks => "webhooks",
            Self::Sources => "sources",
            Self::Audit => "audit",
            Self::Admin => "admin",
        }
    }

    /// The right of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name() {
        for scope in Scope::ALL {
            assert_eq!(Scope::named(scope.as_str()), Some(scope));
        }
        assert_eq!(Scope::named("root"), None);
    }
}
