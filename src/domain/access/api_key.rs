//! What an API key may be like, and what a caller may give away with one.

use time::OffsetDateTime;

use crate::domain::access::scope::Scope;
use crate::domain::closed_set::closed_set;
use crate::domain::violation::Violation;

/// Longest name of a key or a tenant.
pub const NAME_CHARS_MAX: usize = 100;
/// Name of the key that comes from the environment; no other key may have it.
pub const BOOTSTRAP: &str = "bootstrap";
/// What keys begin with that the API makes: a scanner for leaked secrets finds them by it.
pub const PREFIX: &str = "pb_live_";

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKeyState {
    /// It may.
    Active,
    /// It has ended by itself.
    Expired,
    /// Somebody ended it.
    Revoked,
}

closed_set!(ApiKeyState { Active = "active", Expired = "expired", Revoked = "revoked" });

impl ApiKeyState {
    /// State at this time, by the times that the key has.
    #[must_use]
    pub fn of(
        revoked_at: Option<OffsetDateTime>,
        expires_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Self {
        if revoked_at.is_some() {
            Self::Revoked
        } else if expires_at.is_some_and(|at| at <= now) {
            Self::Expired
        } else {
            Self::Active
        }
    }
}

/// Checks the name of a key.
///
/// # Errors
/// The rule that is broken.
pub fn check_name(name: &str) -> Result<(), Violation> {
    if name == BOOTSTRAP {
        return Err(Violation::new("name", "is kept for the key from the environment"));
    }
    check_plain_name(name)
}

/// Checks the name of a tenant, or of a key without regard to [`BOOTSTRAP`].
///
/// # Errors
/// The rule that is broken.
pub fn check_plain_name(name: &str) -> Result<(), Violation> {
    let chars = name.chars().count();
    if !(1..=NAME_CHARS_MAX).contains(&chars) {
        return Err(Violation::new("name", format!("is not 1 to {NAME_CHARS_MAX} characters long")));
    }
    // It is shown in audit entries and logs.
    if name.chars().any(char::is_control) {
        return Err(Violation::new("name", "has a control character in it"));
    }
    if name.trim() != name {
        return Err(Violation::new("name", "begins or ends with a blank"));
    }
    Ok(())
}

/// Reads a list of scopes.
///
/// # Errors
/// Each rule that is broken.
pub fn read_scopes(names: &[String]) -> Result<Vec<Scope>, Vec<Violation>> {
    let mut scopes = Vec::new();
    let mut wrong = Vec::new();
    for (i, name) in names.iter().enumerate() {
        match Scope::named(name) {
            Some(scope) if scopes.contains(&scope) => {
                wrong.push(Violation::new(format!("scopes/{i}"), "is given twice"));
            }
            Some(scope) => scopes.push(scope),
            None => {
                let known = Scope::ALL.map(Scope::as_str).join(", ");
                wrong.push(Violation::new(format!("scopes/{i}"), format!("is none of {known}")));
            }
        }
        // The list is as long as the body allows; nobody reads that many.
        if wrong.len() >= Scope::ALL.len() {
            break;
        }
    }
    if names.is_empty() {
        wrong.push(Violation::new("scopes", "is empty"));
    }
    if wrong.is_empty() { Ok(scopes) } else { Err(wrong) }
}

/// Checks when a key ends: in the future, and not after the key that makes it, so that nobody outlives an end
/// that was set for them. `bound` is when the maker's own key ends, if that counts.
///
/// # Errors
/// The rule that is broken.
pub fn check_expiry(
    expires_at: Option<OffsetDateTime>,
    bound: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Result<(), Violation> {
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Violation::new("expires_at", "is not in the future"));
    }
    match bound {
        Some(bound) if expires_at.is_none_or(|at| at > bound) => {
            Err(Violation::new("expires_at", "must be given, and not later than the end of your own key"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn names_are_what_people_can_read() {
        for name in ["crm", "Zoë's key", &"x".repeat(100)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", " crm", "crm ", "a\nb", "a\u{0}b", BOOTSTRAP, &"x".repeat(101)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert_eq!(check_plain_name(BOOTSTRAP), Ok(()));
    }

    #[test]
    fn scopes_are_known_and_given_once() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(read_scopes(&names(&["read", "admin"])), Ok(vec![Scope::Read, Scope::Admin]));
        for wrong in [&[][..], &["root"], &["read", "read"], &["Read"]] {
            assert!(read_scopes(&names(wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(read_scopes(&names(&["x"; 1000])).map_err(|wrong| wrong.len()), Err(5));
    }

    #[test]
    fn nobody_makes_a_key_that_outlives_their_own() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let (soon, later) = (now + Duration::hours(1), now + Duration::hours(2));
        for (expires_at, bound, fine) in [
            (None, None, true),
            (Some(soon), None, true),
            (Some(now), None, false),
            (Some(soon), Some(soon), true),
            (Some(later), Some(soon), false),
            (None, Some(soon), false),
        ] {
            assert_eq!(check_expiry(expires_at, bound, now).is_ok(), fine, "{expires_at:?} {bound:?}");
        }
    }
}
