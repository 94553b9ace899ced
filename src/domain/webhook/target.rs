//! Where webhooks may go: public addresses, and what the operator opened by `BRIDGE_ALLOW_TARGETS`.
//!
//! Validated twice: the text at registration, and every address at every dial, since names change their
//! minds. An IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4, Teredo, ISATAP) is not public:
//! whatever it leads to has an address of its own. Ranges are those of IANA's special-purpose registries. Our
//! own addresses are refused too, public or not (docs/adr/0022).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// Longest address that is taken.
const URL_BYTES_MAX: usize = 2048;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, third: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0), prefix)
}

/// IPv4 ranges that are not public unicast.
const NOT_PUBLIC_V4: [Ipv4Net; 18] = [
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // shared by carriers
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // the inner service of Azure's machines, which nobody else reaches
    v4(169, 254, 0, 0, 16),   // link-local, cloud metadata
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 31, 196, 0, 24),  // AS112
    v4(192, 52, 193, 0, 24),  // AMT
    v4(192, 88, 99, 0, 24),   // 6to4 relays, retired
    v4(192, 168, 0, 0, 16),   // private
    v4(192, 175, 48, 0, 24),  // AS112
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 3),      // multicast, reserved, broadcast
];

/// Public IPv6 unicast is inside this range, and outside the ranges below.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Ranges inside 2000::/3 that are not public unicast.
const NOT_PUBLIC_V6: [Ipv6Net; 5] = [
    v6(0x2001, 0, 0, 23),         // protocol assignments, Teredo, benchmarking, ORCHID
    v6(0x2001, 0xdb8, 0, 32),     // documentation
    v6(0x2002, 0, 0, 16),         // 6to4
    v6(0x2620, 0x4f, 0x8000, 48), // AS112
    v6(0x3fff, 0, 0, 20),         // documentation
];

/// Why a target is refused. Texts are worded to follow the field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not an absolute URL with a host.
    #[error("is not an absolute http(s) URL")]
    NotUrl,
    /// Over the limit.
    #[error("is longer than 2048 bytes")]
    TooLong,
    /// Blanks, control characters or a backslash, which parsers read differently.
    #[error("has blanks, control characters or a backslash")]
    UnusableCharacters,
    /// Neither https nor an http that is allowed.
    #[error("must be https, since BRIDGE_ALLOW_TARGETS opens nothing for plain http")]
    NotHttps,
    /// `user:password@`.
    #[error("must not hold a user name or password")]
    UserInfo,
    /// `#…`
    #[error("must not have a fragment")]
    Fragment,
    /// Port 0.
    #[error("has a port that cannot be connected to")]
    Port,
    /// An address or name that is not public, and not opened.
    #[error("leads to an address that is not public; BRIDGE_ALLOW_TARGETS can open its network")]
    NotPublic,
}

impl TargetError {
    /// A stable word for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotUrl => "not_url",
            Self::TooLong => "too_long",
            Self::UnusableCharacters => "odd_characters",
            Self::NotHttps => "not_https",
            Self::UserInfo => "user_info",
            Self::Fragment => "fragment",
            Self::Port => "port",
            Self::NotPublic => "not_public",
        }
    }
}

/// Our own addresses, which must not be reached through us even where they are public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Addresses of this machine. Behind them may be what no firewall guards, for we would come from within.
    pub machine: Vec<IpAddr>,
    /// Where the REST API listens.
    pub listening: Vec<SocketAddr>,
    /// What only we should talk to: the database, the egress proxy.
    pub peers: Vec<SocketAddr>,
}

impl OwnAddresses {
    /// Whether the operator can open it: our own API and our own database serve no webhook.
    fn is_closed_for_ever(&self, ip: IpAddr, port: u16) -> bool {
        let all_of_the_machine =
            |ip: IpAddr| ip.is_loopback() || ip.is_unspecified() || self.machine.contains(&ip);
        self.peers.contains(&SocketAddr::new(ip, port))
            || self.listening.iter().any(|own| {
                let reaches = own.ip() == ip || (own.ip().is_unspecified() && all_of_the_machine(ip));
                own.port() == port && reaches
            })
    }

    fn is_at(&self, ip: IpAddr) -> bool {
        self.machine.contains(&ip) || self.peers.iter().chain(&self.listening).any(|own| own.ip() == ip)
    }
}

/// Networks that the operator opened besides the public internet, and our own addresses. Clones see the same.
#[derive(Clone, Debug, Default)]
pub struct TargetPolicy {
    allowed: Vec<IpNet>,
    ours: Arc<RwLock<OwnAddresses>>,
}

