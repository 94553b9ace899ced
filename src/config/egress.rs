//! `BRIDGE_EGRESS_PROXY` and `BRIDGE_GENESYS_PROXY`: the only ways out to receivers and to Genesys, if they
//! are set.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use url::Url;

use crate::domain::secret::Secret;

/// A proxy that opens connections when asked with `CONNECT`.
#[derive(Clone, Debug)]
pub struct EgressProxy {
    /// Name or address, an IPv6 one without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<Secret>,
}

impl EgressProxy {
    /// Reads `http://user:password@host:port`; `None` if it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok().filter(|url| url.scheme() == "http")?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        let decoded = |text: &str| percent_decoded(text);
        let authorization = if url.username().is_empty() && url.password().is_none() {
            None
        } else {
            let (name, password) = (decoded(url.username())?, decoded(url.password().unwrap_or_default())?);
            Some(Secret::new(format!("Basic {}", BASE64.encode(format!("{name}:{password}")))))
        };
        let port = url.port_or_known_default().filter(|port| *port != 0)?;
        bare.then_some(Self { host, port, authorization })
    }
}

/// Undoes `%41`; `None` if that is no text. The parser has written every `%` that stood alone as it was.
fn percent_decoded(text: &str) -> Option<String> {
    // A form's encoding, but for its `+`.
    let pair = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    let (_, value) = url::form_urlencoded::parse(pair.as_bytes()).next()?;
    (!value.contains('\u{fffd}')).then(|| value.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_proxy_is_read_with_its_credentials_and_shows_them_nowhere() {
        let proxy = EgressProxy::parse("http://us+er:p%40%3A%26s@proxy.example:3128/").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3128));
        let sent = proxy.authorization.as_ref().unwrap().expose().to_owned();
        assert_eq!(sent, format!("Basic {}", BASE64.encode("us+er:p@:&s")));
        assert!(!format!("{proxy:?}").contains(&sent));
        let plain = EgressProxy::parse("http://[fd00::1]").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.authorization.is_none()), ("fd00::1", 80, true));
    }

    #[test]
    fn what_is_no_http_proxy_is_refused() {
        for text in [
            "proxy:3128",
            "https://proxy:3128",
            "socks5://proxy",
            "http://proxy/x",
            "http://proxy?x",
            "http://proxy:0",
        ] {
            assert!(EgressProxy::parse(text).is_none(), "{text}");
        }
    }
}
