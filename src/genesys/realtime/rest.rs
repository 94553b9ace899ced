//! The REST half of protocol `realtime`.

use std::collections::HashSet;
use std::time::Duration;

use awc::http::header::CONTENT_TYPE;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::wire;
use crate::config::EgressProxy;
use crate::domain::secret::Secret;
use crate::domain::webhook::target::TargetPolicy;
use crate::genesys::protocol::{
    ConnectionSpec, Definition, Frame, KeepaliveConfig, Listed, Person, Provisioned, Rejected, Snapshot,
    Step, Token, Upstream, Watch, not_offered,
};
use crate::genesys::rest::{Rest, UPSTREAM_ID_CHARS_MAX, authorized, bad, is_id, read_token};
use crate::genesys::socket::Socket;
use crate::genesys::values::{clean, read_time};
use crate::metrics::by_label::CounterBy;

/// Added to two heartbeats: silence that counts as death.
const SILENCE_MARGIN: Duration = Duration::from_secs(5);

/// Addresses and credentials.
#[derive(Clone, Debug)]
pub struct RealtimeSettings {
    /// REST address without a slash at its end.
    pub api_url: String,
    /// Address that issues tokens, likewise.
    pub login_url: String,
    pub client_id: String,
    pub client_secret: Secret,
    /// Which addresses may be dialled; `None`: all.
    pub targets: Option<TargetPolicy>,
    /// The only way to them; `None`: straight.
    pub proxy: Option<EgressProxy>,
    /// Counts calls by their outcome.
    pub calls: Option<CounterBy>,
}

/// Speaks protocol `realtime` with one source. Lives on one thread.
pub struct Realtime {
    settings: RealtimeSettings,
    rest: Rest,
}

#[derive(Deserialize)]
struct UserAnswer {
    id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProvisionBody<'a> {
    user_id: &'a str,
    topics: &'a [String],
    heartbeat_interval: u128,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionAnswer {
    ws_url: Option<String>,
    // A listing may call it `id`, as the platform does elsewhere.
    #[serde(alias = "id")]
    connection_id: Option<String>,
    // Only a listing holds them, in a form that is not documented; unreadable values count as missing.
    user_id: Option<Value>,
    date_created: Option<Value>,
}

impl ConnectionAnswer {
    fn listed(self) -> Option<Listed> {
        Some(Listed {
            upstream_id: self.connection_id?,
            agent_id: self
                .user_id
                .as_ref()
                .and_then(Value::as_str)
                .and_then(|id| clean(id, UPSTREAM_ID_CHARS_MAX)),
            made_at: self.date_created.as_ref().and_then(read_time),
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ListAnswer {
    Page { entities: Vec<ConnectionAnswer> },
    Plain(Vec<ConnectionAnswer>),
}

impl Realtime {
    /// A client for one source.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(settings: RealtimeSettings) -> Result<Self, rustls::Error> {
        let rest = Rest::new(settings.targets.clone(), settings.proxy.clone(), settings.calls.clone())?;
        Ok(Self { settings, rest })
    }

    fn connections_url(&self) -> String {
        format!("{}/api/v2/realtime/connections", self.settings.api_url)
    }
}

impl Upstream for Realtime {
    fn token(&self) -> Step<'_, Token> {
        async move {
            let form = Serializer::new(String::new())
                .append_pair("client_id", &self.settings.client_id)
                .append_pair("client_secret", self.settings.client_secret.expose())
                .append_pair("grant_type", "client_credentials")
                .finish();
            let request = self
                .rest
                .client
                .post(format!("{}/api/v2/oauth/token", self.settings.login_url))
                .insert_header((CONTENT_TYPE, "application/x-www-form-urlencoded"));
            read_token(&self.rest.exchange("token", request, form.into_bytes()).await?)
        }
        .boxed_local()
    }

    fn verify<'a>(&'a self, token: &'a Secret) -> Step<'a, String> {
        async move {
            let request = self.rest.client.get(format!("{}/api/v2/users/me", self.settings.api_url));
            let answer: UserAnswer =
                self.rest.call("users/me", authorized(request, token), Vec::new()).await?;
            // It is stored in the audit log, so it must fit a row.
            answer.id.and_then(|id| clean(&id, UPSTREAM_ID_CHARS_MAX)).ok_or_else(|| bad("users/me", "no id"))
        }
        .boxed_local()
    }

    fn provision<'a>(&'a self, token: &'a Secret, wanted: &'a ConnectionSpec) -> Step<'a, Provisioned> {
        async move {
            let body = ProvisionBody {
                user_id: wanted.agents.first().map_or("", String::as_str),
                topics: &wanted.topics,
                heartbeat_interval: wanted.heartbeat_interval.as_millis(),
            };
            let body =
                serde_json::to_vec(&body).map_err(|_| bad("connections", "request cannot be written"))?;
            let request = authorized(self.rest.client.post(self.connections_url()), token)
                .insert_header((CONTENT_TYPE, "application/json"));
            let answer: ConnectionAnswer = self.rest.call("connections", request, body).await?;
            let upstream_id = answer.connection_id.filter(|id| is_id(id));
            Ok(Provisioned {
                upstream_id: upstream_id.ok_or_else(|| bad("connections", "no usable connectionId"))?,
                // Without an address the connection exists all the same: dialling fails, and it is deleted.
                socket_url: Secret::new(answer.ws_url.unwrap_or_default()),
                lifetime: None,
                rejected: Vec::new(),
            })
        }
        .boxed_local()
    }

