//! Where a call comes from: the address of the connection, or behind a proxy that is trusted the one that it
//! tells.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Proxies whose word is taken. Nobody's if there are none.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Those within these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether its word is taken.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The caller's address: of the hops that the headers name, the last one that is no trusted proxy.
    /// Whatever stands before it the caller may have written itself. `X-Forwarded-For` goes before
    /// `Forwarded`; each as its lines came.
    #[must_use]
    pub fn caller<'a>(
        &self,
        peer: IpAddr,
        forwarded_for: impl IntoIterator<Item = &'a str>,
        forwarded: impl IntoIterator<Item = &'a str>,
    ) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let mut hops: Vec<&str> =
            forwarded_for.into_iter().flat_map(|line| line.split(',')).map(str::trim).collect();
        if hops.is_empty() {
            hops = forwarded.into_iter().flat_map(|line| line.split(',')).map(for_of).collect();
        }
        let mut nearest = peer;
        for hop in hops.into_iter().rev() {
            // What is no address was not written by a proxy that we trust to tell one.
            let Some(address) = address_of(hop) else {
                return nearest;
            };
            nearest = address;
            if !self.trusts(address) {
                return address;
            }
        }
        nearest
    }
}

/// The value of `for` in one element of `Forwarded`.
fn for_of(element: &str) -> &str {
    let named = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let mut values = named.filter(|(name, _)| name.eq_ignore_ascii_case("for")).map(|(_, value)| value);
    values.next().unwrap_or_default().trim_matches('"')
}

/// An address, with or without brackets and a port.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address =
        bare.parse::<IpAddr>().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

/// What one caller of many addresses has in common: a network of IPv6 is as easily had as an address of IPv4.
#[must_use]
pub fn throttled_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn caller(peer: &str, forwarded_for: &[&str], forwarded: &[&str]) -> String {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        proxies
            .caller(peer.parse().unwrap(), forwarded_for.iter().copied(), forwarded.iter().copied())
            .to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        for (peer, forwarded_for, forwarded, is) in [
            ("192.0.2.9", &["203.0.113.1"][..], &[][..], "192.0.2.9"),
            ("10.0.0.1", &[], &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1"], &[], "203.0.113.1"),
            ("::ffff:10.0.0.1", &["203.0.113.1"], &[], "203.0.113.1"),
            // The caller wrote the first one.
            ("10.0.0.1", &["1.1.1.1, 203.0.113.1"], &[], "203.0.113.1"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.1, 10.2.2.2"], &[], "203.0.113.1"),
            ("10.0.0.1", &["10.3.3.3, 10.2.2.2"], &[], "10.3.3.3"),
            ("10.0.0.1", &["203.0.113.1, unknown"], &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1, nonsense, 10.2.2.2"], &[], "10.2.2.2"),
            ("10.0.0.1", &["203.0.113.1:4711"], &[], "203.0.113.1"),
            ("fd00::1", &["[2001:db8::1]:443"], &[], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], &[], "2001:db8::1"),
            ("10.0.0.1", &["203.0.113.1"], &["for=1.1.1.1"], "203.0.113.1"),
            ("10.0.0.1", &[], &["for=1.1.1.1, For=203.0.113.1;proto=https"], "203.0.113.1"),
            ("10.0.0.1", &[], &["proto=https;for=\"[2001:db8::1]:443\""], "2001:db8::1"),
            ("10.0.0.1", &[], &["by=203.0.113.1"], "10.0.0.1"),
            ("10.0.0.1", &[], &["for=_hidden"], "10.0.0.1"),
            ("10.0.0.1", &[""], &[], "10.0.0.1"),
        ] {
            assert_eq!(caller(peer, forwarded_for, forwarded), is, "{peer} {forwarded_for:?} {forwarded:?}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_throttled_as_one() {
        let of = |text: &str| throttled_as(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