impl TargetPolicy {
    /// Opens these networks.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed, ours: Arc::default() }
    }

    /// Sets our own addresses.
    pub fn set_own_addresses(&self, ours: OwnAddresses) {
        *self.ours.write().unwrap_or_else(PoisonError::into_inner) = ours;
    }

    /// Validates an address as somebody typed it. Give on the URL that comes back, not the text: every later
    /// reader then sees the same host.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check_url(&self, text: &str) -> Result<Url, TargetError> {
        if text.len() > URL_BYTES_MAX {
            return Err(TargetError::TooLong);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(TargetError::UnusableCharacters);
        }
        // The parser would forgive `https:host` and `https:///host`; other readers would not.
        let rest = text.split_once(':').and_then(|(_, rest)| rest.strip_prefix("//")).unwrap_or_default();
        let url = Url::parse(text).map_err(|_| TargetError::NotUrl)?;
        // The parser writes letters outside ASCII three times as long; what is stored must be within the
        // limit too.
        if url.as_str().len() > URL_BYTES_MAX {
            return Err(TargetError::TooLong);
        }
        if rest.is_empty() || rest.starts_with('/') || !matches!(url.scheme(), "http" | "https") {
            return Err(TargetError::NotUrl);
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
        {
            return Err(TargetError::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(TargetError::Fragment);
        }
        if url.port() == Some(0) {
            return Err(TargetError::Port);
        }
        let https = url.scheme() == "https";
        if !https && self.allowed.is_empty() {
            return Err(TargetError::NotHttps);
        }
        let port = url.port_or_known_default().ok_or(TargetError::Port)?;
        match url.host().ok_or(TargetError::NotUrl)? {
            Host::Ipv4(ip) => self.check_address(https, ip.into(), port)?,
            Host::Ipv6(ip) => self.check_address(https, ip.into(), port)?,
            Host::Domain(name) => self.check_name(name)?,
        }
        Ok(url)
    }

    /// Names that are never public, whatever they resolve to, need an open network; others are validated at
    /// the dial.
    fn check_name(&self, name: &str) -> Result<(), TargetError> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let inner = ["localhost", "local", "internal", "home.arpa"]
            .iter()
            .any(|suffix| name == *suffix || name.ends_with(&format!(".{suffix}")));
        // The parser lets `a{b}` be a host; the one that makes requests does not, and no such name can be
        // looked up.
        let spelt = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(spelt) {
            return Err(TargetError::NotUrl);
        }
        if inner && self.allowed.is_empty() { Err(TargetError::NotPublic) } else { Ok(()) }
    }

    /// Validates an address that is about to be dialled.
    ///
    /// # Errors
    /// [`TargetError::NotPublic`]; for plain http [`TargetError::NotHttps`] outside the open networks.
    pub fn check_address(&self, https: bool, address: IpAddr, port: u16) -> Result<(), TargetError> {
        let ours = self.ours.read().unwrap_or_else(PoisonError::into_inner);
        if ours.is_closed_for_ever(address, port) {
            return Err(TargetError::NotPublic);
        }
        if self.opens(address) {
            // What leads on to an IPv4 address, as NAT64 does, must be allowed to lead there.
            return match carried(address) {
                Some(inner) if !self.opens(inner.into()) && !is_public(inner.into()) => {
                    Err(TargetError::NotPublic)
                }
                _ => Ok(()),
            };
        }
        if !is_public(address) || ours.is_at(address) {
            return Err(TargetError::NotPublic);
        }
        if https { Ok(()) } else { Err(TargetError::NotHttps) }
    }

    fn opens(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|net| net.contains(&address))
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&ip)),
        IpAddr::V6(ip) => {
            GLOBAL_V6.contains(&ip)
                && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&ip))
                && carried(address).is_none()
        }
    }
}