    fn list<'a>(&'a self, token: &'a Secret) -> Step<'a, Vec<Listed>> {
        async move {
            let request = authorized(self.rest.client.get(self.connections_url()), token);
            let (ListAnswer::Page { entities } | ListAnswer::Plain(entities)) =
                self.rest.call("list of connections", request, Vec::new()).await?;
            Ok(entities.into_iter().filter_map(ConnectionAnswer::listed).collect())
        }
        .boxed_local()
    }

    fn delete<'a>(&'a self, token: &'a Secret, upstream_id: &'a str) -> Step<'a, ()> {
        async move {
            let id: String = url::form_urlencoded::byte_serialize(upstream_id.as_bytes()).collect();
            let request =
                authorized(self.rest.client.delete(format!("{}/{id}", self.connections_url())), token);
            match self.rest.exchange("delete", request, Vec::new()).await {
                Ok(_) => Ok(()),
                Err(error) if error.status == Some(404) => Ok(()),
                Err(error) => Err(error),
            }
        }
        .boxed_local()
    }

    fn dial<'a>(&'a self, provisioned: &'a Provisioned) -> Step<'a, Socket> {
        self.rest.dial(provisioned, &self.settings.api_url).boxed_local()
    }

    fn read(&self, text: &str) -> Frame {
        wire::read(text)
    }

    fn keepalive(&self, heartbeat: Duration) -> KeepaliveConfig {
        KeepaliveConfig {
            silence: heartbeat * 2 + SILENCE_MARGIN,
            ping_every: heartbeat / 2,
            ping_text: None,
            probe_every: None,
            resync: false,
        }
    }

    fn subscribe<'a>(&'a self, _: &'a Secret, _: &'a str, _: &'a ConnectionSpec) -> Step<'a, Vec<Rejected>> {
        not_offered("subscribe")
    }

    fn listens_to<'a>(&'a self, _: &'a Secret, _: &'a str) -> Step<'a, Option<HashSet<String>>> {
        not_offered("listens to")
    }

    fn snapshot<'a>(&'a self, _: &'a Secret, _: &'a [String]) -> Step<'a, Vec<Snapshot>> {
        not_offered("snapshot")
    }

    fn roster<'a>(&'a self, _: &'a Secret, _: &'a Watch) -> Step<'a, Vec<Person>> {
        not_offered("roster")
    }

    fn definitions<'a>(&'a self, _: &'a Secret) -> Step<'a, Vec<Definition>> {
        not_offered("definitions")
    }
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
