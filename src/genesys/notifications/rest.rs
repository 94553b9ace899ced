//! The REST half of protocol `notifications`: tokens, channels, subscriptions, rosters, present states.

use std::collections::HashSet;
use std::time::Duration;

use awc::http::header::CONTENT_TYPE;
use futures_util::FutureExt;
use serde::Deserialize;

use super::calls::{Entities, Notifications, PAGE_SIZE, escaped, ids};
use super::directory::each_once;
use super::people::{Page, definition, snapshot};
use super::wire;
use crate::clock;
use crate::domain::secret::Secret;
use crate::genesys::limiter::Urgency;
use crate::genesys::protocol::{
    ConnectionSpec, Definition, Frame, KeepaliveConfig, Listed, Person, Provisioned, Rejected, Snapshot,
    Step, Token, Upstream, Watch,
};
use crate::genesys::rest::{bad, is_id, read_json, read_token};
use crate::genesys::socket::Socket;
use crate::genesys::values::{clean, read_time};

/// The platform's own clients give up after this much silence.
const SILENCE: Duration = Duration::from_secs(35);
/// Usual life of a channel, and the shortest that is believed.
const LIFE_USUAL: Duration = Duration::from_secs(24 * 3600);
const LIFE_MIN: Duration = Duration::from_secs(2);
/// How often a channel is checked upstream: one that was displaced, or lost its subscriptions, may just stay
/// silent.
const PROBE_EVERY: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChannelAnswer {
    id: Option<String>,
    connect_uri: Option<String>,
    expires: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MeAnswer {
    organization: Named,
    #[serde(rename = "OAuthClient")]
    client: Named,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    id: Option<String>,
}

impl Upstream for Notifications {
    fn token(&self) -> Step<'_, Token> {
        async move {
            let request = self
                .rest
                .client
                .post(format!("{}/oauth/token", self.settings.login_url))
                .basic_auth(&self.settings.client_id, self.settings.client_secret.expose())
                .insert_header((CONTENT_TYPE, "application/x-www-form-urlencoded"));
            read_token(
                &self.rest.exchange("token", request, b"grant_type=client_credentials".to_vec()).await?,
            )
        }
        .boxed_local()
    }

    fn verify<'a>(&'a self, token: &'a Secret) -> Step<'a, String> {
        async move {
            let answer = self.get("tokens/me", Urgency::Urgent, token, "tokens/me").await?;
            let answer: MeAnswer = read_json("tokens/me", &answer)?;
            let id = answer.client.id.or(answer.organization.id).and_then(|id| clean(&id, PAGE_SIZE));
            id.ok_or_else(|| bad("tokens/me", "neither a client nor an organisation"))
        }
        .boxed_local()
    }

    fn provision<'a>(&'a self, token: &'a Secret, wanted: &'a ConnectionSpec) -> Step<'a, Provisioned> {
        async move {
            let url = self.url("notifications/channels");
            let make = || (self.rest.client.post(&url), Vec::new());
            let answer = self.ask("channels", Urgency::Urgent, token, make).await?;
            let answer: ChannelAnswer = read_json("channels", &answer)?;
            let id = answer.id.filter(|id| is_id(id)).ok_or_else(|| bad("channels", "no usable id"))?;
            let expires = answer.expires.as_ref().and_then(read_time);
            let rejected = match self.subscribe(token, &id, wanted).await {
                Ok(rejected) => rejected,
                Err(error) => {
                    // It cannot be deleted; without topics it is the first that the platform ends.
                    let _ = self.delete(token, &id).await;
                    return Err(error);
                }
            };
            Ok(Provisioned {
                upstream_id: id,
                socket_url: Secret::new(answer.connect_uri.unwrap_or_default()),
                // A channel whose end is missing, or past by our clock (the clock's fault), has the
                // platform's usual life.
                lifetime: Some(
                    expires
                        .and_then(|at| Duration::try_from(at - clock::now()).ok())
                        .filter(|life| *life >= LIFE_MIN)
                        .unwrap_or(LIFE_USUAL),
                ),
                rejected,
            })
        }
        .boxed_local()
    }

    fn list<'a>(&'a self, token: &'a Secret) -> Step<'a, Vec<Listed>> {
        async move {
            let path = "notifications/channels?includechannels=oauthclient";
            let answer = self.get("list of channels", Urgency::Urgent, token, path).await?;
            let answer: Entities<ChannelAnswer> = read_json("list of channels", &answer)?;
            // Channels of other tokens are counted, but their ids are hidden.
            let listed = |channel: ChannelAnswer| Listed {
                upstream_id: channel.id.unwrap_or_default(),
                ..Listed::default()
            };
            Ok(answer.entities.into_iter().map(listed).collect())
        }
        .boxed_local()
    }

    /// A channel cannot be deleted: it loses its subscriptions instead, and lapses.
    fn delete<'a>(&'a self, token: &'a Secret, upstream_id: &'a str) -> Step<'a, ()> {
        async move {
            let url = self.url(&format!("notifications/channels/{}/subscriptions", escaped(upstream_id)));
            let make = || (self.rest.client.delete(&url), Vec::new());
            match self.ask("delete", Urgency::Urgent, token, make).await {
                // Gone, or of a former token and so about to be.
                Err(error) if matches!(error.status, Some(403 | 404)) => Ok(()),
                answer => answer.map(drop),
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

    fn keepalive(&self, _: Duration) -> KeepaliveConfig {
        KeepaliveConfig {
            silence: SILENCE,
            ping_every: SILENCE / 2,
            ping_text: Some(wire::PING),
            probe_every: Some(PROBE_EVERY),
            resync: true,
        }
    }

    fn subscribe<'a>(
        &'a self,
        token: &'a Secret,
        upstream_id: &'a str,
        wanted: &'a ConnectionSpec,
    ) -> Step<'a, Vec<Rejected>> {
        self.subscribe_to(token, upstream_id, wanted).boxed_local()
    }

    fn listens_to<'a>(
        &'a self,
        token: &'a Secret,
        upstream_id: &'a str,
    ) -> Step<'a, Option<HashSet<String>>> {
        self.subscribed_agents(token, upstream_id).boxed_local()
    }

    fn snapshot<'a>(&'a self, token: &'a Secret, agents: &'a [String]) -> Step<'a, Vec<Snapshot>> {
        async move {
            let expand = "presence,routingStatus,outOfOffice";
            let path = format!("users?pageSize={PAGE_SIZE}&expand={expand}&id={}", ids(agents));
            let page: Page = read_json("users", &self.get("users", Urgency::Patient, token, &path).await?)?;
            let wanted: HashSet<&str> = agents.iter().map(String::as_str).collect();
            let mut found: Vec<Snapshot> = page
                .entities
                .iter()
                .filter_map(|entity| snapshot(entity))
                .filter(|found| wanted.contains(found.person.agent_id.as_str()))
                .collect();
            self.fill_in(token, agents, &mut found).await?;
            found.retain(|snapshot| wanted.contains(snapshot.person.agent_id.as_str()));
            Ok(found)
        }
        .boxed_local()
    }

    fn roster<'a>(&'a self, token: &'a Secret, watch: &'a Watch) -> Step<'a, Vec<Person>> {
        async move {
            let named = |agent: &String| Person { agent_id: agent.clone(), ..Person::default() };
            let mut people: Vec<Person> = watch.agents.iter().map(named).collect();
            if watch.all_users {
                people.extend(self.members(token, "users", "users?state=active").await?);
            }
            for queue in &watch.queues {
                let path = format!("routing/queues/{}/members", escaped(queue));
                people.extend(self.members(token, "queue members", &path).await?);
            }
            for group in &watch.groups {
                let path = format!("groups/{}/members", escaped(group));
                people.extend(self.members(token, "group members", &path).await?);
            }
            Ok(each_once(people))
        }
        .boxed_local()
    }

    fn definitions<'a>(&'a self, token: &'a Secret) -> Step<'a, Vec<Definition>> {
        async move {
            let name = "presence definitions";
            let path = "presence/definitions?localeCode=ALL&deactivated=true";
            let page: Page = read_json(name, &self.get(name, Urgency::Patient, token, path).await?)?;
            let language = &self.settings.language;
            Ok(page.entities.iter().filter_map(|entity| definition(entity, language)).collect())
        }
        .boxed_local()
    }
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
