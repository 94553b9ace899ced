//! What `webhook.failing`, `webhook.disabled` and `webhook.recovered` tell, to those webhooks that ask for them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::domain::ids::WebhookId;

/// How it stands with another webhook. Its address is not told: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookNotice {
    /// Which.
    pub id: WebhookId,
    /// Its description.
    pub description: String,
    /// Why: an outcome class, `gone` or `failing`; `None` when it has recovered.
    #[serde(default)]
    pub reason: Option<String>,
    /// First failure since the last success; `None` if it never failed.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub failing_since: Option<OffsetDateTime>,
    /// Failed attempts in a row.
    #[serde(default)]
    pub failures: u32,
}
