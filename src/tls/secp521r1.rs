//! Key exchange over P-521 for rustls, whose providers leave it out. A TLS 1.2 server with a certificate of
//! that curve needs it offered, even where the exchange itself goes over another one.

use aws_lc_rs::agreement::{self, ECDH_P521, PrivateKey, PublicKey, UnparsedPublicKey};
use rustls::crypto::{ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved};

/// First byte of an uncompressed point, the only form that TLS allows (RFC 8446, 4.2.8.2).
const UNCOMPRESSED: u8 = 4;

#[derive(Debug)]
pub(super) struct Secp521r1;

impl SupportedKxGroup for Secp521r1 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let private = PrivateKey::generate(&ECDH_P521).map_err(|_| GetRandomFailed)?;
        let public = private.compute_public_key().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Exchange { private, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

struct Exchange {
    private: PrivateKey,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let refused = || Error::from(PeerMisbehaved::InvalidKeyShare);
        if peer.first() != Some(&UNCOMPRESSED) {
            return Err(refused());
        }
        let peer = UnparsedPublicKey::new(&ECDH_P521, peer);
        agreement::agree(&self.private, peer, refused(), |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}
