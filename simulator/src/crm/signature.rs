//! Standard Webhooks `v1` and `v1a`, checked from the specification's text alone.
//!
//! Signed bytes are `id.timestamp.body`; the key is what stands in base64 behind `whsec_` (HMAC-SHA256, `v1`)
//! or `whpk_` (an ed25519 public key, `v1a`); the header holds one or several `v1,<base64>` separated by
//! spaces, any of which may match (a rotation signs with two secrets).

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::Sha256;

/// Bytes of an ed25519 public key.
const PUBLIC_BYTES: usize = 32;

/// Key of one webhook.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    kind: Kind,
    key: Vec<u8>,
}

/// Version of the signatures that a key checks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    V1,
    V1a,
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// Secret is not `whsec_` and the base64 of 24 to 64 bytes, and no public key `whpk_` either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotASecret;

impl fmt::Display for NotASecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(
            "a secret is whsec_ and the base64 of 24 to 64 bytes, or whpk_ and that of a public key",
        )
    }
}

impl std::error::Error for NotASecret {}

impl Secret {
    /// Reads `whsec_…`, or `whpk_…`, which is none but serves to check as well.
    ///
    /// # Errors
    /// When the prefix is missing, the rest is not padded standard base64, or the length is not the spec's.
    pub fn parse(text: &str) -> Result<Self, NotASecret> {
        let (kind, encoded) = match (text.strip_prefix("whsec_"), text.strip_prefix("whpk_")) {
            (Some(encoded), _) => (Kind::V1, encoded),
            (_, Some(encoded)) => (Kind::V1a, encoded),
            _ => return Err(NotASecret),
        };
        let key = STANDARD.decode(encoded).map_err(|_| NotASecret)?;
        let fits = match kind {
            Kind::V1 => (24..=64).contains(&key.len()),
            Kind::V1a => key.len() == PUBLIC_BYTES,
        };
        if fits { Ok(Self { kind, key }) } else { Err(NotASecret) }
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of any length: `None` cannot happen, and would only mean "no match".
        let mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        Some(
            mac.chain_update(id)
                .chain_update(".")
                .chain_update(timestamp)
                .chain_update(".")
                .chain_update(body),
        )
    }

    /// Signature `v1` as the header carries it, for tests of the receiver itself.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let bytes = self.mac(id, timestamp, body).map(|mac| mac.finalize().into_bytes().to_vec());
        format!("v1,{}", STANDARD.encode(bytes.unwrap_or_default()))
    }

    fn matches(&self, id: &str, timestamp: &str, body: &[u8], (kind, signature): &(Kind, Vec<u8>)) -> bool {
        if self.kind != *kind {
            return false;
        }
        match kind {
            // `verify_slice` compares in constant time.
            Kind::V1 => self.mac(id, timestamp, body).is_some_and(|mac| mac.verify_slice(signature).is_ok()),
            Kind::V1a => {
                let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
                UnparsedPublicKey::new(&ED25519, &self.key).verify(&signed, signature).is_ok()
            }
        }
    }
}

/// Why a POST is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// Header is missing, there twice, or not text.
    Header(&'static str),
    /// The id holds a dot, so that two different messages could sign the same bytes.
    DotInId,
    /// Timestamp is not whole Unix seconds.
    Timestamp,
    /// Timestamp is further away from our clock than the tolerance, in seconds (positive: too old).
    Stale(i64),
    /// No secret is known for this path.
    NoSecret,
    /// No signature of a kind that a secret of this path checks among those sent.
    NoV1,
    /// No signature matches under any secret.
    Mismatch,
}

impl fmt::Display for Distrust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(formatter, "header {name} is missing or repeated"),
            Self::DotInId => formatter.write_str("webhook-id holds a dot"),
            Self::Timestamp => formatter.write_str("webhook-timestamp is not Unix seconds"),
            Self::Stale(by) => write!(formatter, "webhook-timestamp is {by} s old"),
            Self::NoSecret => formatter.write_str("no secret is known for this path"),
            Self::NoV1 => formatter.write_str("no signature of a known kind"),
            Self::Mismatch => formatter.write_str("no signature matches"),
        }
    }
}

/// Signed parts of a POST, and the header with its signatures.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signatures: &'a str,
    pub body: &'a [u8],
}

