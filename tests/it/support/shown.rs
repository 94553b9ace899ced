//! Certificates that servers of the tests show.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

/// A certificate that signs itself, good until 2120, and its key, which guards nothing.
#[derive(Clone, Copy)]
pub struct Shown {
    certificate: &'static str,
    key: &'static str,
}

/// Who it says it is: `localhost` and 127.0.0.1.
pub const KNOWN: Shown = Shown {
    certificate: concat!(
        "MIIBbDCCAROgAwIBAgIUaBx9b+TiP6Y64gi1J+DMDBMloT4wCgYIKoZIzj0EAwIwDzENMAsGA1UEAwwEc2llbTAgFw0yMDAx",
        "MDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowDzENMAsGA1UEAwwEc2llbTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOHw",
        "otM89N4xMrxMk2oA7OfDzEKuI03XUjpfjIGuSCYy6F1M1Uqz4iIMNHvxrc7yfyECnMSXhIlHouij0wD0AUKjSzBJMBoGA1Ud",
        "EQQTMBGCCWxvY2FsaG9zdIcEfwAAATAMBgNVHRMBAf8EAjAAMB0GA1UdDgQWBBQfEk8bJLQ+mv1ZDRvRhTp3o6C9NjAKBggq",
        "hkjOPQQDAgNHADBEAiBpxQrBW2ZYF7TFFfh0HtlsmK5lHRFDm0U/sY18exza1gIgUw7szhcU58AXtyYOXCzlL9CmAqw0+KKR",
        "V6C9wScs18M=",
    ),
    key: concat!(
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg9FtenYRIQS5TdyPzs7/JxAIkpGEM/l5dd5OtWBlPQvyhRANC",
        "AATh8KLTPPTeMTK8TJNqAOznw8xCriNN11I6X4yBrkgmMuhdTNVKs+IiDDR78a3O8n8hApzEl4SJR6Loo9MA9AFC",
    ),
};

/// The same of itself, with the curve that some companies' authorities use.
pub const P521: Shown = Shown {
    certificate: concat!(
        "MIICGzCCAX2gAwIBAgIUM/9BUzGjIV40lsAn/1i+1XWZFSYwCgYIKoZIzj0EAwQwEjEQMA4GA1UEAwwHY29tcGFueTAgFw0yNjEx",
        "MzAxNTE1MDFaGA8yMTI1MDYyNDE1MTUwMVowEjEQMA4GA1UEAwwHY29tcGFueTCBmzAQBgcqhkjOPQIBBgUrgQQAIwOBhgAEAcp2",
        "zYtkSN48rTnXoy90vz83LBNIvH7EeMWlPVHn6VDRIBOtbdFLvICq+JUW9E7foisLeyW7g1STAQj0YHQNRePpAcruk2SY1Vqi/icF",
        "yN/vWRZY9GG5ReHg1ipuFxUGYUMFuYGeICatmxYaFxsoX920YFUxPY5pnM0otUo0CY2Zpr7co2wwajAdBgNVHQ4EFgQUPwsKxp+k",
        "dbVFK054bgzREwe4kzMwHwYDVR0jBBgwFoAUPwsKxp+kdbVFK054bgzREwe4kzMwGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAAB",
        "MAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwQDgYsAMIGHAkIBb/Hmjd8uett/vjbIn2A5coHQXz6+Qc5Q7PWVU5guJ/YS/kn1IeRZ",
        "6lIR1V/cVCH0VdFEUjbB9PiFTwFqnQBFJ8wCQW5qsEMPdB5fYGlLNAyMG/NYmkW95ZDrvdmut13o3/Fyh7ELpjp87CfQJQV0Fr6W",
        "Zp8Rt+yb2PZ5ujjFSMCX0+38",
    ),
    key: concat!(
        "MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIAEgzGoNPTOdT0giOlKWoMy/kTzwb/Tdj8W+70LQ7FSOBG9MoUss72",
        "12LnD+/Xu+mBH5ZrTrVG4CvUSC1EOMUHaRWhgYkDgYYABAHKds2LZEjePK0516MvdL8/NywTSLx+xHjFpT1R5+lQ0SATrW3RS7yA",
        "qviVFvRO36IrC3slu4NUkwEI9GB0DUXj6QHK7pNkmNVaov4nBcjf71kWWPRhuUXh4NYqbhcVBmFDBbmBniAmrZsWGhcbKF/dtGBV",
        "MT2OaZzNKLVKNAmNmaa+3A==",
    ),
};

