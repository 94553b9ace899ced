//! Reads the frames of protocol `notifications`. Pure.
//!
//! Every frame has a topic: `channel.metadata` for signs of life, `v2.system.…` about the channel itself,
//! `v2.users.{id}.…` for agents. A part that is missing or cannot be read is left out of the update.

use serde_json::{Map, Value};

use crate::domain::ids::canonical_guid;
use crate::domain::presence::agent_state::{AgentState, Part, PresencePart, Timed};
use crate::domain::presence::canonical_presence;
use crate::domain::presence::connection::{GapCause, MalformedReason};
use crate::domain::presence::topics::agent_of_topic;
use crate::genesys::protocol::{Frame, UnreadableTime, Update};
use crate::genesys::values::{clean, read_json, read_time};

/// Text that asks for a pong.
pub const PING: &str = r#"{"message":"ping"}"#;

const TOPIC_CHARS_MAX: usize = 200;
const ID_CHARS_MAX: usize = 100;
const MESSAGE_CHARS_MAX: usize = 500;
const STATUS_CHARS_MAX: usize = 50;
const QUEUES_MAX: usize = 500;
/// Longest time that cannot be read of which all is kept.
const TIME_CHARS_MAX: usize = 50;

/// Reads one text message.
#[must_use]
pub fn read(text: &str) -> Frame {
    let frame = match read_json(text) {
        Ok(Value::Object(frame)) => frame,
        Ok(_) => return Frame::Malformed { reason: MalformedReason::NotAnObject },
        Err(_) => return Frame::Malformed { reason: MalformedReason::NotJson },
    };
    let Some(topic) = frame.get("topicName").and_then(Value::as_str) else {
        // An answer to a message of ours; the only one that matters says that the channel is gone.
        return match frame.get("result").and_then(Value::as_str) {
            Some("404") => Frame::Dead { cause: GapCause::ChannelGone },
            Some(_) => Frame::Malformed { reason: MalformedReason::UnexpectedAnswer },
            None => Frame::Malformed { reason: MalformedReason::NoTopic },
        };
    };
    if let Some(system) = topic.strip_prefix("v2.system.") {
        return system_frame(system);
    }
    if topic == "channel.metadata" {
        let message = frame.get("eventBody").and_then(|body| body.get("message")).and_then(Value::as_str);
        return if message == Some("pong") { Frame::Pong } else { Frame::Heartbeat };
    }
    match (agent_of_topic(topic), frame.get("eventBody").and_then(Value::as_object)) {
        (None, _) => Frame::Malformed { reason: MalformedReason::UnknownTopic },
        (_, None) => Frame::Malformed { reason: MalformedReason::NoEventBody },
        (Some(agent), Some(body)) => agent_frame(topic, agent, body),
    }
}

/// The platform documents no body for these, so the topic's name alone counts.
fn system_frame(name: &str) -> Frame {
    if name.starts_with("socket_closing") {
        Frame::Closing
    } else if name.starts_with("no_longer_subscribed") {
        Frame::Dead { cause: GapCause::Displaced }
    } else if name.starts_with("token_revoked") {
        Frame::Dead { cause: GapCause::TokenRevoked }
    } else if name.starts_with("subscription_changed") {
        // The echo of our own change.
        Frame::Heartbeat
    } else {
        Frame::Malformed { reason: MalformedReason::UnknownSystemTopic }
    }
}

fn agent_frame(topic: &str, agent: &str, body: &Map<String, Value>) -> Frame {
    let kind = topic.rsplit('.').next().unwrap_or_default();
    let (state, part) = match kind {
        "activity" => (activity(body), None),
        "presence" => {
            (AgentState { presence: presence(body), ..AgentState::default() }, Some(Part::Presence))
        }
        "routingStatus" => (AgentState { routing: routing_of(body), ..AgentState::default() }, None),
        "outofoffice" => {
            let out_of_office = out_of_office(body);
            (AgentState { out_of_office, ..AgentState::default() }, Some(Part::OutOfOffice))
        }
        _ => return Frame::Malformed { reason: MalformedReason::UnknownTopic },
    };
    if state == AgentState::default() {
        // Of a Teams or Zoom account, for instance: whole, and not the agent's presence.
        let is_secondary = is_secondary(body) || body.get("presence").is_some_and(is_secondary_value);
        return if is_secondary {
            Frame::Heartbeat
        } else {
            Frame::Malformed { reason: MalformedReason::NothingTold }
        };
    }
    let Some(agent_id) = clean(agent, ID_CHARS_MAX) else {
        return Frame::Malformed { reason: MalformedReason::UnknownTopic };
    };
    let presence = state.presence.as_ref();
    Frame::Update(Box::new(Update {
        agent_id: Some(canonical_guid(agent_id)),
        topic: clean(topic, TOPIC_CHARS_MAX),
        presence: presence.and_then(|presence| presence.value.system.clone()),
        occurred_at: presence.and_then(|presence| presence.at),
        unreadable_times: unreadable_times(body, part),
        state: Some(state),
    }))
}

