//! Secrets at rest and in memory.
//!
//! Webhook and client secrets are sealed with XChaCha20-Poly1305 under the master key: its 24-byte nonce may
//! be random for ever. The row's id is bound in as associated data, so a sealed value copied to another row
//! does not open there. Sealed form: 4 bytes of key id, 24 bytes of nonce, ciphertext with tag.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;

/// Text that must not be shown: its `Debug` says so and it has no `Display`. Serde writes it out, for what is
/// sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that must send or hash it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a sealed value did not open.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OpenError {
    /// Sealed under another master key.
    #[error("sealed under another master key")]
    OtherKey,
    /// Cut, altered, or copied from another row.
    #[error("sealed value is damaged or belongs to another row")]
    Damaged,
}

/// What seals and opens secrets. 32 bytes, shown and read as base64.
#[derive(Clone)]
pub struct MasterKey {
    cipher: XChaCha20Poly1305,
    id: [u8; KEY_ID_BYTES],
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

impl MasterKey {
    /// From 32 bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        let hash =
            Sha256::new().chain_update(b"presence-bridge master key id").chain_update(bytes).finalize();
        let mut id = [0; KEY_ID_BYTES];
        for (to, from) in id.iter_mut().zip(hash) {
            *to = from;
        }
        Self { cipher: XChaCha20Poly1305::new(&(*bytes).into()), id }
    }

    /// From the base64 text of 32 bytes; `None` if it is anything else.
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = BASE64.decode(text.trim()).ok()?.try_into().ok()?;
        Some(Self::new(&bytes))
    }

    /// What sealed values begin with, so that another key is noticed without opening anything.
    #[must_use]
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// Seals `plain` for the row named by `bound_to`. `nonce` must be random and new for each call.
    #[must_use]
    pub fn seal(&self, plain: &[u8], bound_to: &[u8], nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let payload = Payload { msg: plain, aad: bound_to };
        // The AEAD fails only for plaintexts beyond 256 GiB, which no configuration value is.
        let ciphertext = self.cipher.encrypt(&XNonce::from(nonce), payload).unwrap_or_default();
        let mut sealed = Vec::with_capacity(KEY_ID_BYTES + NONCE_BYTES + ciphertext.len());
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Opens what [`seal`](Self::seal) made for the same row.
    ///
    /// # Errors
    /// [`OpenError`] if it was sealed under another key, altered, or copied from another row.
    pub fn open(&self, sealed: &[u8], bound_to: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (id, rest) = sealed.split_first_chunk::<KEY_ID_BYTES>().ok_or(OpenError::Damaged)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Damaged)?;
        if *id != self.id {
            return Err(OpenError::OtherKey);
        }
        self.cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad: bound_to })
            .map_err(|_| OpenError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_only_with_its_key_and_for_its_row() {
        let key = MasterKey::new(&[7; 32]);
        let sealed = key.seal(b"whsec", b"row 1", [1; 24]);
        assert_eq!(key.open(&sealed, b"row 1"), Ok(b"whsec".to_vec()));
        assert_eq!(key.open(&sealed, b"row 2"), Err(OpenError::Damaged));
        assert_eq!(MasterKey::new(&[8; 32]).open(&sealed, b"row 1"), Err(OpenError::OtherKey));
        assert_eq!(key.open(&sealed[..10], b"row 1"), Err(OpenError::Damaged));
        let mut altered = sealed.clone();
        altered[30] ^= 1;
        assert_eq!(key.open(&altered, b"row 1"), Err(OpenError::Damaged));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?} {:?}", Secret::new("hunter2"), MasterKey::new(&[7; 32]));
        assert_eq!(shown, "Secret(…) MasterKey(…)");
    }
}
