//! How one webhook wants its deliveries: what is sent, how often it is tried, and how fast.

use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::closed_set::closed_set;

/// POSTs under way at once at most, unless its owner says otherwise; with fewer a webhook is limited.
pub const USUAL_CONCURRENCY: u16 = 100;

/// Whether every change is sent, or only the latest state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Each change is sent.
    #[default]
    Every,
    /// A waiting older state gives way to the newer one.
    Latest,
}

/// What a POST looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Standard Webhooks: `{"type", "timestamp", "data"}`.
    #[default]
    Standard,
    /// CloudEvents 1.0, the event's attributes in the body.
    CloudEventsStructured,
    /// CloudEvents 1.0, the event's attributes in `ce-` headers.
    CloudEventsBinary,
}

/// How a receiver must show that it wants the POSTs, before it gets any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verification {
    /// It need not.
    #[default]
    None,
    /// It answers a POST of `webhook.verification` with the challenge that the POST holds.
    Echo,
    /// It answers the OPTIONS request of CloudEvents' web hook specification.
    Options,
}

closed_set!(Mode { Every = "every", Latest = "latest" });
closed_set!(Format {
    Standard = "standard",
    CloudEventsStructured = "cloudevents-structured",
    CloudEventsBinary = "cloudevents-binary"
});
closed_set!(Verification { None = "none", Echo = "echo", Options = "options" });

/// Several deliveries in one POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Most items of one POST.
    pub max_items: usize,
    /// Longest wait for a batch to fill.
    pub max_wait: Duration,
}

/// At most so many POSTs in any window of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many.
    pub requests: usize,
    /// Length of the window.
    pub per: Duration,
}

/// How one webhook wants its deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Every change, or the latest.
    pub mode: Mode,
    /// A delivery older than this ends unsent; `None`: never.
    pub max_age: Option<Duration>,
    /// A state must last so long before it is sent.
    pub min_dwell: Duration,
    /// Several in one POST; `None`: one each.
    pub batch: Option<Batch>,
    /// Seconds to wait after the first, second … failure; `None`: the usual schedule
    /// (domain/delivery/retry_schedule.rs).
    pub retry_schedule: Option<Vec<u32>>,
    /// Deadline of one attempt.
    pub timeout: Duration,
    /// POSTs under way at once at most.
    pub max_concurrency: usize,
    /// How fast POSTs may follow each other; `None`: as fast as they are answered.
    pub rate_limit: Option<RateLimit>,
    /// After failing for so long without one success it is disabled.
    pub disable_after: Duration,
    /// What a POST looks like.
    pub format: Format,
}

impl DeliverySettings {
    /// From when on a delivery of an event that arrived at `received_at` is too old to be sent; `None`:
    /// never.
    #[must_use]
    pub fn expires_at(&self, received_at: OffsetDateTime) -> Option<OffsetDateTime> {
        self.max_age.map(|age| received_at + age)
    }

    /// Whether its receiver is to bear less than usual. Only one process serves it then, so that several do
    /// not each use up what is allowed.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.rate_limit.is_some() || self.max_concurrency < usize::from(USUAL_CONCURRENCY)
    }
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            mode: Mode::Every,
            max_age: None,
            min_dwell: Duration::ZERO,
            batch: None,
            retry_schedule: None,
            timeout: Duration::from_secs(15),
            max_concurrency: usize::from(USUAL_CONCURRENCY),
            rate_limit: None,
            disable_after: Duration::from_secs(5 * 24 * 3600),
            format: Format::Standard,
        }
    }
}
