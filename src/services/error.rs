//! Errors of services. Front ends say them in their own way.

use std::fmt;

use crate::domain::access::scope::Scope;
use crate::domain::violation::Violation;
use crate::store::StoreError;

/// Why a service did not do what it was asked for.
#[derive(Debug)]
pub enum ServiceError {
    /// Fields break these rules.
    Invalid(Vec<Violation>),
    /// Only the operator may do it; the sentence says why.
    OperatorOnly(&'static str),
    /// It takes this right.
    MissingScope(Scope),
    /// Several sources know an agent of this id, and none was named.
    AmbiguousAgent,
    /// The tenant has no source.
    NoSource,
    /// The database did not answer within the time that this may take.
    TooSlow(&'static str),
    /// The store refused, or failed.
    Store(StoreError),
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(violations) => {
                f.write_str("fields break rules:")?;
                violations.iter().try_for_each(|Violation { field, what }| write!(f, " {field} {what};"))
            }
            Self::OperatorOnly(why) => write!(f, "only the operator may do this: {why}"),
            Self::MissingScope(scope) => write!(f, "this takes the scope {scope}"),
            Self::AmbiguousAgent => f.write_str("several sources know an agent of this id"),
            Self::NoSource => f.write_str("there is no source"),
            Self::TooSlow(what) => write!(f, "{what}"),
            Self::Store(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ServiceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
