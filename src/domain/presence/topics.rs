//! Topics of a connection: reads the topic matrix and flattens it.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// Topics that a connection of protocol `realtime` may name.
pub const REALTIME_TOPICS: [&str; 3] =
    ["routing:agent:state", "routing:agent:state:history", "routing:agent:state:queue"];

/// Topics that upstream allows on one connection of protocol `realtime`.
pub const REALTIME_TOPICS_MAX: usize = 100;

/// Topic lists by group, in the order of whoever wrote them, which an object of `serde_json` would not keep.
/// Shown as the JSON text that it is stored as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicMatrix(Vec<(String, Value)>);

impl TopicMatrix {
    /// One list under one name.
    #[must_use]
    pub fn of(group: &str, topics: &[&str]) -> Self {
        Self(vec![(group.to_owned(), Value::from(topics))])
    }

    /// Whether it has no group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for TopicMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (place, (group, lists)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}:{lists}", Value::from(group.as_str()))?;
        }
        f.write_str("}")
    }
}

impl Serialize for TopicMatrix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(group, lists)| (group, lists)))
    }
}

impl<'de> Deserialize<'de> for TopicMatrix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Groups;
        impl<'de> Visitor<'de> for Groups {
            type Value = TopicMatrix;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of topic lists")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut groups: A) -> Result<TopicMatrix, A::Error> {
                let (mut all, mut names) = (Vec::new(), HashSet::new());
                while let Some((group, lists)) = groups.next_entry::<String, Value>()? {
                    if !names.insert(group.clone()) {
                        return Err(Error::custom("a group stands there twice"));
                    }
                    all.push((group, lists));
                }
                Ok(TopicMatrix(all))
            }
        }
        deserializer.deserialize_map(Groups)
    }
}

/// Why a topic matrix cannot be used. Texts are worded to follow the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicsError {
    /// Not an object of topics, lists of topics, or lists of such.
    #[error("is not an object of topic lists")]
    NotLists,
    /// Nothing to listen to.
    #[error("has no topics")]
    Empty,
    /// More than upstream allows, counted without duplicates.
    #[error("has {0} topics, at most {REALTIME_TOPICS_MAX} are allowed")]
    TooMany(usize),
    /// Topics that upstream does not offer.
    #[error("has topics that are not offered: {}", .0.join(", "))]
    NotOffered(Vec<String>),
}

/// Flattens the matrix, drops duplicates in order, then counts, then holds each topic against what is
/// offered. Counting before dropping would refuse a hundred and one copies of one topic.
///
/// # Errors
/// The first rule that is broken; of topics not offered, all.
pub fn flatten(matrix: &TopicMatrix) -> Result<Vec<String>, TopicsError> {
    let topics = flat(matrix)?;
    if topics.len() > REALTIME_TOPICS_MAX {
        return Err(TopicsError::TooMany(topics.len()));
    }
    let not_offered: Vec<_> =
        topics.iter().filter(|topic| !REALTIME_TOPICS.contains(&topic.as_str())).cloned().collect();
    if not_offered.is_empty() { Ok(topics) } else { Err(TopicsError::NotOffered(not_offered)) }
}

/// One list without duplicates, in order.
fn flat(matrix: &TopicMatrix) -> Result<Vec<String>, TopicsError> {
    let mut topics = Vec::new();
    for (_, list) in &matrix.0 {
        collect(list, &mut topics)?;
    }
    let mut seen = HashSet::new();
    topics.retain(|topic| seen.insert(topic.clone()));
    if topics.is_empty() { Err(TopicsError::Empty) } else { Ok(topics) }
}

/// Parts of an agent's state with topics of their own in protocol `notifications`; `activity` has them all.
pub const NOTIFICATION_PARTS: [&str; 3] = ["presence", "routingStatus", "outofoffice"];

/// The topic matrix that protocol `notifications` begins with.
#[must_use]
pub fn all_parts() -> TopicMatrix {
    TopicMatrix::of("topics", &["activity"])
}

/// Reads a topic matrix of protocol `notifications`: `activity` alone, or some of the parts, which then make
/// one topic. Both would report everything twice.
///
/// # Errors
/// The first rule that is broken; of topics not offered, all.
pub fn notification_parts(matrix: &TopicMatrix) -> Result<Vec<String>, TopicsError> {
    let parts = flat(matrix)?;
    if parts == ["activity"] {
        return Ok(parts);
    }
    let not_offered: Vec<_> =
        parts.iter().filter(|part| !NOTIFICATION_PARTS.contains(&part.as_str())).cloned().collect();
    if not_offered.is_empty() { Ok(parts) } else { Err(TopicsError::NotOffered(not_offered)) }
}