/// Decides whether a POST is trusted at a moment (Unix seconds).
///
/// # Errors
/// The first reason to distrust it.
pub fn verify(signed: Signed<'_>, secrets: &[Secret], now: i64, tolerance: Duration) -> Result<(), Distrust> {
    let Signed { id, timestamp, signatures, body } = signed;
    if id.contains('.') {
        return Err(Distrust::DotInId);
    }
    if timestamp.is_empty() || !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Distrust::Timestamp);
    }
    let at: i64 = timestamp.parse().map_err(|_| Distrust::Timestamp)?;
    let age = now.saturating_sub(at);
    if age.unsigned_abs() > tolerance.as_secs() {
        return Err(Distrust::Stale(age));
    }
    if secrets.is_empty() {
        return Err(Distrust::NoSecret);
    }
    let offered: Vec<(Kind, Vec<u8>)> = signatures
        .split(' ')
        .filter_map(|signature| match signature.split_once(',')? {
            ("v1", encoded) => Some((Kind::V1, encoded)),
            ("v1a", encoded) => Some((Kind::V1a, encoded)),
            _ => None,
        })
        .filter(|(kind, _)| secrets.iter().any(|secret| secret.kind == *kind))
        .filter_map(|(kind, encoded)| Some((kind, STANDARD.decode(encoded).ok()?)))
        .collect();
    if offered.is_empty() {
        return Err(Distrust::NoV1);
    }
    let matched = offered
        .iter()
        .any(|signature| secrets.iter().any(|secret| secret.matches(id, timestamp, body, signature)));
    if matched { Ok(()) } else { Err(Distrust::Mismatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Duration = Duration::from_secs(300);
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const GOOD: Signed<'static> = Signed {
        id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        timestamp: "1649367553",
        signatures: "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        body: br#"{"email":"test@example.com","username":"test_user"}"#,
    };

    fn check(signed: Signed<'_>) -> Result<(), Distrust> {
        verify(signed, &[Secret::parse(SECRET).unwrap()], 1_649_367_553, TOLERANCE)
    }

    #[test]
    fn reproduces_both_published_vectors() {
        assert_eq!(check(GOOD), Ok(()));
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn any_of_several_signatures_may_match() {
        let signatures = format!("v1a,abc v1,AAAA {}", GOOD.signatures);
        assert_eq!(check(Signed { signatures: &signatures, ..GOOD }), Ok(()));
        let old = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let both = [old, Secret::parse(SECRET).unwrap()];
        assert_eq!(verify(GOOD, &both, 1_649_367_553, TOLERANCE), Ok(()));
    }

    #[test]
    fn checks_with_a_public_key() {
        // RFC 8032 gives the key pair of this seed; the message is ours.
        let seed = [
            0x9D, 0x61, 0xB1, 0x9D, 0xEF, 0xFD, 0x5A, 0x60, 0xBA, 0x84, 0x4A, 0xF4, 0x92, 0xEC, 0x2C, 0xC4,
            0x44, 0x49, 0xC5, 0x69, 0x7B, 0x32, 0x69, 0x19, 0x70, 0x3B, 0xAC, 0x03, 0x1C, 0xAE, 0x7F, 0x60,
        ];
        let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let public = Secret::parse("whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=").unwrap();
        let message = [GOOD.id.as_bytes(), b".", GOOD.timestamp.as_bytes(), b".", GOOD.body].concat();
        let signatures = format!("{} v1a,{}", GOOD.signatures, STANDARD.encode(pair.sign(&message)));
        let signed = Signed { signatures: &signatures, ..GOOD };
        let check = |signed| verify(signed, std::slice::from_ref(&public), 1_649_367_553, TOLERANCE);
        assert_eq!(check(signed), Ok(()));
        assert_eq!(check(Signed { body: b"{}", ..signed }), Err(Distrust::Mismatch));
        assert_eq!(check(GOOD), Err(Distrust::NoV1));
    }

    #[test]
    fn names_each_reason_for_distrust() {
        assert_eq!(check(Signed { body: b"{}", ..GOOD }), Err(Distrust::Mismatch));
        assert_eq!(check(Signed { id: "msg_other", ..GOOD }), Err(Distrust::Mismatch));
        assert_eq!(check(Signed { id: "a.b", ..GOOD }), Err(Distrust::DotInId));
        assert_eq!(check(Signed { signatures: "v1a,abc", ..GOOD }), Err(Distrust::NoV1));
        for timestamp in ["", "+1649367553", "1649367553.0", "99999999999999999999"] {
            assert_eq!(check(Signed { timestamp, ..GOOD }), Err(Distrust::Timestamp));
        }
        assert_eq!(check(Signed { timestamp: "1649367252", ..GOOD }), Err(Distrust::Stale(301)));
        assert_eq!(check(Signed { timestamp: "1649367854", ..GOOD }), Err(Distrust::Stale(-301)));
        assert_eq!(verify(GOOD, &[], 1_649_367_553, TOLERANCE), Err(Distrust::NoSecret));
    }

    #[test]
    fn refuses_secrets_that_are_none() {
        for text in ["", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_", "whsec_AAAA", "whsec_***", "whpk_AAAA"]
        {
            assert_eq!(Secret::parse(text), Err(NotASecret));
        }
    }
}
