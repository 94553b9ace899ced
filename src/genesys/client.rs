//! Makes the client of a source's protocol from the source's settings.

use std::cell::RefCell;
use std::rc::Rc;

use url::Url;

use super::dialer::Dialer;
use super::limiter::Limiter;
use super::notifications::{Notifications, NotificationsSettings};
use super::protocol::{ErrorKind, Upstream, UpstreamError};
use super::realtime::{Realtime, RealtimeSettings};
use super::rest::CALL_WITHIN;
use crate::config::EgressProxy;
use crate::domain::presence::regions;
use crate::domain::presence::source::PROTOCOL_NOTIFICATIONS;
use crate::domain::secret::Secret;
use crate::domain::webhook::target::TargetPolicy;
use crate::metrics::by_label::CounterBy;

#[derive(Clone, Debug)]
pub struct ClientSettings {
    pub protocol: String,
    /// Genesys domain; `None` if `api_url` stands for it.
    pub region: Option<String>,
    /// REST address; `None` for the region's.
    pub api_url: Option<String>,
    /// Token address; `None` for the protocol's own.
    pub login_url: Option<String>,
    pub client_id: String,
    pub client_secret: Secret,
    /// Language of presence labels.
    pub language: String,
    /// Which addresses may be dialled; `None`: all.
    pub targets: Option<TargetPolicy>,
    /// The only way to them; `None`: straight.
    pub proxy: Option<EgressProxy>,
    /// Counts calls by their outcome.
    pub calls: Option<CounterBy>,
}

impl ClientSettings {
    /// Addresses of the REST API and of the tokens, without slashes at their ends.
    #[must_use]
    pub fn addresses(&self) -> (String, String) {
        let without_slash = |url: &str| url.trim_end_matches('/').to_owned();
        let region = self.region.as_deref();
        let by_region = || regions::api_url(region.unwrap_or_default());
        let api_url = self.api_url.as_deref().map_or_else(by_region, without_slash);
        let login_url = match (self.login_url.as_deref(), region) {
            (Some(url), _) => without_slash(url),
            (None, Some(region)) if self.protocol == PROTOCOL_NOTIFICATIONS && self.api_url.is_none() => {
                regions::login_url(region)
            }
            (None, _) => api_url.clone(),
        };
        (api_url, login_url)
    }

    /// Whether the proxy opens a connection to where tokens come from; the host that was asked for. `None` if
    /// there is no proxy.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn try_proxy(&self) -> Option<Result<String, UpstreamError>> {
        let proxy = self.proxy.as_ref()?;
        let failed = |what: String| UpstreamError { kind: ErrorKind::Transport, status: None, what };
        let login = Url::parse(&self.addresses().1).ok()?;
        let (host, port) = (login.host_str()?.trim_matches(['[', ']']), login.port_or_known_default()?);
        let dialer = Dialer::new(self.targets.clone(), None, CALL_WITHIN);
        let opened = dialer.dial_through(proxy, login.scheme() == "https", host, port).await;
        Some(opened.map(|_| format!("{host}:{port}")).map_err(|error| failed(error.to_string())))
    }

    /// A client; those of one OAuth client share the limiter.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn upstream(&self, limiter: Rc<RefCell<Limiter>>) -> Result<Rc<dyn Upstream>, rustls::Error> {
        let (api_url, login_url) = self.addresses();
        let (client_id, client_secret) = (self.client_id.clone(), self.client_secret.clone());
        let (targets, proxy, calls) = (self.targets.clone(), self.proxy.clone(), self.calls.clone());
        if self.protocol != PROTOCOL_NOTIFICATIONS {
            let settings =
                RealtimeSettings { api_url, login_url, client_id, client_secret, targets, proxy, calls };
            return Ok(Rc::new(Realtime::new(settings)?));
        }
        let language = self.language.clone();
        let settings = NotificationsSettings {
            api_url,
            login_url,
            client_id,
            client_secret,
            language,
            targets,
            proxy,
            calls,
        };
        Ok(Rc::new(Notifications::new(settings, limiter)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(
        protocol: &str,
        region: Option<&str>,
        api: Option<&str>,
        login: Option<&str>,
    ) -> (String, String) {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let settings = ClientSettings {
            protocol: protocol.to_owned(),
            region: own(region),
            api_url: own(api),
            login_url: own(login),
            client_id: String::new(),
            client_secret: Secret::new("x"),
            language: String::new(),
            targets: None,
            proxy: None,
            calls: None,
        };
        settings.addresses()
    }

    #[test]
    fn addresses_follow_from_the_region_unless_they_are_given() {
        let region = Some("mypurecloud.de");
        let pair = |api: &str, login: &str| (api.to_owned(), login.to_owned());
        let public = "https://api.mypurecloud.de";
        assert_eq!(
            addresses("notifications", region, None, None),
            pair(public, "https://login.mypurecloud.de")
        );
        assert_eq!(addresses("realtime", region, None, None), pair(public, public));
        assert_eq!(addresses("notifications", region, Some("http://h/"), None), pair("http://h", "http://h"));
        assert_eq!(
            addresses("notifications", None, Some("http://h"), Some("http://l/")),
            pair("http://h", "http://l")
        );
    }
}
