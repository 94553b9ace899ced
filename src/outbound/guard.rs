//! Which addresses a host may be dialled at: resolved at every dial, all of them judged, one bad one refuses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::domain::target::TargetPolicy;

/// Longest wait for the resolver; an attempt has more to do within its deadline.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// Addresses of one host that are tried at most.
const ADDRESSES_MAX: usize = 4;

/// Why there is nothing to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// The host has no address, or could not be looked up in time.
    #[error("the host has no address")]
    NotResolved,
    /// An address is not allowed.
    #[error("the host leads to an address that is not allowed")]
    Refused,
}

/// Resolves `host` (a name, or an address with or without brackets) and judges every address that it has.
///
/// # Errors
/// [`GuardError`].
pub async fn resolve(
    policy: &TargetPolicy,
    https: bool,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, GuardError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => timeout(RESOLVE_WITHIN, lookup_host((bare, port)))
            .await
            .map_err(|_| GuardError::NotResolved)?
            .map_err(|_| GuardError::NotResolved)?
            .collect(),
    };
    if found.is_empty() {
        return Err(GuardError::NotResolved);
    }
    if found
        .iter()
        .any(|address| policy.check_address(https, address.ip()).is_err())
    {
        return Err(GuardError::Refused);
    }
    Ok(found.into_iter().take(ADDRESSES_MAX).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let closed = TargetPolicy::default();
        assert_eq!(
            resolve(&closed, true, "localhost", 80).await,
            Err(GuardError::Refused)
        );
        assert_eq!(
            resolve(&closed, true, "[::1]", 80).await,
            Err(GuardError::Refused)
        );
        let open = TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        assert!(resolve(&open, false, "localhost", 80).await.is_ok());
        assert_eq!(
            resolve(&open, true, "does-not-exist.invalid", 80).await,
            Err(GuardError::NotResolved)
        );
    }

    #[tokio::test]
    async fn one_bad_address_refuses_all() {
        // localhost has both addresses here; only one of them is open.
        let half = TargetPolicy::new(vec!["127.0.0.1/32".parse().unwrap()]);
        let addresses: Vec<_> = lookup_host(("localhost", 80)).await.unwrap().collect();
        let expected_refusal = addresses.iter().any(|address| address.is_ipv6());
        assert_eq!(
            resolve(&half, true, "localhost", 80).await.is_err(),
            expected_refusal,
            "{addresses:?}"
        );
    }
}
