//! Outcome of a POST, and the disposition of its delivery that follows.
//!
//! | outcome | class | did the receiver get it? | disposition |
//! |---|---|---|---|
//! | answered 2xx | `ok` | yes | delivered |
//! | answered 3xx, 4xx, 5xx | `http_3xx`, `http_4xx`, `http_5xx` | yes, and refused it | retry |
//! | not HTTP, a status that is none, or a head that can be read in two ways | `bad_answer` | unknown | retry |
//! | no head of an answer by the deadline | `timeout` | unknown | retry |
//! | connection ended before the head of an answer | `disconnected` | unknown | retry |
//! | host has no address | `dns` | no | retry |
//! | an address that is not allowed | `target_refused` | no | retry |
//! | no TCP connection | `connect` | no | retry |
//! | no TLS session | `tls` | no | retry |
//! | no access token to send with it | `token` | no | retry |
//! | no request can be made of the address | `not_built` | no | retry |
//!
//! A retry waits for the schedule's delay, or for the receiver's `Retry-After` if that is longer. After the
//! last attempt of the schedule the delivery is dead; if it would be too old by then it is expired. 410
//! disables the webhook. Where "unknown" is retried a receiver may see a delivery twice, under the same id. An
//! answer counts from its head on: whatever becomes of its body changes nothing (docs/adr/0042).

use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::delivery::retry_schedule;
use crate::domain::delivery::settings::DeliverySettings;

/// Outcome of one POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head of an answer was read.
    Answered {
        /// HTTP status, 200 to 599.
        status: u16,
        /// Its `Retry-After`, if it has one that can be read.
        retry_after: Option<Duration>,
    },
    /// The deadline of the attempt came first.
    TimedOut,
    /// The host has no address, or could not be looked up.
    NotResolved,
    /// An address of the host is not allowed; nothing was sent.
    TargetRefused,
    /// No TCP connection.
    NotConnected,
    /// No TLS session, such as for a certificate that is not valid.
    TlsFailed,
    /// The token endpoint gave no access token, for whatever reason; nothing was sent.
    TokenRefused,
    /// The connection ended before the head of an answer: the receiver may or may not have taken it.
    Disconnected,
    /// What came back is not an HTTP answer, or one that can be read in two ways.
    BadAnswer {
        /// Status that it claims, 101 or 200 to 599, where one can be seen; it counts for nothing.
        status: Option<u16>,
    },
    /// The address cannot be made into a request.
    NotBuilt,
}

impl Outcome {
    /// Every name of a class.
    pub const CLASSES: &'static [&'static str] = &[
        "ok",
        "http_3xx",
        "http_4xx",
        "http_5xx",
        "bad_answer",
        "timeout",
        "dns",
        "target_refused",
        "connect",
        "tls",
        "token",
        "disconnected",
        "not_built",
    ];

    /// Stable name in metrics and the audit log.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Answered { status: 200..=299, .. } => "ok",
            Self::Answered { status: 300..=399, .. } => "http_3xx",
            Self::Answered { status: 400..=499, .. } => "http_4xx",
            Self::Answered { status: 500..=599, .. } => "http_5xx",
            Self::Answered { .. } | Self::BadAnswer { .. } => "bad_answer",
            Self::TimedOut => "timeout",
            Self::NotResolved => "dns",
            Self::TargetRefused => "target_refused",
            Self::NotConnected => "connect",
            Self::TlsFailed => "tls",
            Self::TokenRefused => "token",
            Self::Disconnected => "disconnected",
            Self::NotBuilt => "not_built",
        }
    }

    /// HTTP status of the answer, to be shown; `None` if there was none.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. } => Some(*status),
            Self::BadAnswer { status } => *status,
            _ => None,
        }
    }

    /// The receiver wants no more of them.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Answered { status: 410, .. })
    }

    /// Only 2xx is success: a redirect is not followed, an interim answer is none.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Answered { status: 200..=299, .. })
    }
}

/// What becomes of a delivery that a dispatcher had leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The row is deleted; its audit entry tells the end.
    Ended(EndState),
    /// Another attempt, not before this time.
    RetryAt(OffsetDateTime),
    /// No attempt was made: it waits as if it had never been claimed, due at this time.
    Returned(OffsetDateTime),
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// The receiver took it.
    Delivered,
    /// Every attempt failed.
    Dead,
    /// A newer state of its agent took its place.
    Superseded,
    /// It became too old before it could be sent.
    Expired,
    /// Its webhook was removed first.
    WebhookGone,
    /// Its webhook was disabled first.
    WebhookDisabled,
    /// The person that it is about was erased first.
    Erased,
}

impl EndState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Delivered,
        Self::Dead,
        Self::Superseded,
        Self::Expired,
        Self::WebhookGone,
        Self::WebhookDisabled,
        Self::Erased,
    ];

    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
            Self::WebhookGone => "webhook_gone",
            Self::WebhookDisabled => "webhook_disabled",
            Self::Erased => "erased",
        }
    }
}

/// One attempt that ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Outcome of its POST.
    pub outcome: &'a Outcome,
    /// Its number, from 1.
    pub number: u32,
    /// Time at which it ended.
    pub now: OffsetDateTime,
    /// From when on the delivery is too old to be sent; `None`: never.
    pub expires_at: Option<OffsetDateTime>,
}