/// The topic of one agent in protocol `notifications`.
#[must_use]
pub fn notification_topic(agent: &str, parts: &[String]) -> String {
    match parts {
        [] => format!("v2.users.{agent}.activity"),
        [only] => format!("v2.users.{agent}.{only}"),
        several => format!("v2.users.{agent}?{}", several.join("&")),
    }
}

/// The agent that a topic of protocol `notifications` is about.
#[must_use]
pub fn agent_of_topic(topic: &str) -> Option<&str> {
    let rest = topic.strip_prefix("v2.users.")?;
    let end = rest.find(['.', '?'])?;
    rest.get(..end).filter(|agent| !agent.is_empty())
}

fn collect(value: &Value, into: &mut Vec<String>) -> Result<(), TopicsError> {
    match value {
        Value::String(topic) => into.push(topic.trim().to_owned()),
        Value::Array(items) => {
            for item in items {
                collect(item, into)?;
            }
        }
        _ => return Err(TopicsError::NotLists),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flatten(matrix: Value) -> Result<Vec<String>, TopicsError> {
        super::flatten(&serde_json::from_value(matrix).unwrap())
    }

    #[test]
    fn lists_become_one_list_without_duplicates_in_order() {
        let matrix = json!({
            "a": ["routing:agent:state:queue", "routing:agent:state"],
            "b": [["routing:agent:state"], "routing:agent:state:history"],
        });
        let expected = ["routing:agent:state:queue", "routing:agent:state", "routing:agent:state:history"];
        assert_eq!(flatten(matrix), Ok(expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn groups_keep_the_order_in_which_they_were_written() {
        let text = r#"{"z":["routing:agent:state:queue"],"a\"b":["routing:agent:state"],"é":[["routing:agent:state:history"]]}"#;
        let matrix: TopicMatrix = serde_json::from_str(text).unwrap();
        assert_eq!(
            (matrix.to_string().as_str(), serde_json::to_string(&matrix).unwrap().as_str()),
            (text, text)
        );
        let expected = ["routing:agent:state:queue", "routing:agent:state", "routing:agent:state:history"];
        assert_eq!(super::flatten(&matrix), Ok(expected.map(str::to_owned).to_vec()));
        for wrong in [r#"{"a":[],"a":[]}"#, "[]", "1"] {
            assert!(serde_json::from_str::<TopicMatrix>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hundred_and_one_copies_are_one_topic() {
        let matrix = json!({ "a": vec!["routing:agent:state"; 101] });
        assert_eq!(flatten(matrix), Ok(vec!["routing:agent:state".to_owned()]));
    }

    #[test]
    fn an_agents_topic_is_activity_one_part_or_several_combined() {
        let parts = |list: Value| notification_parts(&serde_json::from_value(json!({ "a": list })).unwrap());
        let topic = |list: Value| notification_topic("u-1", &parts(list).unwrap());
        assert_eq!(topic(json!(["activity"])), "v2.users.u-1.activity");
        assert_eq!(topic(json!(["presence"])), "v2.users.u-1.presence");
        assert_eq!(topic(json!(["presence", "routingStatus"])), "v2.users.u-1?presence&routingStatus");
        let both = parts(json!(["activity", "presence"]));
        assert_eq!(both, Err(TopicsError::NotOffered(vec!["activity".to_owned()])));
        for topic in ["v2.users.u-1.activity", "v2.users.u-1?presence&routingStatus"] {
            assert_eq!(agent_of_topic(topic), Some("u-1"));
        }
        for topic in ["v2.users..activity", "v2.users.u-1", "v2.routing.queues.q.users", ""] {
            assert_eq!(agent_of_topic(topic), None, "{topic}");
        }
    }

    #[test]
    fn nothing_too_much_and_the_unknown_are_refused() {
        assert_eq!(flatten(json!({})), Err(TopicsError::Empty));
        assert_eq!(flatten(json!({"a": []})), Err(TopicsError::Empty));
        assert_eq!(flatten(json!({"a": [1]})), Err(TopicsError::NotLists));
        let many: Vec<_> = (0..101).map(|n| format!("t{n}")).collect();
        assert_eq!(flatten(json!({ "a": many })), Err(TopicsError::TooMany(101)));
        let refused = flatten(json!({"a": ["x", "routing:agent:state", "y"]}));
        assert_eq!(refused, Err(TopicsError::NotOffered(vec!["x".to_owned(), "y".to_owned()])));
    }
}
