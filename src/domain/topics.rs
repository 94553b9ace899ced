//! What a connection listens to: the topic matrix made flat.

use serde_json::Value;

/// Topics that a connection of protocol `realtime` may name.
pub const REALTIME_TOPICS: [&str; 3] =
    ["routing:agent:state", "routing:agent:state:history", "routing:agent:state:queue"];

/// Topics that upstream allows on one connection of protocol `realtime`.
pub const REALTIME_TOPICS_MAX: usize = 100;

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

/// Flattens the matrix, drops duplicates in order, then counts, then holds each topic against what is offered.
/// Counting before dropping would refuse a hundred and one copies of one topic.
///
/// # Errors
/// The first rule that is broken; of topics not offered, all.
pub fn flatten(matrix: &Value) -> Result<Vec<String>, TopicsError> {
    let topics = flat(matrix)?;
    if topics.len() > REALTIME_TOPICS_MAX {
        return Err(TopicsError::TooMany(topics.len()));
    }
    let not_offered: Vec<_> =
        topics.iter().filter(|topic| !REALTIME_TOPICS.contains(&topic.as_str())).cloned().collect();
    if not_offered.is_empty() { Ok(topics) } else { Err(TopicsError::NotOffered(not_offered)) }
}

/// One list without duplicates, in order.
fn flat(matrix: &Value) -> Result<Vec<String>, TopicsError> {
    let Value::Object(lists) = matrix else {
        return Err(TopicsError::NotLists);
    };
    let mut topics = Vec::new();
    for list in lists.values() {
        collect(list, &mut topics)?;
    }
    let mut seen = std::collections::HashSet::new();
    topics.retain(|topic| seen.insert(topic.clone()));
    if topics.is_empty() { Err(TopicsError::Empty) } else { Ok(topics) }
}

/// Parts of an agent's state that protocol `notifications` tells by topics of their own; `activity` has them all.
pub const NOTIFICATION_PARTS: [&str; 3] = ["presence", "routingStatus", "outofoffice"];

/// The topic matrix that protocol `notifications` begins with.
#[must_use]
pub fn all_parts() -> Value {
    serde_json::json!({"topics": ["activity"]})
}

/// Reads a topic matrix of protocol `notifications`: `activity` alone, or some of the parts, which then make one topic.
/// Both would tell everything twice.
///
/// # Errors
/// The first rule that is broken; of topics not offered, all.
pub fn notification_parts(matrix: &Value) -> Result<Vec<String>, TopicsError> {
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

    #[test]
    fn lists_become_one_list_without_duplicates_in_order() {
        let matrix = json!({
            "a": ["routing:agent:state:queue", "routing:agent:state"],
            "b": [["routing:agent:state"], "routing:agent:state:history"],
        });
        let expected = ["routing:agent:state:queue", "routing:agent:state", "routing:agent:state:history"];
        assert_eq!(flatten(&matrix), Ok(expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_hundred_and_one_copies_are_one_topic() {
        let matrix = json!({ "a": vec!["routing:agent:state"; 101] });
        assert_eq!(flatten(&matrix), Ok(vec!["routing:agent:state".to_owned()]));
    }

    #[test]
    fn an_agents_topic_is_activity_one_part_or_several_combined() {
        let parts = |list: Value| notification_parts(&json!({ "a": list }));
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
        assert_eq!(flatten(&json!({})), Err(TopicsError::Empty));
        assert_eq!(flatten(&json!({"a": []})), Err(TopicsError::Empty));
        assert_eq!(flatten(&json!(["routing:agent:state"])), Err(TopicsError::NotLists));
        assert_eq!(flatten(&json!({"a": [1]})), Err(TopicsError::NotLists));
        let many: Vec<_> = (0..101).map(|n| format!("t{n}")).collect();
        assert_eq!(flatten(&json!({ "a": many })), Err(TopicsError::TooMany(101)));
        let refused = flatten(&json!({"a": ["x", "routing:agent:state", "y"]}));
        assert_eq!(refused, Err(TopicsError::NotOffered(vec!["x".to_owned(), "y".to_owned()])));
    }
}
