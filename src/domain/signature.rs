//! Standard Webhooks v1: what a receiver checks to know that a POST is ours and untouched.
//!
//! Signed are the bytes `id.timestamp.body`, with HMAC-SHA256 under a key of 24 to 64 random bytes that is shown as
//! `whsec_` and base64. (Specification: standard-webhooks 1.0.0.)

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Why a text is no signing secret. Texts never hold the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It does not begin as such secrets do.
    #[error("must begin with whsec_")]
    NoPrefix,
    /// What follows is not base64.
    #[error("must be standard base64 behind whsec_")]
    NotBase64,
    /// Too short to be safe, or longer than the specification allows.
    #[error("must hold 24 to 64 bytes")]
    WrongLength,
}

/// A webhook's signing secret, with the hash prepared so that signing does not start from the key each time.
#[derive(Clone)]
pub struct SigningKey {
    bytes: Vec<u8>,
    prepared: Hmac<Sha256>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// From the bytes behind the base64.
    ///
    /// # Errors
    /// [`KeyError::WrongLength`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        if !KEY_BYTES.contains(&bytes.len()) {
            return Err(KeyError::WrongLength);
        }
        let prepared = Hmac::new_from_slice(bytes).map_err(|_| KeyError::WrongLength)?;
        Ok(Self { bytes: bytes.to_vec(), prepared })
    }

    /// From the text that receivers keep: `whsec_…`.
    ///
    /// # Errors
    /// [`KeyError`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let base64 = text.strip_prefix(PREFIX).ok_or(KeyError::NoPrefix)?;
        Self::from_bytes(&BASE64.decode(base64).map_err(|_| KeyError::NotBase64)?)
    }

    /// The key itself, to be sealed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As receivers keep it: `whsec_…`. Shown once, to its owner.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.bytes))
    }

    /// One entry of the signature header: `v1,` and base64. `timestamp` is in Unix seconds, of the attempt.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = self.prepared.clone();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }
}

/// The whole `webhook-signature` header: an entry for each key, so that a rotation never breaks a receiver.
#[must_use]
pub fn signature_header(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    keys.iter().map(|key| key.sign(id, timestamp, body)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn signatures_are_those_of_the_specification() {
        for (secret, id, timestamp, body, expected) in [
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ] {
            assert_eq!(SigningKey::parse(secret).unwrap().sign(id, timestamp, body.as_bytes()), expected);
        }
    }

    #[test]
    fn a_rotation_signs_with_both_keys() {
        let (old, new) =
            (SigningKey::from_bytes(&[1; 32]).unwrap(), SigningKey::from_bytes(&[2; 32]).unwrap());
        let header = signature_header(&[new.clone(), old.clone()], "id", 1, b"{}");
        assert_eq!(header, format!("{} {}", new.sign("id", 1, b"{}"), old.sign("id", 1, b"{}")));
    }

    #[test]
    fn the_public_library_of_the_standard_accepts_ours() {
        let key = SigningKey::from_bytes(&[7; 24]).unwrap();
        let body = "{\"name\":\"Zoë\"}".as_bytes();
        let timestamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut headers = http::HeaderMap::new();
        headers.insert("webhook-id", "0198".parse().unwrap());
        headers.insert("webhook-timestamp", timestamp.to_string().parse().unwrap());
        let signed = key.sign("0198", i64::try_from(timestamp).unwrap(), body);
        headers.insert("webhook-signature", signed.parse().unwrap());
        let library = standardwebhooks::Webhook::new(&key.to_text()).unwrap();
        assert!(library.verify(body, &headers).is_ok());
        assert!(library.verify(b"{\"name\":\"Zoe\"}", &headers).is_err());
    }

    #[test]
    fn a_text_that_is_no_secret_is_refused_by_its_rule() {
        assert_eq!(SigningKey::parse("sk_123").err(), Some(KeyError::NoPrefix));
        assert_eq!(SigningKey::parse("whsec_!!").err(), Some(KeyError::NotBase64));
        assert_eq!(SigningKey::parse("whsec_c2hvcnQ=").err(), Some(KeyError::WrongLength));
        assert_eq!(SigningKey::from_bytes(&[0; 65]).err(), Some(KeyError::WrongLength));
    }
}
