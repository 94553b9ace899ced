//! Delivery settings of one webhook as checked values: what is sent, how often it is tried, and how fast.
//! Their reading and their ranges are in `domain/webhook/delivery_settings_input.rs`.

use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::closed_set::closed_set;

/// POSTs under way at once at most, unless its owner says otherwise; with fewer a webhook is limited.
pub const USUAL_CONCURRENCY: u16 = 100;
/// Bytes of a batch's body at most, unless its owner says otherwise: what Express' `raw()`, the smallest of
/// the usual limits, takes.
pub const USUAL_BATCH_BYTES: usize = 96_000;

/// Whether every change is sent, or only the latest state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Each change is sent.
    #[default]
    Every,
    /// A newer state supersedes a waiting older one.
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

/// What POSTs are signed with; one of them at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signatures {
    /// HMAC-SHA256 under the shared secret.
    pub v1: bool,
    /// ed25519, checked with a public key.
    pub v1a: bool,
}

impl Default for Signatures {
    fn default() -> Self {
        Self { v1: true, v1a: false }
    }
}

impl Signatures {
    pub(in crate::domain) const WORDS: [&'static str; 2] = ["v1", "v1a"];

    /// As they are stored and shown.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        let wanted = [self.v1, self.v1a];
        Self::WORDS.into_iter().zip(wanted).filter_map(|(word, wanted)| wanted.then_some(word)).collect()
    }

    /// What these words ask for; others than ours ask for nothing.
    #[must_use]
    pub fn from_words(words: &[String]) -> Self {
        let holds = |word: &str| words.iter().any(|given| given == word);
        Self { v1: holds("v1"), v1a: holds("v1a") }
    }
}

/// Several deliveries in one POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Most items of one POST.
    pub max_items: usize,
    /// Longest wait for a batch to fill.
    pub max_wait: Duration,
    /// Most bytes of its body; one item that is larger goes alone.
    pub max_bytes: usize,
}

/// Most POSTs in any window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Most POSTs in a window.
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
    /// A state must last this long before it is sent.
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
    /// It is disabled after failing for this long without one success.
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