/// Says the same of itself, but nobody vouches for it.
pub const OUTSIDER: Shown = Shown {
    certificate: concat!(
        "MIIBdTCCARugAwIBAgIUT0dvpifL93oDLxjRs5zkPQUhNyMwCgYIKoZIzj0EAwIwEzERMA8GA1UEAwwIc3RyYW5nZXIwIBcN",
        "MjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBMxETAPBgNVBAMMCHN0cmFuZ2VyMFkwEwYHKoZIzj0CAQYIKoZIzj0D",
        "AQcDQgAESJzqsQRg5w0/ySIpyiHN01rhOhIDtjhT7faIUSkAni3i04JNOgc9Awi6Ye9ntwL4/tp/CXlrABmF0jKM3E4SXaNL",
        "MEkwGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAwGA1UdEwEB/wQCMAAwHQYDVR0OBBYEFBwvc8r3aH0c50kEQi75+X2f",
        "PdRvMAoGCCqGSM49BAMCA0gAMEUCIDosNc+SaJcgsd4ysf1+scjNYfZ9SQc8RMNXSoblo7N5AiEAx3dCEivP38gKuQAUtmO1",
        "fTfx9NZ3SrOl9d0lRLCh0RE=",
    ),
    key: concat!(
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgS0nAqr2smROnGilAja5OtakrNpS2NODHx68tFtRzfs2hRANC",
        "AARInOqxBGDnDT/JIinKIc3TWuE6EgO2OFPt9ohRKQCeLeLTgk06Bz0DCLph72e3Avj+2n8JeWsAGYXSMozcThJd",
    ),
};

/// Vouched for, but as `siem.example.com`.
pub const ELSEWHERE: Shown = Shown {
    certificate: concat!(
        "MIIBfzCCASSgAwIBAgIUCgz69wIf7x6B/3Pm1RheHUsJEeMwCgYIKoZIzj0EAwIwFDESMBAGA1UEAwwJZWxzZXdoZXJlMCAX",
        "DTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAUMRIwEAYDVQQDDAllbHNld2hlcmUwWTATBgcqhkjOPQIBBggqhkjO",
        "PQMBBwNCAAR8HMNIF4MD8aaDEXrQFpokLsuAi1hpu4x0/5gEVGSFCw2cctMXTqsht13s4kuAqRo4NWJjoAPY8RcPuJOgKvE1",
        "o1IwUDAhBgNVHREEGjAYghBzaWVtLmV4YW1wbGUuY29thwTAAAIBMAwGA1UdEwEB/wQCMAAwHQYDVR0OBBYEFJ9b/HP/Xixd",
        "kuqZg3ThQXZvGJoZMAoGCCqGSM49BAMCA0kAMEYCIQCPgB4Iy+JLkzanyFYIWWhWELYD0cXB9sStJMxOS4ZlngIhAPklcGD6",
        "71Bj0P9H6GhUdO5GWq+lYDTwzWE95GCoJdCv",
    ),
    key: concat!(
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg8pwMBFAp2spUGRlHHli74QCMILnQtv8pE+VWbCjREBKhRANC",
        "AAR8HMNIF4MD8aaDEXrQFpokLsuAi1hpu4x0/5gEVGSFCw2cctMXTqsht13s4kuAqRo4NWJjoAPY8RcPuJOgKvE1",
    ),
};

impl Shown {
    /// The certificate as a file for `SSL_CERT_FILE` has it.
    pub fn pem(self) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", self.certificate)
    }

    /// Its key, as nobody is to see it.
    pub fn key(self) -> &'static str {
        self.key
    }

    /// A server's side of TLS that shows it.
    pub fn acceptor(self) -> TlsAcceptor {
        let certificate = CertificateDer::from(BASE64.decode(self.certificate).unwrap());
        let key = PrivateKeyDer::try_from(BASE64.decode(self.key).unwrap()).unwrap();
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A file of the authorities that are trusted: none of them vouches for the outsider.
pub fn authorities() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all((KNOWN.pem() + &P521.pem() + &ELSEWHERE.pem()).as_bytes()).unwrap();
    file
}
