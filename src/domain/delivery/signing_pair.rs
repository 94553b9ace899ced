//! The pair behind `v1a` signatures: what is kept is the seed, what receivers are shown is the public key.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

const PREFIX: &str = "whpk_";

/// The public key of an ed25519 seed as receivers keep it: `whpk_` and base64.
#[must_use]
pub fn public_key(seed: &[u8; 32]) -> String {
    // Every 32 bytes are a seed; a failure would show as a key that nothing verifies under.
    let public = Ed25519KeyPair::from_seed_unchecked(seed).ok();
    let public = public.as_ref().map(|pair| pair.public_key().as_ref()).unwrap_or_default();
    format!("{PREFIX}{}", BASE64.encode(public))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_that_of_rfc_8032() {
        // Section 7.1, test 1.
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
            0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        assert_eq!(public_key(&seed), "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    }
}
