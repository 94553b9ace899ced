//! How this program speaks HTTP to a bridge and to a receiver: by ureq, with the TLS of both edges.

use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;
use ureq::tls::{RootCerts, TlsConfig};
use url::{Host, Url};

use crate::tls;

/// What every request calls its sender.
const SENDER: &str = concat!("presence-bridge/", env!("CARGO_PKG_VERSION"));
/// How long a connection, its handshake included, may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Deadlines of a request, besides that of its connection.
pub(in crate::client) struct Deadlines {
    /// For all of it; `None` for an answer without an end.
    pub whole: Option<Duration>,
    /// Longest silence of the other side.
    pub silence: Duration,
}

/// A client for requests to `url`. It follows no redirect, and takes every status as an answer. A proxy of
/// the environment is used, but not to this machine.
pub(in crate::client) fn agent(url: &Url, deadlines: &Deadlines) -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(tls::provider()))
        .build();
    let mut config = Config::builder()
        .tls_config(tls)
        .user_agent(SENDER)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_WITHIN))
        .timeout_global(deadlines.whole)
        .timeout_per_read(Some(deadlines.silence));
    if is_here(url) {
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Whether an address leads to this machine.
#[must_use]
pub fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Why there was no answer, for people.
pub(in crate::client) fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(ureq::Timeout::PerRead) => "it says nothing".to_owned(),
        ureq::Error::Timeout(_) => "not in time".to_owned(),
        other => other.to_string(),
    }
}