/// Whether a presence is expressly not the one that counts for the agent.
fn is_secondary(body: &Map<String, Value>) -> bool {
    body.get("primary") == Some(&Value::Bool(false))
}

fn is_secondary_value(body: &Value) -> bool {
    body.as_object().is_some_and(is_secondary)
}

/// Times of an object of a user that are given and cannot be read. `own` is the part that `modifiedDate` of
/// the object itself belongs to.
pub(super) fn unreadable_times(body: &Map<String, Value>, own: Option<Part>) -> Vec<UnreadableTime> {
    let inside = |name: &str, field: &str| body.get(name).and_then(|part| part.get(field));
    let times = [
        (Some(Part::Presence), inside("presence", "modifiedDate")),
        (Some(Part::RoutingStatus), inside("routingStatus", "startTime")),
        (Some(Part::OutOfOffice), inside("outOfOffice", "modifiedDate")),
        (Some(Part::ActiveQueues), body.get("dateActiveQueuesChanged")),
        (own, body.get("modifiedDate")),
    ];
    let unreadable = times.into_iter().filter_map(|(part, time)| {
        let time = time.filter(|time| !time.is_null() && read_time(time).is_none())?;
        let text = time.as_str().map_or_else(|| time.to_string(), str::to_owned);
        Some(UnreadableTime { part: part?, text: clean(&text, TIME_CHARS_MAX).unwrap_or_default() })
    });
    unreadable.collect()
}

/// All parts that an object of a user may hold: the body of an activity, or a user as REST answers with it.
pub(super) fn activity(body: &Map<String, Value>) -> AgentState {
    let object = |name: &str| body.get(name).and_then(Value::as_object);
    AgentState {
        presence: object("presence").filter(|_| !is_secondary(body)).and_then(presence),
        routing: routing_of(body),
        out_of_office: object("outOfOffice").and_then(out_of_office),
        queues: queues(body),
    }
}

/// A presence: its definition, and since when; `None` for one that is not the agent's primary presence.
pub(super) fn presence(body: &Map<String, Value>) -> Option<Timed<PresencePart>> {
    if is_secondary(body) {
        return None;
    }
    let definition = body.get("presenceDefinition").and_then(Value::as_object)?;
    let text =
        |value: Option<&Value>, chars| value.and_then(Value::as_str).and_then(|text| clean(text, chars));
    let value = PresencePart {
        system: definition.get("systemPresence").and_then(Value::as_str).and_then(canonical_presence),
        definition_id: text(definition.get("id"), ID_CHARS_MAX),
        label: None,
        message: text(body.get("presenceMessage").or_else(|| body.get("message")), MESSAGE_CHARS_MAX),
    };
    let readable = value.system.is_some() || value.definition_id.is_some();
    readable.then(|| Timed::new(value, body.get("modifiedDate").and_then(read_time)))
}

fn routing_of(body: &Map<String, Value>) -> Option<Timed<String>> {
    let routing = body.get("routingStatus").and_then(Value::as_object)?;
    let status = clean(routing.get("status").and_then(Value::as_str)?, STATUS_CHARS_MAX)?;
    Some(Timed::new(status.to_ascii_uppercase(), routing.get("startTime").and_then(read_time)))
}

fn out_of_office(body: &Map<String, Value>) -> Option<Timed<bool>> {
    let active = body.get("active").and_then(Value::as_bool)?;
    Some(Timed::new(active, body.get("modifiedDate").and_then(read_time)))
}

