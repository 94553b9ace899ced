//! Users as REST answers with them: rosters, and present states. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::wire::{activity, presence, unreadable_times};
use crate::domain::ids::canonical_guid;
use crate::domain::presence::agent_state::{AgentState, Part};
use crate::domain::presence::canonical_presence;
use crate::genesys::protocol::{Definition, Person, Snapshot};
use crate::genesys::values::{clean, read_json};

const ID_CHARS_MAX: usize = 100;
const NAME_CHARS_MAX: usize = 200;
/// Longest raw text of one user that is kept; a longer one is replaced by null.
const RAW_BYTES_MAX: usize = 64 * 1024;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Page {
    pub(super) entities: Vec<Box<RawValue>>,
    pub(super) page_count: Option<u32>,
}

fn object(raw: &RawValue) -> Option<Map<String, Value>> {
    match read_json(raw.get()) {
        Ok(Value::Object(entity)) => Some(entity),
        _ => None,
    }
}

/// A user of a roster: plain, or inside the membership of a queue.
pub(super) fn person(raw: &RawValue) -> Option<Person> {
    let entity = object(raw)?;
    let user = entity.get("user").and_then(Value::as_object).unwrap_or(&entity);
    person_of(user).or_else(|| person_of(&entity))
}

fn person_of(user: &Map<String, Value>) -> Option<Person> {
    let text = |name: &str, chars| user.get(name).and_then(Value::as_str).and_then(|text| clean(text, chars));
    Some(Person {
        agent_id: canonical_guid(text("id", ID_CHARS_MAX)?),
        name: text("name", NAME_CHARS_MAX),
        email: text("email", NAME_CHARS_MAX),
    })
}

/// A user with the parts that were asked for.
pub(super) fn snapshot(raw: &RawValue) -> Option<Snapshot> {
    let entity = object(raw)?;
    Some(Snapshot {
        person: person_of(&entity)?,
        state: activity(&entity),
        unreadable_times: unreadable_times(&entity, None),
        raw: kept(raw),
    })
}

/// A presence of the bulk answer, as a snapshot that holds nothing else.
pub(super) fn bulk_presence(raw: &RawValue) -> Option<Snapshot> {
    let entity = object(raw)?;
    let user = clean(entity.get("userId").and_then(Value::as_str)?, ID_CHARS_MAX)?;
    let presence = Some(presence(&entity)?);
    Some(Snapshot {
        person: Person { agent_id: canonical_guid(user), ..Person::default() },
        state: AgentState { presence, ..AgentState::default() },
        unreadable_times: unreadable_times(&entity, Some(Part::Presence)),
        raw: kept(raw),
    })
}

fn kept(raw: &RawValue) -> String {
    if raw.get().len() <= RAW_BYTES_MAX { raw.get().to_owned() } else { "null".to_owned() }
}

/// A presence definition in this language, else in English, else in any.
pub(super) fn definition(raw: &RawValue, language: &str) -> Option<Definition> {
    let entity = object(raw)?;
    let text = |value: &Value| value.as_str().and_then(|text| clean(text, NAME_CHARS_MAX));
    let labels = entity.get("languageLabels").and_then(Value::as_object);
    let label = labels.and_then(|labels| {
        // "en_US", "en-us" and "en" mean one language to those who write them.
        let named = |wanted: &str| labels.iter().find(|(name, _)| same_language(name, wanted));
        let short = language.split(['_', '-']).next().unwrap_or(language);
        let found =
            named(language).or_else(|| named(short)).or_else(|| named("en_US")).or_else(|| named("en"));
        text(found.or_else(|| labels.iter().next())?.1)
    });
    Some(Definition {
        id: text(entity.get("id")?)?,
        system: entity.get("systemPresence").and_then(Value::as_str).and_then(canonical_presence),
        label,
    })
}

fn same_language(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes().zip(b.bytes()).all(|(a, b)| {
            let plain = |c: u8| if c == b'-' { b'_' } else { c.to_ascii_lowercase() };
            plain(a) == plain(b)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_member_is_found_plain_and_inside_a_membership() {
        let plain = person(&raw(r#"{"id":"u","name":"Ann","email":"ann@example.com"}"#)).unwrap();
        let member = person(&raw(
            r#"{"id":"u","joined":true,"user":{"id":"u","name":"Ann","email":"ann@example.com"}}"#,
        ));
        assert_eq!(member, Some(plain));
        let bare = person(&raw(r#"{"id":"u","user":{"selfUri":"/x"}}"#)).unwrap();
        assert_eq!(bare.agent_id, "u");
        assert_eq!(person(&raw(r#"{"name":"nobody"}"#)), None);
    }

    #[test]
    fn a_user_without_parts_tells_nothing_and_its_bytes_are_kept() {
        let text = r#"{"id":"u", "name":"Ann","routingStatus":{"status":"IDLE"}}"#;
        let snapshot = snapshot(&raw(text)).unwrap();
        assert_eq!(snapshot.raw, text);
        assert!(snapshot.state.presence.is_none() && snapshot.state.routing.is_some());
    }

    #[test]
    fn a_user_with_half_an_emoji_in_the_name_is_not_lost() {
        let found = person(&raw(r#"{"id":"u","name":"Ann \ud83d"}"#)).unwrap();
        assert_eq!((found.agent_id.as_str(), found.name.as_deref()), ("u", Some("Ann \u{fffd}")));
    }

    #[test]
    fn a_label_is_in_the_chosen_language_or_the_next_best() {
        let text = r#"{"id":"d","systemPresence":"OnQueue","languageLabels":{"de":"Pause","en_US":"Break"}}"#;
        for (language, label) in [("de_DE", "Pause"), ("en-us", "Break"), ("fr", "Break")] {
            let definition = definition(&raw(text), language).unwrap();
            assert_eq!(
                (definition.label.as_deref(), definition.system.as_deref()),
                (Some(label), Some("ON_QUEUE"))
            );
        }
        assert_eq!(definition(&raw(r#"{"id":"d"}"#), "de").unwrap().label, None);
    }
}
