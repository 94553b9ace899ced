//! Standard Webhooks v1 and v1a: what a receiver checks to know that a POST is ours and untouched.
//!
//! Signed are the bytes `id.timestamp.body`. v1: with HMAC-SHA256 under a key of 24 to 64 random bytes that
//! is shown as `whsec_` and base64. v1a: with ed25519; the receiver has the public key alone (`whpk_` and
//! base64) and so could not sign what it checks. (Specification: standard-webhooks 1.0.0.)

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::closed_set::closed_set;

const PREFIX: &str = "whsec_";
const PREFIX_PUBLIC: &str = "whpk_";
const PREFIX_PRIVATE: &str = "whsk_";
/// Bytes of an ed25519 seed, and of a public key.
pub const SEED_BYTES: usize = 32;
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Column `webhook_secret.kind`: what a secret signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// v1: the key of an HMAC.
    Hmac,
    /// v1a: the seed of a key pair.
    Ed25519,
}

closed_set!(SecretKind { Hmac = "hmac", Ed25519 = "ed25519" });

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

/// A webhook's ed25519 key pair, kept as its seed.
#[derive(Clone)]
pub struct SigningPair {
    seed: [u8; SEED_BYTES],
    prepared: Arc<Ed25519KeyPair>,
}

impl fmt::Debug for SigningPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningPair({})", self.public_text())
    }
}

impl SigningPair {
    /// From 32 random bytes.
    ///
    /// # Errors
    /// [`KeyError::WrongLength`].
    pub fn from_seed(seed: &[u8]) -> Result<Self, KeyError> {
        let prepared = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::WrongLength)?;
        let seed = seed.try_into().map_err(|_| KeyError::WrongLength)?;
        Ok(Self { seed, prepared: Arc::new(prepared) })
    }

    /// The seed itself, to be sealed.
    #[must_use]
    pub fn seed(&self) -> &[u8; SEED_BYTES] {
        &self.seed
    }

    /// The seed as the specification writes it, `whsk_…`: for who must move it elsewhere.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{PREFIX_PRIVATE}{}", BASE64.encode(self.seed))
    }

    /// The public key as receivers keep it: `whpk_…`. No secret.
    #[must_use]
    pub fn public_text(&self) -> String {
        format!("{PREFIX_PUBLIC}{}", BASE64.encode(self.prepared.public_key()))
    }

    /// One entry of the signature header: `v1a,` and base64.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        // The algorithm reads its message twice, so it wants it in one piece.
        let mut signed = format!("{id}.{timestamp}.").into_bytes();
        signed.extend_from_slice(body);
        format!("v1a,{}", BASE64.encode(self.prepared.sign(&signed)))
    }
}

/// What makes one entry of the signature header.
#[derive(Clone, Debug)]
pub enum Signer {
    /// Makes a `v1`.
    Hmac(SigningKey),
    /// Makes a `v1a`.
    Ed25519(SigningPair),
}

impl Signer {
    /// One entry of the signature header.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        match self {
            Self::Hmac(key) => key.sign(id, timestamp, body),
            Self::Ed25519(pair) => pair.sign(id, timestamp, body),
        }
    }
}

impl Signer {
    /// The secret that it signs with.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        match self {
            Self::Hmac(key) => key.bytes(),
            Self::Ed25519(pair) => pair.seed(),
        }
    }
}

/// The whole `webhook-signature` header: an entry for each key, so that a rotation never breaks a receiver.
#[must_use]
pub fn signature_header(signers: &[Signer], id: &str, timestamp: i64, body: &[u8]) -> String {
    signers.iter().map(|signer| signer.sign(id, timestamp, body)).collect::<Vec<_>>().join(" ")
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
        let signers = [new.clone(), old.clone()].map(Signer::Hmac);
        let header = signature_header(&signers, "id", 1, b"{}");
        assert_eq!(header, format!("{} {}", new.sign("id", 1, b"{}"), old.sign("id", 1, b"{}")));
    }

    fn hex(text: &str) -> Vec<u8> {
        let pairs: Vec<_> = text.as_bytes().chunks(2).collect();
        pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn ed25519_is_that_of_rfc_8032() {
        // Section 7.1, tests 1 and 3.
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let pair = SigningPair::from_seed(&hex(seed)).unwrap();
            assert_eq!(pair.prepared.public_key().as_ref(), hex(public));
            assert_eq!(pair.prepared.sign(&hex(message)).as_ref(), hex(signature));
            assert_eq!(pair.public_text(), format!("whpk_{}", BASE64.encode(hex(public))));
            assert_eq!(pair.to_text(), format!("whsk_{}", BASE64.encode(hex(seed))));
        }
    }

    #[test]
    fn v1a_is_over_the_same_bytes_and_the_public_key_checks_it() {
        let pair = SigningPair::from_seed(&[7; 32]).unwrap();
        let key = SigningKey::from_bytes(&[1; 32]).unwrap();
        let header = signature_header(
            &[Signer::Hmac(key.clone()), Signer::Ed25519(pair.clone())],
            "msg_1",
            1_700_000_000,
            b"{}",
        );
        let (v1, v1a) = header.split_once(' ').unwrap();
        assert_eq!(v1, key.sign("msg_1", 1_700_000_000, b"{}"));
        let signature = BASE64.decode(v1a.strip_prefix("v1a,").unwrap()).unwrap();
        assert_eq!(signature.len(), 64);
        let public = BASE64.decode(pair.public_text().strip_prefix("whpk_").unwrap()).unwrap();
        let public = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public);
        assert!(public.verify(b"msg_1.1700000000.{}", &signature).is_ok());
        assert!(public.verify(b"msg_2.1700000000.{}", &signature).is_err());
        assert_eq!(SigningPair::from_seed(pair.seed()).unwrap().public_text(), pair.public_text());
    }

    #[test]
    fn a_seed_has_32_bytes_and_is_never_shown() {
        assert_eq!(SigningPair::from_seed(&[7; 31]).err(), Some(KeyError::WrongLength));
        assert_eq!(SigningPair::from_seed(&[7; 64]).err(), Some(KeyError::WrongLength));
        let pair = SigningPair::from_seed(&[7; 32]).unwrap();
        let shown = format!("{:?}", Signer::Ed25519(pair.clone()));
        assert!(shown.contains(&pair.public_text()) && !shown.contains(&BASE64.encode([7; 32])), "{shown}");
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