/// Judges an attempt by the webhook's settings: the delivery ended or is tried again. `jitter` is random, at
/// least 0 and below 1.
#[must_use]
pub fn judge(attempt: Attempt<'_>, settings: &DeliverySettings, jitter: f64) -> Disposition {
    let Attempt { outcome, number, now, expires_at } = attempt;
    if outcome.is_success() {
        return Disposition::Ended(EndState::Delivered);
    }
    if outcome.is_gone() {
        return Disposition::Ended(EndState::WebhookDisabled);
    }
    let Some(delay) = retry_schedule::delay_after(number, settings.retry_schedule.as_deref(), jitter) else {
        return Disposition::Ended(EndState::Dead);
    };
    let retry_after = match outcome {
        Outcome::Answered { retry_after, .. } => retry_after.unwrap_or_default(),
        _ => Duration::ZERO,
    };
    let at = now + delay.max(retry_after);
    if expires_at.is_some_and(|expires_at| at >= expires_at) {
        Disposition::Ended(EndState::Expired)
    } else {
        Disposition::RetryAt(at)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::Disposition::{Ended, RetryAt};
    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 15:00:00 UTC);

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None }
    }

    fn judge(outcome: &Outcome, number: u32, now: OffsetDateTime, jitter: f64) -> Disposition {
        let attempt = Attempt { outcome, number, now, expires_at: None };
        super::judge(attempt, &DeliverySettings::default(), jitter)
    }

    #[test]
    fn what_would_come_too_late_expires() {
        let outcome = answered(500);
        let expiring_in = |seconds| {
            let expires_at = Some(NOW + Duration::from_secs(seconds));
            let attempt = Attempt { outcome: &outcome, number: 1, now: NOW, expires_at };
            super::judge(attempt, &DeliverySettings::default(), 0.0)
        };
        assert_eq!(expiring_in(5), Ended(EndState::Expired));
        assert_eq!(expiring_in(6), RetryAt(NOW + Duration::from_secs(5)));
    }

    #[test]
    fn gone_is_gone_at_once() {
        assert_eq!(judge(&answered(410), 1, NOW, 0.0), Ended(EndState::WebhookDisabled));
    }

    #[test]
    fn a_schedule_of_ones_own_counts() {
        let settings = DeliverySettings { retry_schedule: Some(vec![60]), ..DeliverySettings::default() };
        let outcome = answered(500);
        let attempt = |number| {
            super::judge(Attempt { outcome: &outcome, number, now: NOW, expires_at: None }, &settings, 0.0)
        };
        assert_eq!(attempt(1), RetryAt(NOW + Duration::from_secs(60)));
        assert_eq!(attempt(2), Ended(EndState::Dead));
    }

    #[test]
    fn only_2xx_is_success() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judge(&answered(status), 1, NOW, 0.0), Ended(EndState::Delivered), "{status}");
        }
        for outcome in [301, 307, 400, 404, 429, 500, 503].map(answered) {
            assert!(matches!(judge(&outcome, 1, NOW, 0.0), RetryAt(_)), "{outcome:?}");
        }
    }

    #[test]
    fn the_words_for_outcomes_never_change() {
        for (outcome, class, status) in [
            (answered(204), "ok", Some(204)),
            (answered(307), "http_3xx", Some(307)),
            (answered(410), "http_4xx", Some(410)),
            (answered(503), "http_5xx", Some(503)),
            (Outcome::BadAnswer { status: None }, "bad_answer", None),
            (Outcome::BadAnswer { status: Some(200) }, "bad_answer", Some(200)),
            (Outcome::TimedOut, "timeout", None),
            (Outcome::Disconnected, "disconnected", None),
            (Outcome::NotResolved, "dns", None),
            (Outcome::TargetRefused, "target_refused", None),
            (Outcome::NotConnected, "connect", None),
            (Outcome::TlsFailed, "tls", None),
            (Outcome::TokenRefused, "token", None),
            (Outcome::NotBuilt, "not_built", None),
        ] {
            assert_eq!((outcome.class(), outcome.status()), (class, status));
            assert_eq!(outcome.is_success(), class == "ok");
        }
    }

    #[test]
    fn the_last_failure_is_the_end_whatever_it_was() {
        for outcome in [
            answered(307),
            answered(404),
            answered(500),
            Outcome::TimedOut,
            Outcome::NotResolved,
            Outcome::TargetRefused,
            Outcome::NotConnected,
            Outcome::TlsFailed,
            Outcome::TokenRefused,
            Outcome::Disconnected,
            Outcome::BadAnswer { status: Some(200) },
            Outcome::BadAnswer { status: Some(410) },
            Outcome::NotBuilt,
        ] {
            assert!(matches!(judge(&outcome, 10, NOW, 0.9), RetryAt(_)), "{outcome:?}");
            assert_eq!(judge(&outcome, 11, NOW, 0.0), Ended(EndState::Dead), "{outcome:?}");
        }
    }

    #[test]
    fn no_retry_comes_before_retry_after() {
        let asks =
            |seconds| Outcome::Answered { status: 503, retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(judge(&asks(120), 1, NOW, 0.0), RetryAt(NOW + Duration::from_secs(120)));
        assert_eq!(judge(&asks(1), 1, NOW, 0.0), RetryAt(NOW + Duration::from_secs(5)));
    }
}
