//! What a receiver asks for besides the signature, as checked values: credentials, headers of its own, a
//! client certificate. Stored sealed as one JSON text (`webhook.access_sealed`) and never shown again;
//! `domain/webhook/access_input.rs` reads them.

use serde::{Deserialize, Serialize};

use crate::domain::secret::Secret;

/// Everything that a receiver asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Credentials that go into `Authorization`.
    #[serde(default)]
    pub auth: Auth,
    /// Headers that go with every POST; names in lower case, none of them reserved.
    #[serde(default)]
    pub headers: Vec<(String, Secret)>,
    /// What we show in the TLS handshake.
    #[serde(default)]
    pub client_certificate: Option<ClientCertificate>,
}

/// Credentials that go into `Authorization`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Auth {
    /// None.
    #[default]
    None,
    /// RFC 7617.
    Basic {
        /// Without a colon.
        username: String,
        /// May be empty.
        password: Secret,
    },
    /// A fixed token.
    Bearer {
        /// As the receiver issued it.
        token: Secret,
    },
    /// A scheme of the receiver's own (RFC 9110, section 11.4), such as `Token …` or `Splunk …`.
    Scheme {
        /// What stands before the blank.
        scheme: String,
        /// What stands behind it.
        credentials: Secret,
    },
    /// RFC 6749, section 4.4: a token by client credentials, kept until shortly before it ends.
    Oauth2 {
        /// Where tokens are issued; checked like the webhook's own address.
        token_url: String,
        /// Whom it is issued to.
        client_id: String,
        /// The client's secret.
        client_secret: Secret,
        /// What it is asked for; `None`: not mentioned.
        scope: Option<String>,
        /// Which API it is for; `None`: not mentioned.
        audience: Option<String>,
        /// `true`: id and secret go into the form instead of into `Authorization`.
        in_body: bool,
    },
}

impl Auth {
    /// As `webhook.auth_kind` has it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic { .. } => "basic",
            Self::Bearer { .. } => "bearer",
            Self::Scheme { .. } => "scheme",
            Self::Oauth2 { .. } => "oauth2",
        }
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The certificate first, then those that issued it.
    pub chain: String,
    /// PKCS#8, SEC1 or PKCS#1.
    pub key: Secret,
}

impl Access {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
