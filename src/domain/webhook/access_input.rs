//! Headers, credentials and client certificate as a registration gives them: held against the rules and laid
//! over the present ones. Violations never show the values. The checked values are in
//! `domain/delivery/access.rs`.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::domain::delivery::access::{Access, Auth, ClientCertificate};
use crate::domain::secret::Secret;
use crate::domain::violation::{Violation, pointer_token};
use crate::domain::webhook::filters::check_url;
use crate::domain::webhook::target::TargetPolicy;

const HEADERS_MAX: usize = 20;
const HEADER_NAME_BYTES_MAX: usize = 100;
const HEADER_VALUE_BYTES_MAX: usize = 4096;
const SCHEME_BYTES_MAX: usize = 100;
/// User names, passwords, tokens and the like.
const CREDENTIAL_BYTES_MAX: usize = 4096;
const CHAIN_BYTES_MAX: usize = 64 * 1024;
const KEY_BYTES_MAX: usize = 16 * 1024;

/// Headers that are ours, the signature's, or the connection's.
const RESERVED: [&str; 11] = [
    "host",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "authorization",
    "user-agent",
    "accept-encoding",
];
const RESERVED_BEGINNINGS: [&str; 5] = ["content-", "proxy-", "webhook-", "ce-", "presence-bridge-"];

/// Access as given; `None`: not mentioned.
#[derive(Debug, Default)]
pub struct AccessInput {
    /// Headers of its own, as given; they replace the former ones.
    pub headers: Option<Vec<(String, Secret)>>,
    /// Credentials.
    pub auth: Option<AuthInput>,
    /// Certificate chain and key; `Some(None)` takes them away.
    pub client_certificate: Option<Option<(String, Secret)>>,
}

/// Credentials as given: the kind, and what goes with it.
#[derive(Debug, Default)]
pub struct AuthInput {
    /// `none`, `basic`, `bearer`, `scheme` or `oauth2`.
    pub kind: String,
    /// Of `basic`.
    pub username: Option<String>,
    /// Of `basic`.
    pub password: Option<Secret>,
    /// Of `bearer`.
    pub token: Option<Secret>,
    /// Of `scheme`: its name.
    pub scheme: Option<String>,
    /// Of `scheme`: what stands behind the name.
    pub credentials: Option<Secret>,
    /// Of `oauth2`, as everything below.
    pub token_url: Option<String>,
    /// Whom tokens are issued to.
    pub client_id: Option<String>,
    /// The client's secret.
    pub client_secret: Option<Secret>,
    /// What a token is asked for.
    pub scope: Option<String>,
    /// Which API a token is for.
    pub audience: Option<String>,
    /// Whether id and secret go into the form.
    pub in_body: Option<bool>,
}

/// The same, checked; `None`: not mentioned.
#[derive(Debug, Default)]
pub struct AccessChanges {
    /// Headers of its own, names in lower case.
    pub headers: Option<Vec<(String, Secret)>>,
    /// Credentials.
    pub auth: Option<Auth>,
    /// Certificate chain and key; `Some(None)` takes them away.
    pub client_certificate: Option<Option<ClientCertificate>>,
}

impl AccessInput {
    /// Notes everything that is wrong; what is good comes back.
    pub(in crate::domain) fn check(
        self,
        targets: &TargetPolicy,
        found: &mut Vec<Violation>,
    ) -> AccessChanges {
        AccessChanges {
            headers: self.headers.map(|headers| check_headers(headers, found)),
            auth: self.auth.and_then(|auth| auth.check(targets, found)),
            client_certificate: match self.client_certificate {
                None => None,
                Some(None) => Some(None),
                Some(Some((chain, key))) => check_certificate(chain, key, found).map(Some),
            },
        }
    }
}

impl AccessChanges {
    /// Access as it will be. Headers, credentials and certificate are replaced one by one.
    #[must_use]
    pub fn over(&self, present: &Access) -> Access {
        Access {
            auth: self.auth.as_ref().unwrap_or(&present.auth).clone(),
            headers: self.headers.as_ref().unwrap_or(&present.headers).clone(),
            client_certificate: self
                .client_certificate
                .as_ref()
                .unwrap_or(&present.client_certificate)
                .clone(),
        }
    }
}

