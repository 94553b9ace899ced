//! How many deliveries writers may lease to the dispatcher of their process as they insert them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::domain::ids::{DispatcherId, WebhookId};

/// Deliveries that a dispatcher lets writers lease to it as they insert them.
#[derive(Clone, Debug, Default)]
pub struct DispatchCapacity {
    /// `None`: no dispatcher takes any.
    pub dispatcher: Option<DispatcherId>,
    /// How many at most.
    pub room: usize,
    /// How many of each webhook at most, where it is not as many as of any other.
    pub rooms: Arc<HashMap<WebhookId, usize>>,
    /// How many of any other webhook at most.
    pub others: usize,
    /// Webhooks that have accepted a POST.
    pub proven: Arc<HashSet<WebhookId>>,
    /// How many at most of all webhooks together that have neither a room of their own nor are proven.
    pub unproven: usize,
    /// Something is taken for webhooks with a limit.
    pub limited: bool,
}