fn queues(body: &Map<String, Value>) -> Option<Timed<Vec<String>>> {
    let ids = body.get("activeQueueIds").and_then(Value::as_array)?;
    let ids = ids.iter().filter_map(|id| clean(id.as_str()?, ID_CHARS_MAX)).take(QUEUES_MAX).collect();
    Some(Timed::new(ids, body.get("dateActiveQueuesChanged").and_then(read_time)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn update_of(text: &str) -> Update {
        match read(text) {
            Frame::Update(update) => *update,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_activity_tells_all_four_parts() {
        let update = update_of(
            r#"{"topicName":"v2.users.u-1.activity","version":"2","eventBody":{"id":"u-1",
                "routingStatus":{"status":"IDLE","startTime":"2026-11-24T09:00:01Z"},
                "presence":{"presenceDefinition":{"id":"d-1","systemPresence":"ON_QUEUE"},
                            "presenceMessage":"hi\u0000","modifiedDate":"2026-11-24T09:00:00Z"},
                "outOfOffice":{"active":false,"modifiedDate":"2026-11-24T08:00:00Z"},
                "activeQueueIds":["q-1","q-2"],"dateActiveQueuesChanged":"2026-11-24T08:30:00Z"},
              "metadata":{"CorrelationId":"c"}}"#,
        );
        assert_eq!(update.agent_id.as_deref(), Some("u-1"));
        assert_eq!(update.presence.as_deref(), Some("ON_QUEUE"));
        assert_eq!(update.occurred_at, Some(datetime!(2026-11-24 09:00 UTC)));
        let state = update.state.unwrap();
        let presence = state.presence.clone().unwrap().value;
        assert_eq!(
            (presence.definition_id.as_deref(), presence.message.as_deref()),
            (Some("d-1"), Some("hi"))
        );
        assert_eq!(state.routing.unwrap().value, "IDLE");
        assert!(!state.out_of_office.unwrap().value);
        assert_eq!(state.queues.unwrap().value, ["q-1", "q-2"]);
    }

    #[test]
    fn a_topic_of_its_own_tells_its_part() {
        let presence = update_of(
            r#"{"topicName":"v2.users.u.presence","eventBody":{"source":"PURECLOUD","message":"lunch",
                "presenceDefinition":{"id":"d","systemPresence":"On Queue"}}}"#,
        );
        let part = presence.state.unwrap().presence.unwrap();
        assert_eq!((part.value.system.as_deref(), part.at), (Some("ON_QUEUE"), None));
        assert_eq!(part.value.message.as_deref(), Some("lunch"));
        let routing = update_of(
            r#"{"topicName":"v2.users.u.routingStatus","eventBody":{"id":"u","routingStatus":{"status":"INTERACTING"}}}"#,
        );
        assert_eq!(routing.state.unwrap().routing.unwrap().value, "INTERACTING");
        let out = update_of(
            r#"{"topicName":"v2.users.u.outofoffice","eventBody":{"user":{"id":"u"},"active":true,"indefinite":false}}"#,
        );
        assert!(out.state.unwrap().out_of_office.unwrap().value);
    }

    #[test]
    fn news_of_the_channel_are_told_from_news_of_agents() {
        let metadata = |message: &str| {
            read(&format!(r#"{{"topicName":"channel.metadata","eventBody":{{"message":"{message}"}}}}"#))
        };
        assert_eq!(metadata("WebSocket Heartbeat"), Frame::Heartbeat);
        assert_eq!(metadata("pong"), Frame::Pong);
        let system = |name: &str| read(&format!(r#"{{"topicName":"v2.system.{name}","eventBody":{{}}}}"#));
        assert_eq!(system("socket_closing"), Frame::Closing);
        assert_eq!(system("no_longer_subscribed.c-1"), Frame::Dead { cause: GapCause::Displaced });
        assert_eq!(system("token_revoked.c-1"), Frame::Dead { cause: GapCause::TokenRevoked });
        assert_eq!(system("news"), Frame::Malformed { reason: MalformedReason::UnknownSystemTopic });
        assert_eq!(read(r#"{"result":"404","message":"x"}"#), Frame::Dead { cause: GapCause::ChannelGone });
    }

    #[test]
    fn a_state_is_read_whatever_stands_beside_it() {
        let update = update_of(
            r#"{"topicName":"v2.users.u.presence","eventBody":{"message":"off \ud83d","n":1e400,
                "presenceDefinition":{"id":"d","systemPresence":"AWAY"}}}"#,
        );
        let part = update.state.unwrap().presence.unwrap().value;
        assert_eq!((part.system.as_deref(), part.message.as_deref()), (Some("AWAY"), Some("off \u{fffd}")));
    }

    #[test]
    fn frames_without_content_are_malformed() {
        for (text, reason) in [
            ("[]", "not_an_object"),
            ("hello", "not_json"),
            ("{}", "no_topic"),
            (r#"{"result":"400"}"#, "unexpected_answer"),
            (r#"{"topicName":"v2.users.u.activity"}"#, "no_event_body"),
            (r#"{"topicName":"v2.users.u.activity","eventBody":{}}"#, "nothing_told"),
            (
                r#"{"topicName":"v2.users.u.activity","eventBody":{"presence":{"presenceDefinition":{}}}}"#,
                "nothing_told",
            ),
            (r#"{"topicName":"v2.users.u.station","eventBody":{}}"#, "unknown_topic"),
            (r#"{"topicName":"v2.routing.queues.q.users","eventBody":{}}"#, "unknown_topic"),
        ] {
            assert_eq!(
                read(text),
                Frame::Malformed { reason: MalformedReason::from_name(reason).unwrap() },
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_fail(text in "\\PC{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn no_body_makes_the_reader_fail(name in "[a-zA-Z]{0,12}", value in "[\\[\\]{}0-9\",:a-z]{0,40}") {
            let _ = read(&format!(r#"{{"topicName":"v2.users.u.activity","eventBody":{{"{name}":{value}}}}}"#));
        }
    }
}
