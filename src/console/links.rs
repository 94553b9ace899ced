//! Addresses of things, so that pages lead to each other.

use url::form_urlencoded;

use super::ROOT;
use crate::domain::ids::{
    AgentId, ApiKeyId, ConnectionId, DeliveryId, EventId, ExaminationId, RecoveryId, SourceId,
    VerificationId, WebhookId,
};

/// An agent's page; the source tells agents of the same id apart.
pub fn agent(agent: &AgentId, source: Option<SourceId>) -> String {
    let id = segment(&agent.0);
    match source {
        Some(source) => format!("{ROOT}/agents/{id}?source={source}"),
        None => format!("{ROOT}/agents/{id}"),
    }
}

/// A webhook's page.
pub fn webhook(id: WebhookId) -> String {
    format!("{ROOT}/webhooks/{id}")
}

/// A source's page.
pub fn source(id: SourceId) -> String {
    format!("{ROOT}/sources/{id}")
}

/// The page of one change of presence.
pub fn event(id: EventId) -> String {
    format!("{ROOT}/events/{id}")
}

/// The page of one delivery.
pub fn delivery(id: DeliveryId) -> String {
    format!("{ROOT}/deliveries/{id}")
}

/// The page of one request to deliver again.
pub fn recovery(id: RecoveryId) -> String {
    format!("{ROOT}/recoveries/{id}")
}

/// The page of one connection to Genesys.
pub fn connection(id: ConnectionId) -> String {
    format!("{ROOT}/connections/{id}")
}

/// The page of an examination of a source's settings.
pub fn examination(id: ExaminationId) -> String {
    format!("{ROOT}/sources/examinations/{id}")
}

/// The page of one entry of the audit log.
pub fn audit_entry(id: i64) -> String {
    format!("{ROOT}/audit/{id}")
}

/// The page of one check of the audit log.
pub fn verification(id: VerificationId) -> String {
    format!("{ROOT}/audit/verifications/{id}")
}

/// The page of one API key.
pub fn api_key(id: ApiKeyId) -> String {
    format!("{ROOT}/keys/{id}")
}

/// Why a webhook got an event, or did not.
pub fn explain(event: EventId, webhook: WebhookId) -> String {
    format!("{ROOT}/explain?event={event}&webhook={webhook}")
}

/// A page with a query of these names and values.
pub fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    format!("{ROOT}{path}?{}", query.finish())
}

/// Text as one segment of a path. The bytes of a form are the same but for the blank.
fn segment(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_id_stays_one_segment_whatever_is_in_it() {
        let id = AgentId("a/b c+d?e#f%".to_owned());
        assert_eq!(agent(&id, None), "/console/agents/a%2Fb%20c%2Bd%3Fe%23f%25");
    }
}
