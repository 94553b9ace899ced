//! Channels and what they listen to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use uuid::Uuid;

use super::answers::{Answer, Caller, Refused, json_answer, refuse};
use super::deeds::{Manner, Reach};
use super::state::{Channel, Shared, State};
use crate::clock::rfc3339_ms;

/// Longest name of a topic.
const TOPIC_CHARS_MAX: usize = 200;

/// `POST /api/v2/notifications/channels`
pub(super) fn create(shared: &Arc<Shared>, caller: &Caller) -> Answer {
    let id = format!("streaming-0-{}", Uuid::new_v4().simple());
    let life = shared.change(|state| {
        while state.channels.iter().filter(|one| one.client == caller.client).count()
            >= shared.options.channel_limit
        {
            state.evict(&caller.client);
        }
        state.uses += 1;
        state.tally.channels_made += 1;
        let channel = Channel {
            id: id.clone(),
            client: caller.client.clone(),
            token: caller.token.clone(),
            expires: state.now() + state.channel_life,
            used: state.uses,
            sockets: 0,
            topics: BTreeMap::new(),
            topic_count: 0,
            socket: None,
            lose: 0,
            duplicate: 0,
            delayed: None,
        };
        state.channels.push(channel);
        state.channel_life
    });
    let expires = time::OffsetDateTime::now_utc() + life;
    let uri = format!("{}/channels/{id}", shared.ws_origin);
    Ok(json_answer(StatusCode::OK, &json!({"id": id, "connectUri": uri, "expires": rfc3339_ms(expires)})))
}

impl State {
    /// Ends the least used channel of a client, one without a socket if there is one. Nobody is told.
    fn evict(&mut self, client: &str) {
        let own = self.channels.iter().filter(|one| one.client == client);
        let victim = own.min_by_key(|one| (one.socket.is_some(), one.used)).map(|one| one.id.clone());
        if let Some(victim) = victim {
            self.tally.evictions += 1;
            self.displace(&Reach::Channel(victim), Manner::Silent);
        }
    }

    /// A subscription over the socket: any refusal is a result in words.
    pub(super) fn in_band(
        &mut self,
        channel: &str,
        word: &str,
        topics: &[String],
    ) -> Result<(), &'static str> {
        let client = match self.channels.iter().find(|one| one.id == channel) {
            Some(channel) => channel.client.clone(),
            None => return Err("404"),
        };
        if topics.iter().any(|topic| parts(topic).is_none() || self.sees(&client, topic).is_err()) {
            return Err("400");
        }
        let channel = self.channels.iter_mut().find(|one| one.id == channel).ok_or("404")?;
        for (agent, parts) in topics.iter().filter_map(|topic| parts(topic)) {
            if word == "subscribe" {
                channel.topics.entry(agent).or_default().extend(parts);
            } else {
                channel.topics.remove(&agent);
            }
        }
        channel.topic_count = channel.topics.len();
        Ok(())
    }

    /// Whether a client may see the user of a topic.
    fn sees(&self, client: &str, topic: &str) -> Result<(), Refused> {
        let hidden = self
            .clients
            .get(client)
            .is_some_and(|client| parts(topic).is_some_and(|(agent, _)| client.hidden.contains(&agent)));
        if hidden {
            Err(refuse(StatusCode::FORBIDDEN, "notification.unauthorized.divisioned.topic"))
        } else {
            Ok(())
        }
    }
}

/// Everything below `/api/v2/notifications/channels/{id}`.
pub(super) fn of_channel(
    shared: &Arc<Shared>,
    caller: &Caller,
    method: &Method,
    id: &str,
    subscriptions: bool,
    body: &[u8],
) -> Answer {
    let own = |state: &State| state.channels.iter().any(|one| one.id == id && one.client == caller.client);
    if !shared.read(own) {
        return Err(refuse(StatusCode::NOT_FOUND, "not.found"));
    }
    if !subscriptions {
        return match *method {
            Method::HEAD => Ok(json_answer(StatusCode::OK, &Value::Null)),
            _ => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "method.not.allowed")),
        };
    }
    match *method {
        Method::GET => Ok(list_topics(shared, id)),
        Method::DELETE => {
            shared.change(|state| state.set_topics(id, &[], true));
            Ok(json_answer(StatusCode::OK, &json!({})))
        }
        Method::PUT | Method::POST => subscribe(shared, caller, id, *method == Method::PUT, body),
        _ => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "method.not.allowed")),
    }
}

