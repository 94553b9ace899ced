//! The POST of a delivery as it can be shown to people.

use time::OffsetDateTime;

use crate::domain::delivery::settings::Format;
use crate::domain::ids::DeliveryId;

/// What decides, with its event, the bytes of a delivery's POST.
#[derive(Clone, Copy, Debug)]
pub struct SentAs {
    /// Sent as `webhook-id`.
    pub delivery: DeliveryId,
    /// Shape of the body.
    pub format: Format,
    /// Older states that it stood for.
    pub superseded: i32,
    /// When its first attempt began.
    pub sent_at: OffsetDateTime,
}

/// What all attempts have in common: no number, time and signature of one of them, no credentials.
#[derive(Clone, Debug)]
pub struct SentPost {
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Byte for byte.
    pub body: String,
}
