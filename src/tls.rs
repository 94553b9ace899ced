//! Floor 1: the TLS that both edges speak: rustls with ring, HTTP/1.1 only, the system's certificates.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

/// A client configuration that trusts what the system trusts (a company's own authorities included), and the
/// bundled Mozilla set where the system has no store, as in an empty container image.
///
/// Offers `http/1.1` alone: the upstream client would speak HTTP/2 with a library of a known weakness otherwise
/// (docs/adr/0009).
///
/// # Errors
/// If the cryptographic provider does not support the protocol versions we ask for.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = match versions.clone().with_platform_verifier() {
        Ok(verified) => verified.with_no_client_auth(),
        Err(error) => {
            tracing::warn!(%error, "no certificates on this system; the bundled ones are used");
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            versions.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
