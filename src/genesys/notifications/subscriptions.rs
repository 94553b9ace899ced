//! Subscriptions of a channel: a PUT replaces the whole list, and one topic may spoil it.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::json;

use super::calls::{Entities, Notifications, escaped};
use crate::domain::ids::canonical_guid;
use crate::domain::presence::topics::{agent_of_topic, notification_topic};
use crate::domain::secret::Secret;
use crate::genesys::limiter::Urgency;
use crate::genesys::protocol::{ConnectionSpec, Rejected, UpstreamError};
use crate::genesys::rest::{bad, read_json};
use crate::genesys::values::clean;

/// Requests that the search for topics that spoil a subscription may cost: enough for five of them among a
/// thousand.
const BISECT_CALLS_MAX: u32 = 120;
/// Longest reason and permission that are kept.
const REASON_CHARS_MAX: usize = 500;
const PERMISSION_CHARS_MAX: usize = 200;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TopicAnswer {
    id: String,
    state: Option<String>,
    rejection_reason: Option<String>,
    missing_permissions: Vec<String>,
}

#[derive(Deserialize)]
struct SubscriptionsAnswer {
    entities: Vec<TopicAnswer>,
}

impl Notifications {
    /// The agents that a channel listens to; `None` if there is no such channel.
    pub(super) async fn subscribed_agents(
        &self,
        token: &Secret,
        upstream_id: &str,
    ) -> Result<Option<HashSet<String>>, UpstreamError> {
        let path = format!("notifications/channels/{}/subscriptions", escaped(upstream_id));
        let answer = match self.get("list of subscriptions", Urgency::Urgent, token, &path).await {
            Err(error) if error.status == Some(404) => return Ok(None),
            answer => answer?,
        };
        let listed: SubscriptionsAnswer = read_json("list of subscriptions", &answer)?;
        let agents = listed.entities.iter().filter_map(|topic| agent_of_topic(&topic.id));
        Ok(Some(agents.map(|agent| canonical_guid(agent.to_owned())).collect()))
    }

    /// Makes a channel listen to these agents and no others; gives those that are rejected.
    pub(super) async fn subscribe_to(
        &self,
        token: &Secret,
        upstream_id: &str,
        wanted: &ConnectionSpec,
    ) -> Result<Vec<Rejected>, UpstreamError> {
        let topics: Vec<String> =
            wanted.agents.iter().map(|agent| notification_topic(agent, &wanted.topics)).collect();
        match self.put_topics(token, upstream_id, &topics, true).await {
            // The whole is refused for some of its topics. Too many of them is no fault of any.
            Err(error)
                if error.status == Some(400) && !error.what.contains("too.many") && !topics.is_empty() =>
            {
                self.bisect(token, upstream_id, &topics, error).await
            }
            answer => answer,
        }
    }

    /// Subscribes a channel to topics, instead of its present ones or in addition to them.
    async fn put_topics(
        &self,
        token: &Secret,
        channel: &str,
        topics: &[String],
        replace: bool,
    ) -> Result<Vec<Rejected>, UpstreamError> {
        let url =
            self.url(&format!("notifications/channels/{}/subscriptions?ignoreErrors=true", escaped(channel)));
        let body: Vec<_> = topics.iter().map(|topic| json!({"id": topic})).collect();
        let body =
            serde_json::to_vec(&body).map_err(|_| bad("subscriptions", "request cannot be written"))?;
        let make = || {
            let client = &self.rest.client;
            (if replace { client.put(&url) } else { client.post(&url) }, body.clone())
        };
        let answer = self.ask("subscriptions", Urgency::Urgent, token, make).await?;
        let answer: Entities<TopicAnswer> = read_json("subscriptions", &answer)?;
        Ok(answer.entities.into_iter().filter_map(rejected).collect())
    }

    /// Finds the topics that spoil a subscription by halves, and subscribes to the rest.
    async fn bisect(
        &self,
        token: &Secret,
        channel: &str,
        topics: &[String],
        refusal: UpstreamError,
    ) -> Result<Vec<Rejected>, UpstreamError> {
        let (mut found, mut calls) = (Vec::new(), 0);
        let mut parts = halves(topics);
        while let Some(part) = parts.pop() {
            calls += 1;
            if calls > BISECT_CALLS_MAX {
                // Too many spoil it to find each: the rest stays unmonitored, and is reported as rejected.
                let unsearched = parts.iter().copied().flatten().chain(part);
                found.extend(unsearched.filter_map(|topic| spoils(topic, &refusal)));
                return Ok(found);
            }
            match self.put_topics(token, channel, part, false).await {
                Ok(rejected) => found.extend(rejected),
                Err(error) if error.status == Some(400) && !error.what.contains("too.many") => match part {
                    [topic] => found.extend(spoils(topic, &error)),
                    more => parts.extend(halves(more)),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// A topic that cannot be subscribed to, for this reason.
fn spoils(topic: &str, error: &UpstreamError) -> Option<Rejected> {
    Some(Rejected {
        agent_id: canonical_guid(agent_of_topic(topic)?.to_owned()),
        topic: topic.to_owned(),
        reason: error.what.clone(),
        missing_permissions: Vec::new(),
    })
}

fn rejected(topic: TopicAnswer) -> Option<Rejected> {
    let said = topic.state.as_deref().is_some_and(|state| state.eq_ignore_ascii_case("rejected"));
    let agent = agent_of_topic(&topic.id).filter(|_| said)?;
    Some(Rejected {
        agent_id: canonical_guid(agent.to_owned()),
        reason: topic
            .rejection_reason
            .and_then(|text| clean(&text, REASON_CHARS_MAX))
            .unwrap_or_else(|| "not said".to_owned()),
        missing_permissions: topic
            .missing_permissions
            .iter()
            .filter_map(|text| clean(text, PERMISSION_CHARS_MAX))
            .collect(),
        topic: topic.id,
    })
}

fn halves(topics: &[String]) -> Vec<&[String]> {
    let (first, second) = topics.split_at(topics.len() / 2);
    [second, first].into_iter().filter(|half| !half.is_empty()).collect()
}