fn check_headers(headers: Vec<(String, Secret)>, found: &mut Vec<Violation>) -> Vec<(String, Secret)> {
    if headers.len() > HEADERS_MAX {
        found.push(Violation::new("headers", format!("has more than {HEADERS_MAX} items")));
        return Vec::new();
    }
    let mut good: Vec<(String, Secret)> = Vec::with_capacity(headers.len());
    for (given, value) in headers {
        let field = format!("headers/{}", pointer_token(&given));
        let name = given.to_ascii_lowercase();
        let what = if name.is_empty() || name.len() > HEADER_NAME_BYTES_MAX || !name.bytes().all(is_token) {
            "has a name that no header can have"
        } else if is_reserved(&name) {
            "has a name that is not free: it is ours or the connection's"
        } else if good.iter().any(|(known, _)| *known == name) {
            "is there twice, in different spellings"
        } else if value.expose().len() > HEADER_VALUE_BYTES_MAX {
            "has a value that is longer than 4096 bytes"
        } else if !value.expose().bytes().all(|byte| byte == b'\t' || is_visible(byte) || byte == b' ') {
            "has a value with other characters than visible ASCII, blanks and tabs"
        } else {
            good.push((name, value));
            continue;
        };
        found.push(Violation::new(field, what));
    }
    // An object has no order: the same headers in another one are no change.
    good.sort_by(|(a, _), (b, _)| a.cmp(b));
    good
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_visible(byte: u8) -> bool {
    (0x21..=0x7E).contains(&byte)
}

impl AuthInput {
    fn check(self, targets: &TargetPolicy, found: &mut Vec<Violation>) -> Option<Auth> {
        let before = found.len();
        let auth = match self.kind.as_str() {
            "none" => Auth::None,
            "basic" => {
                let username = self.username.unwrap_or_default();
                if username.contains(':') {
                    found
                        .push(Violation::new("auth/username", "has a colon in it, which Basic cannot carry"));
                }
                check_credential("auth/username", &username, found);
                let password = self.password.unwrap_or_else(|| Secret::new(""));
                if !password.expose().is_empty() {
                    check_credential("auth/password", password.expose(), found);
                }
                Auth::Basic { username, password }
            }
            "bearer" => {
                let token = self.token.unwrap_or_else(|| Secret::new(""));
                check_credential("auth/token", token.expose(), found);
                if !token.expose().bytes().all(is_visible) {
                    found.push(Violation::new("auth/token", "has other characters than visible ASCII"));
                }
                Auth::Bearer { token }
            }
            "scheme" => {
                let scheme = self.scheme.unwrap_or_default();
                let credentials = self.credentials.unwrap_or_else(|| Secret::new(""));
                check_scheme(&scheme, credentials.expose(), found);
                Auth::Scheme { scheme, credentials }
            }
            "oauth2" => {
                let token_url = self.token_url.unwrap_or_default();
                let token_url = check_url("auth/token_url", &token_url, targets, found);
                let client_id = self.client_id.unwrap_or_default();
                check_credential("auth/client_id", &client_id, found);
                let client_secret = self.client_secret.unwrap_or_else(|| Secret::new(""));
                check_credential("auth/client_secret", client_secret.expose(), found);
                for (field, text) in [("auth/scope", &self.scope), ("auth/audience", &self.audience)] {
                    if let Some(text) = text {
                        check_credential(field, text, found);
                    }
                }
                Auth::Oauth2 {
                    token_url: token_url.map(String::from).unwrap_or_default(),
                    client_id,
                    client_secret,
                    scope: self.scope,
                    audience: self.audience,
                    in_body: self.in_body.unwrap_or(false),
                }
            }
            _ => {
                found.push(Violation::new("auth/kind", "is none of none, basic, bearer, scheme, oauth2"));
                return None;
            }
        };
        (found.len() == before).then_some(auth)
    }
}

/// What both become is one header; a blank at an end of it would be lost on the way.
fn check_scheme(scheme: &str, credentials: &str, found: &mut Vec<Violation>) {
    if scheme.is_empty() || scheme.len() > SCHEME_BYTES_MAX || !scheme.bytes().all(is_token) {
        let what = format!("is not one word of 1 to {SCHEME_BYTES_MAX} bytes, such as Token");
        found.push(Violation::new("auth/scheme", what));
    }
    check_credential("auth/credentials", credentials, found);
    if !credentials.bytes().all(|byte| is_visible(byte) || byte == b' ') || credentials.trim() != credentials
    {
        let what = "has other characters than visible ASCII and blanks between them";
        found.push(Violation::new("auth/credentials", what));
    }
}

fn check_credential(field: &str, text: &str, found: &mut Vec<Violation>) {
    if text.is_empty() {
        found.push(Violation::new(field, "is empty"));
    } else if text.len() > CREDENTIAL_BYTES_MAX {
        found.push(Violation::new(field, format!("is longer than {CREDENTIAL_BYTES_MAX} bytes")));
    } else if text.chars().any(char::is_control) {
        found.push(Violation::new(field, "has control characters"));
    }
}

/// Both must be PEM, and belong to each other: a pair that does not would fail every handshake.
fn check_certificate(chain: String, key: Secret, found: &mut Vec<Violation>) -> Option<ClientCertificate> {
    let before = found.len();
    let mut wrong = |field: &str, what: &str| {
        found.push(Violation::new(format!("client_certificate/{field}"), what));
    };
    if chain.len() > CHAIN_BYTES_MAX {
        wrong("chain", "is longer than 64 KiB");
    }
    if key.expose().len() > KEY_BYTES_MAX {
        wrong("key", "is longer than 16 KiB");
    }
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap_or_default();
    if certificates.is_empty() {
        wrong("chain", "holds no certificates in PEM");
    }
    let private = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).ok();
    if private.is_none() {
        wrong("key", "holds no private key in PEM, or an encrypted one");
    }
    if let (Some(private), false) = (private, certificates.is_empty()) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        if CertifiedKey::from_der(certificates, private, &provider).is_err() {
            wrong("key", "is of no kind that we can use, or is not the key of the certificate");
        }
    }
    (found.len() == before).then_some(ClientCertificate { chain, key })
}
