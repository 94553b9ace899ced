//! Keeps the address policy up to date about our own addresses: those of this machine, of the database and of
//! the egress proxy. Called by `app.rs`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use tokio::net::lookup_host;
use tokio::time::{interval, timeout};

use crate::domain::webhook::target::{OwnAddresses, TargetPolicy};

/// How often names and interfaces are looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Longest wait for the resolver.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// Looks our own addresses up, and tells the policy.
pub struct OwnAddressWatcher {
    policy: TargetPolicy,
    listening: Vec<SocketAddr>,
    /// Host and port of each peer, and where it was found last.
    peers: HashMap<(String, u16), Vec<SocketAddr>>,
}

impl OwnAddressWatcher {
    /// For a bridge that has these peers, by host and port.
    #[must_use]
    pub fn new(policy: TargetPolicy, peers: impl IntoIterator<Item = (String, u16)>) -> Self {
        let peers = peers.into_iter().map(|peer| (peer, Vec::new())).collect();
        Self { policy, listening: Vec::new(), peers }
    }

    /// Says where the REST API listens.
    #[must_use]
    pub fn listening(self, listening: Vec<SocketAddr>) -> Self {
        Self { listening, ..self }
    }

    /// Looks once.
    pub async fn look(&mut self) {
        for ((host, port), found) in &mut self.peers {
            let asked = timeout(RESOLVE_WITHIN, lookup_host((host.as_str(), *port))).await;
            // A resolver that does not answer leaves a known address ours.
            if let Ok(Ok(addresses)) = asked {
                *found = addresses.collect();
            }
        }
        self.policy.set_own_addresses(OwnAddresses {
            machine: machine(),
            listening: self.listening.clone(),
            peers: self.peers.values().flatten().copied().collect(),
        });
    }

    /// Goes on looking for as long as the process lives.
    pub async fn keep_looking(mut self) {
        let mut ticks = interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }
}

/// Addresses of this machine's interfaces; loopback is refused by its range.
fn machine() -> Vec<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces.filter_map(|interface| ip(&interface.address?)).filter(|ip| !ip.is_loopback()).collect()
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::webhook::target::TargetError;

    #[tokio::test]
    async fn peers_are_looked_up_and_stay_known_while_the_resolver_is_silent() {
        let policy = TargetPolicy::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let mut own_address_watcher =
            OwnAddressWatcher::new(policy.clone(), [("localhost".to_owned(), 5432)])
                .listening(vec!["127.0.0.1:8080".parse().unwrap()]);
        own_address_watcher.look().await;
        // A name that no resolver knows, in the place of one whose resolver is away.
        let nowhere = ("x".repeat(64), 9);
        own_address_watcher.peers.insert(nowhere, vec!["127.0.0.1:9".parse().unwrap()]);
        own_address_watcher.look().await;
        for port in [5432, 8080, 9] {
            let told = policy.check_url(&format!("http://127.0.0.1:{port}/"));
            assert_eq!(told, Err(TargetError::NotPublic), "{port}");
        }
        assert!(policy.check_url("http://127.0.0.1:10/").is_ok());
    }
}