fn list_topics(shared: &Arc<Shared>, id: &str) -> Response {
    let topics: Vec<Value> = shared.read(|state| {
        let channel = state.channels.iter().find(|one| one.id == id);
        let topics = channel.into_iter().flat_map(|one| one.topics.iter());
        topics
            .flat_map(|(agent, parts)| {
                parts.iter().map(move |part| json!({"id": format!("v2.users.{agent}.{part}")}))
            })
            .collect()
    });
    json_answer(StatusCode::OK, &json!({"entities": topics}))
}

fn subscribe(shared: &Arc<Shared>, caller: &Caller, id: &str, replace: bool, body: &[u8]) -> Answer {
    let wanted: Option<Vec<String>> = serde_json::from_slice::<Vec<Value>>(body).ok().and_then(|topics| {
        topics.iter().map(|topic| topic.get("id").and_then(Value::as_str).map(str::to_owned)).collect()
    });
    let wanted = wanted.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "bad.request"))?;
    let ignore_errors = caller.query("ignoreErrors").is_some_and(|value| value == "true");
    shared.change(|state| {
        // What cannot be a topic spoils the whole, whatever is to be ignored: that is said of permissions
        // alone.
        if wanted.iter().any(|topic| parts(topic).is_none() || state.poisoned.contains(topic)) {
            return Err(refuse(StatusCode::BAD_REQUEST, "notification.invalid.topic"));
        }
        let (allowed, rejected): (Vec<&String>, Vec<&String>) =
            wanted.iter().partition(|topic| state.sees(&caller.client, topic).is_ok());
        if !rejected.is_empty() && !ignore_errors {
            return Err(refuse(StatusCode::FORBIDDEN, "notification.unauthorized.divisioned.topic"));
        }
        let present = state.channels.iter().find(|one| one.id == id).map_or(0, |one| one.topic_count);
        if allowed.len() + if replace { 0 } else { present } > shared.options.topic_limit {
            return Err(refuse(StatusCode::BAD_REQUEST, "notification.subscription.too.many.subscriptions"));
        }
        state.set_topics(id, &allowed, replace);
        let entities: Vec<Value> = wanted
            .iter()
            .map(|topic| {
                if rejected.contains(&topic) {
                    json!({
                        "id": topic, "state": "Rejected",
                        "rejectionReason": "Not authorized for the division of this user",
                        "missingPermissions": ["directory:user:view"],
                    })
                } else {
                    json!({"id": topic, "state": "Permitted", "selfUri": "/api/v2/notifications/topics"})
                }
            })
            .collect();
        Ok(json_answer(StatusCode::OK, &json!({"entities": entities})))
    })
}

impl State {
    fn set_topics(&mut self, id: &str, topics: &[&String], replace: bool) {
        let expires = self.now() + self.channel_life;
        self.uses += 1;
        let used = self.uses;
        let Some(channel) = self.channels.iter_mut().find(|one| one.id == id) else { return };
        if replace {
            channel.topics.clear();
            channel.topic_count = 0;
        }
        for (agent, parts) in topics.iter().filter_map(|topic| parts(topic)) {
            channel.topics.entry(agent).or_default().extend(parts);
        }
        channel.topic_count += topics.len();
        channel.used = used;
        if !topics.is_empty() {
            channel.expires = expires;
        }
    }
}

/// The user of a topic and the parts that it names; `None` if it is no topic that we know.
fn parts(topic: &str) -> Option<(String, BTreeSet<String>)> {
    const PARTS: [&str; 4] = ["activity", "presence", "routingStatus", "outofoffice"];
    let rest = topic.strip_prefix("v2.users.").filter(|_| topic.chars().count() <= TOPIC_CHARS_MAX)?;
    let (agent, parts): (&str, Vec<&str>) = match rest.split_once('?') {
        Some((agent, parts)) => (agent, parts.split('&').collect()),
        None => rest.rsplit_once('.').map(|(agent, part)| (agent, vec![part]))?,
    };
    let known = !agent.is_empty() && !parts.is_empty() && parts.iter().all(|part| PARTS.contains(part));
    known.then(|| (agent.to_owned(), parts.into_iter().map(str::to_owned).collect()))
}