/// The IPv4 address that an IPv6 address leads to, by one of the known ways of writing it in.
fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = address else { return None };
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        // Unspecified and loopback are no IPv4 addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Compatible, mapped, translated (RFC 2765); both prefixes of NAT64.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        // 6to4; Teredo, which hides the address of the one behind it.
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        // ISATAP, in whatever network.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn open(cidr: &str) -> TargetPolicy {
        TargetPolicy::new(vec![cidr.parse().unwrap()])
    }

    #[test]
    fn public_https_targets_are_taken() {
        for text in [
            "https://crm.example.com/hooks",
            "https://crm.example.com:8443/h?x=1&y=%20",
            "https://93.184.216.34/",
            "https://100.63.255.254/",
            "https://[2606:2800:220:1::1]/h",
            "https://bücher.example/",
        ] {
            assert!(TargetPolicy::default().check_url(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn inner_addresses_are_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "0",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "１２７.0.0.1",
            "%31%32%37.0.0.1",
            "[::1]",
            "[::]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2001:0:4136:e378::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[ff02::1]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[100::1]",
            "[2620:4f:8000::1]",
            "[5f00::1]",
            "[fec0::1]",
            "[2606:4700::5efe:10.0.0.1]",
            "[2606:4700::200:5efe:a00:1]",
            "[::ffff:0:127.0.0.1]",
            "[64:ff9b:1:ffff:0:0:7f00:1]",
            "168.63.129.16",
            "127.0.0.1.",
            "①②⑦.0.0.1",
            "127。0。0。1",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "db.internal",
            "printer.local",
        ] {
            let verdict = TargetPolicy::default().check_url(&format!("https://{host}/"));
            assert_eq!(verdict, Err(TargetError::NotPublic), "{host}");
        }
    }

    #[test]
    fn texts_that_parsers_read_differently_are_refused() {
        for (text, error) in [
            ("https://user:pass@example.com/", TargetError::UserInfo),
            ("https://@example.com/", TargetError::UserInfo),
            ("https://example.com\\@127.0.0.1/", TargetError::UnusableCharacters),
            ("https://exa\tmple.com/", TargetError::UnusableCharacters),
            (" https://example.com/", TargetError::UnusableCharacters),
            ("https:example.com", TargetError::NotUrl),
            ("https:example.com/?then=://b", TargetError::NotUrl),
            ("https:/example.com/a://b", TargetError::NotUrl),
            ("https://a{b}/", TargetError::NotUrl),
            ("https://a*b/", TargetError::NotUrl),
            ("https://./", TargetError::NotUrl),
            ("https:///example.com/", TargetError::NotUrl),
            ("https://example.com:65536/", TargetError::NotUrl),
            ("https://example.com:0/", TargetError::Port),
            ("https://example.com/#x", TargetError::Fragment),
            ("ftp://example.com/", TargetError::NotUrl),
            ("example.com", TargetError::NotUrl),
            ("", TargetError::NotUrl),
            ("http://example.com/", TargetError::NotHttps),
        ] {
            assert_eq!(TargetPolicy::default().check_url(text), Err(error), "{text:?}");
        }
        let long = format!("https://example.com/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(TargetPolicy::default().check_url(&long), Err(TargetError::TooLong));
        let grows = format!("https://example.com/{}", "é".repeat(700));
        assert_eq!(TargetPolicy::default().check_url(&grows), Err(TargetError::TooLong));
    }

    #[test]
    fn an_open_network_allows_its_addresses_and_plain_http_there_only() {
        let policy = open("10.0.0.0/8");
        assert!(policy.check_url("http://10.1.2.3:8080/h").is_ok());
        assert!(policy.check_url("http://crm:8080/h").is_ok(), "names are validated at the dial");
        assert_eq!(policy.check_url("http://192.168.0.1/"), Err(TargetError::NotPublic));
        assert_eq!(policy.check_url("http://93.184.216.34/"), Err(TargetError::NotHttps));
        assert!(policy.check_url("https://93.184.216.34/").is_ok());
        assert_eq!(policy.check_address(false, "10.9.9.9".parse().unwrap(), 80), Ok(()));
    }

    #[test]
    fn our_own_addresses_are_refused_though_public_and_our_entry_points_even_in_an_open_network() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let ours = OwnAddresses {
            machine: vec!["45.33.32.20".parse().unwrap(), "10.0.0.7".parse().unwrap()],
            listening: vec![address("0.0.0.0:8080")],
            peers: vec![address("45.33.32.10:5432"), address("10.0.0.8:5432")],
        };
        let closed = TargetPolicy::default();
        closed.set_own_addresses(ours.clone());
        for text in
            ["https://45.33.32.20/", "https://45.33.32.20:8080/", "https://45.33.32.10/", "https://10.0.0.8/"]
        {
            assert_eq!(closed.check_url(text), Err(TargetError::NotPublic), "{text}");
        }
        assert!(closed.check_url("https://45.33.32.11/").is_ok());
        let open = TargetPolicy::new(
            ["10.0.0.0/8", "127.0.0.0/8", "45.33.32.0/24"].map(|net| net.parse().unwrap()).into(),
        );
        open.clone().set_own_addresses(ours);
        for text in [
            "http://10.0.0.7:8080/",
            "http://127.9.9.9:8080/",
            "https://45.33.32.20:8080/",
            "http://10.0.0.8:5432/",
            "https://45.33.32.10:5432/",
        ] {
            assert_eq!(open.check_url(text), Err(TargetError::NotPublic), "{text}");
        }
        for text in ["http://10.0.0.7:9091/", "http://127.0.0.1/", "https://45.33.32.20/", "http://10.0.0.8/"]
        {
            assert!(open.check_url(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn an_open_prefix_of_nat64_leads_only_where_the_ipv4_address_may_be() {
        let policy = open("64:ff9b::/96");
        assert!(policy.check_url("https://[64:ff9b::5db8:d822]/").is_ok());
        for inner in ["7f00:1", "a00:1", "a9fe:a9fe"] {
            let text = format!("https://[64:ff9b::{inner}]/");
            assert_eq!(policy.check_url(&text), Err(TargetError::NotPublic), "{text}");
        }
        let both = TargetPolicy::new(["64:ff9b::/96", "10.0.0.0/8"].map(|net| net.parse().unwrap()).into());
        assert!(both.check_url("http://[64:ff9b::a00:1]/").is_ok());
    }

    proptest! {
        #[test]
        fn an_address_that_carries_an_inner_one_is_never_public(inner in any::<[u8; 4]>()) {
            let v4 = Ipv4Addr::from(inner);
            let [a, b, c, d] = inner.map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            for ip in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 0),
                Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0, 0, !high, !low),
                Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0x5efe, high, low),
            ] {
                prop_assert!(!is_public(ip.into()));
            }
        }

        #[test]
        fn no_text_makes_the_judge_fail(text in "\\PC{0,80}") {
            let _ = TargetPolicy::default().check_url(&text);
        }
    }
}
