//! The truth about the users, and how the platform writes it down: each place spells a presence in its own
//! way.

use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::clock::rfc3339_ms;

/// System presences: as events write them, as definitions do, as users do.
const SYSTEM: [(&str, &str, &str); 10] = [
    ("AVAILABLE", "Available", "Available"),
    ("AWAY", "Away", "Away"),
    ("BREAK", "Break", "Break"),
    ("BUSY", "Busy", "Busy"),
    ("IDLE", "Idle", "Idle"),
    ("MEAL", "Meal", "Meal"),
    ("MEETING", "Meeting", "Meeting"),
    ("OFFLINE", "Offline", "Offline"),
    ("ON_QUEUE", "OnQueue", "On Queue"),
    ("TRAINING", "Training", "Training"),
];

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Definition {
    pub id: String,
    /// System presence as events write it.
    pub system: String,
    /// Language to label.
    pub labels: Vec<(String, String)>,
    pub custom: bool,
}

impl Definition {
    /// Those that every organisation has.
    pub(super) fn system() -> Vec<Self> {
        let define = |(number, (system, label, _)): (usize, &(&str, &str, &str))| Self {
            id: format!("00000000-0000-4000-8000-{number:012}"),
            system: (*system).to_owned(),
            labels: vec![
                ("en_US".to_owned(), (*label).to_owned()),
                ("de".to_owned(), format!("{label} (de)")),
            ],
            custom: false,
        };
        SYSTEM.iter().enumerate().map(define).collect()
    }

    pub(super) fn json(&self) -> Value {
        let labels: Map<String, Value> =
            self.labels.iter().map(|(language, label)| (language.clone(), label.clone().into())).collect();
        json!({
            "id": self.id,
            "type": if self.custom { "User" } else { "System" },
            "systemPresence": spelled(&self.system).1,
            "languageLabels": labels,
            "deactivated": false,
        })
    }
}

/// Spellings of definitions and of users.
fn spelled(system: &str) -> (&str, &str, &str) {
    SYSTEM.iter().find(|(name, _, _)| *name == system).copied().unwrap_or((system, system, system))
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    pub id: String,
    pub name: String,
    pub email: String,
    pub active: bool,
    /// System presence as events write it.
    pub presence: String,
    pub definition_id: String,
    /// What it says next to its presence.
    pub message: String,
    #[serde(serialize_with = "as_rfc3339")]
    pub presence_at: OffsetDateTime,
    pub routing: String,
    #[serde(serialize_with = "as_rfc3339")]
    pub routing_at: OffsetDateTime,
    pub out_of_office: bool,
    #[serde(serialize_with = "as_rfc3339")]
    pub out_of_office_at: OffsetDateTime,
    pub queues: Vec<String>,
    #[serde(serialize_with = "as_rfc3339")]
    pub queues_at: OffsetDateTime,
}

fn as_rfc3339<S: serde::Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339_ms(*at))
}

impl Person {
    /// Somebody who is offline since now.
    pub(super) fn new(id: &str, now: OffsetDateTime, offline: &Definition) -> Self {
        let mut name = id.replace(['-', '_'], " ");
        if let Some(first) = name.get_mut(0..1) {
            first.make_ascii_uppercase();
        }
        Self {
            id: id.to_owned(),
            email: format!("{id}@example.com"),
            name,
            active: true,
            presence: offline.system.clone(),
            definition_id: offline.id.clone(),
            message: String::new(),
            presence_at: now,
            routing: "OFF_QUEUE".to_owned(),
            routing_at: now,
            out_of_office: false,
            out_of_office_at: now,
            queues: Vec::new(),
            queues_at: now,
        }
    }

    /// Body of an activity event.
    pub(super) fn activity(&self) -> Value {
        json!({
            "id": self.id,
            "routingStatus": {"status": self.routing, "startTime": rfc3339_ms(self.routing_at)},
            "presence": {
                "presenceDefinition": {"id": self.definition_id, "systemPresence": self.presence},
                "presenceMessage": self.message,
                "modifiedDate": rfc3339_ms(self.presence_at),
            },
            "outOfOffice": {"active": self.out_of_office, "modifiedDate": rfc3339_ms(self.out_of_office_at)},
            "activeQueueIds": self.queues,
            "dateActiveQueuesChanged": rfc3339_ms(self.queues_at),
        })
    }

    /// Body of an event of one part.
    pub(super) fn part(&self, part: &str) -> Value {
        match part {
            "presence" => json!({
                "source": "PURECLOUD",
                "presenceDefinition": {"id": self.definition_id, "systemPresence": self.presence},
                "primary": true,
                "message": self.message,
                "modifiedDate": rfc3339_ms(self.presence_at),
            }),
            "routingStatus" => json!({
                "id": self.id,
                "routingStatus": {"status": self.routing, "startTime": rfc3339_ms(self.routing_at)},
            }),
            "outofoffice" => {
                json!({"user": {"id": self.id}, "active": self.out_of_office, "indefinite": false})
            }
            _ => self.activity(),
        }
    }

    /// A user as the directory answers with it.
    pub(super) fn json(&self, expand: &[String]) -> Value {
        let mut user = json!({
            "id": self.id,
            "name": self.name,
            "email": self.email,
            "state": if self.active { "active" } else { "inactive" },
            "selfUri": format!("/api/v2/users/{}", self.id),
        });
        let wants = |part: &str| expand.iter().any(|wanted| wanted == part);
        if let Some(user) = user.as_object_mut() {
            if wants("presence") {
                user.insert("presence".to_owned(), self.presence_json());
            }
            if wants("routingStatus") {
                let routing = json!({
                    "userId": self.id, "status": self.routing, "startTime": rfc3339_ms(self.routing_at),
                });
                user.insert("routingStatus".to_owned(), routing);
            }
            if wants("outOfOffice") {
                user.insert(
                    "outOfOffice".to_owned(),
                    json!({"active": self.out_of_office, "indefinite": false}),
                );
            }
        }
        user
    }

    /// A presence as the directory answers with it.
    pub(super) fn presence_json(&self) -> Value {
        json!({
            "userId": self.id,
            "source": "PURECLOUD",
            "primary": true,
            "presenceDefinition": {"id": self.definition_id, "systemPresence": spelled(&self.presence).2},
            "message": self.message,
            "modifiedDate": rfc3339_ms(self.presence_at),
        })
    }
}
