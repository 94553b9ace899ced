//! Floor 1: the TLS that both edges speak: rustls with AWS-LC, the system's certificates.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

mod secp521r1;

/// Algorithms of both edges: all that rustls has with AWS-LC, and P-521 (docs/adr/0039). The post-quantum
/// group is offered, not begun with: its share would make the first message longer than one packet.
#[must_use]
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let classical =
        provider.kx_groups.iter().filter(|group| group.name() != NamedGroup::X25519MLKEM768).count();
    provider.kx_groups.insert(classical, &secp521r1::Secp521r1);
    provider
}

/// A client configuration that trusts what the system trusts (a company's own authorities included), and the
/// bundled Mozilla set where the system has no store, as in an empty container image.
///
/// Offers `http/1.1` alone: the upstream client would speak HTTP/2 with a library of a known weakness
/// otherwise (docs/adr/0009). Who speaks it with another library says so itself.
///
/// # Errors
/// If the cryptographic provider does not support the protocol versions we ask for.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = match versions.clone().with_platform_verifier() {
        Ok(verified) => verified.with_no_client_auth(),
        Err(error) => {
            tracing::warn!(%error, "no certificates on this system; trusting the bundled ones");
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            versions.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Why a certificate cannot be shown to anybody. Texts never hold what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The chain holds no certificate, or something that is none.
    #[error("must be one or more certificates in PEM")]
    NoChain,
    /// The key is none that can be used.
    #[error("must be one private key in PEM, without a passphrase, of a usual kind")]
    NoKey,
    /// The key is not that of the first certificate.
    #[error("must be the key of the first certificate")]
    OtherKey,
}

/// A certificate to show to a server that asks for one.
#[derive(Clone)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// From PEM: the certificate first, then those that issued it; and its key.
    ///
    /// # Errors
    /// [`IdentityError`] says which rule it breaks.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, IdentityError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::NoChain)?;
        if chain.is_empty() {
            return Err(IdentityError::NoChain);
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| IdentityError::NoKey)?;
        match CertifiedKey::from_der(chain, key, &provider()) {
            Ok(identity) => Ok(Self(Arc::new(identity))),
            Err(rustls::Error::InconsistentKeys(_)) => Err(IdentityError::OtherKey),
            Err(rustls::Error::InvalidCertificate(_)) => Err(IdentityError::NoChain),
            Err(_) => Err(IdentityError::NoKey),
        }
    }

    /// The same configuration for one who shows this. Sessions are its own: one that was opened with another
    /// certificate, or with none, must not be resumed.
    #[must_use]
    pub fn shown_by(&self, config: &ClientConfig) -> ClientConfig {
        let mut config = config.clone();
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(self.0.clone()));
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        config
    }
}
