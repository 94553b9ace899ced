//! How a webhook's receiver is entered: headers of its own, credentials, client certificate. What is set is
//! never shown again, so a form says of each whether it stays.

use maud::{Markup, html};
use serde::Deserialize;

use crate::console::fields::{Fields, field};
use crate::domain::secret::Secret;
use crate::domain::violation::Violation;
use crate::domain::webhook::access_input::{AccessInput, AuthInput};

/// Settings that this form sets.
pub const NAMES: [&str; 3] = ["headers", "auth", "client_certificate"];

/// Stays as it is.
const KEEP: &str = "keep";
/// Is replaced by what the form holds.
const REPLACE: &str = "replace";
/// Is taken away.
const REMOVE: &str = "remove";

/// Every field as it was typed; what was not sent is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AccessForm {
    headers_do: String,
    headers: Option<Secret>,
    #[serde(rename = "auth/kind")]
    kind: String,
    #[serde(rename = "auth/username")]
    username: String,
    #[serde(rename = "auth/password")]
    password: Option<Secret>,
    #[serde(rename = "auth/token")]
    token: Option<Secret>,
    #[serde(rename = "auth/scheme")]
    scheme: String,
    #[serde(rename = "auth/credentials")]
    credentials: Option<Secret>,
    #[serde(rename = "auth/token_url")]
    token_url: String,
    #[serde(rename = "auth/client_id")]
    client_id: String,
    #[serde(rename = "auth/client_secret")]
    client_secret: Option<Secret>,
    #[serde(rename = "auth/scope")]
    scope: String,
    #[serde(rename = "auth/audience")]
    audience: String,
    #[serde(rename = "auth/in_body")]
    in_body: String,
    certificate_do: String,
    #[serde(rename = "client_certificate/chain")]
    chain: String,
    #[serde(rename = "client_certificate/key")]
    key: Option<Secret>,
}

impl AccessForm {
    /// The fields as `services/webhooks.rs` takes them, and what could not be read.
    pub fn read(&self) -> (AccessInput, Vec<Violation>) {
        let mut wrong = Vec::new();
        let headers = match self.headers_do.as_str() {
            REPLACE => Some(self.read_headers(&mut wrong)),
            REMOVE => Some(Vec::new()),
            _ => None,
        };
        let client_certificate = match self.certificate_do.as_str() {
            REPLACE => Some(Some((self.chain.clone(), or_empty(self.key.as_ref())))),
            REMOVE => Some(None),
            _ => None,
        };
        (AccessInput { headers, auth: self.read_auth(), client_certificate }, wrong)
    }

    /// One header on each line; what is wrong with a line never says what is in it.
    fn read_headers(&self, wrong: &mut Vec<Violation>) -> Vec<(String, Secret)> {
        let text = self.headers.as_ref().map_or("", Secret::expose);
        let mut headers = Vec::new();
        for (at, line) in text.lines().filter(|line| !line.trim().is_empty()).enumerate() {
            match line.split_once(':') {
                Some((name, value)) => headers.push((name.trim().to_owned(), Secret::new(value.trim()))),
                None => wrong.push(Violation::new(format!("headers/{at}"), "has no colon behind a name")),
            }
        }
        headers
    }

    /// Only what belongs to the kind; the rest was typed before the kind was chosen.
    fn read_auth(&self) -> Option<AuthInput> {
        if self.kind.is_empty() || self.kind == KEEP {
            return None;
        }
        let of = |kind: &str, secret: &Option<Secret>| (self.kind == kind).then(|| or_empty(secret.as_ref()));
        let text = |kind: &str, text: &str| (self.kind == kind).then(|| text.trim().to_owned());
        let optional = |value: Option<String>| value.filter(|text| !text.is_empty());
        Some(AuthInput {
            kind: self.kind.clone(),
            username: text("basic", &self.username),
            password: of("basic", &self.password),
            token: of("bearer", &self.token),
            scheme: text("scheme", &self.scheme),
            credentials: of("scheme", &self.credentials),
            token_url: text("oauth2", &self.token_url),
            client_id: text("oauth2", &self.client_id),
            client_secret: of("oauth2", &self.client_secret),
            scope: optional(text("oauth2", &self.scope)),
            audience: optional(text("oauth2", &self.audience)),
            in_body: Some(!self.in_body.is_empty()),
        })
    }

    /// The fields. Secrets are not filled in again: whoever sends a form twice types them twice.
    pub fn draw(&self, fields: &Fields, is_new: bool) -> Markup {
        let (keep_headers, keep_auth) = if is_new { ("none", "none") } else { ("as they are", "as it is") };
        html! {
            (fields.choice(field("headers_do", "Headers of its own", ""), &self.headers_do,
                &choices(&[(KEEP, keep_headers), (REPLACE, "these"), (REMOVE, "none")], is_new)))
            (fields.lines(field("headers", "These headers", "Name: value, one on each line. Their values are not shown again."), ""))
            (fields.choice(field("auth/kind", "Credentials", ""), &self.kind, &choices(&[
                (KEEP, keep_auth), ("none", "none"), ("basic", "Basic: user name and password"), ("bearer", "Bearer: a token"),
                ("scheme", "A scheme of its own"), ("oauth2", "OAuth 2: a token by client credentials"),
            ], is_new)))
            details open[self.kind == "basic"] { summary { "For Basic" }
                (fields.text(field("auth/username", "User name", ""), &self.username))
                (fields.secret(field("auth/password", "Password", "")))
            }
            details open[self.kind == "bearer"] { summary { "For Bearer" } (fields.secret(field("auth/token", "Token", ""))) }
            details open[self.kind == "scheme"] { summary { "For a scheme of its own" }
                (fields.text(field("auth/scheme", "Scheme", "One word, such as Token."), &self.scheme))
                (fields.secret(field("auth/credentials", "What stands behind it", "")))
            }
            details open[self.kind == "oauth2"] { summary { "For OAuth 2" } (self.draw_oauth2(fields)) }
            (fields.choice(field("certificate_do", "Client certificate", ""), &self.certificate_do,
                &choices(&[(KEEP, keep_auth), (REPLACE, "this one"), (REMOVE, "none")], is_new)))
            details open[self.certificate_do == REPLACE] { summary { "This certificate" }
                (fields.lines(field("client_certificate/chain", "Chain", "PEM, its own certificate first."), &self.chain))
                (fields.lines(field("client_certificate/key", "Private key", "PEM, not encrypted. It is not shown again."), ""))
            }
        }
    }

    fn draw_oauth2(&self, fields: &Fields) -> Markup {
        html! {
            (fields.text(field("auth/token_url", "Address of the token endpoint", ""), &self.token_url))
            (fields.text(field("auth/client_id", "Client id", ""), &self.client_id))
            (fields.secret(field("auth/client_secret", "Client secret", "")))
            (fields.text(field("auth/scope", "Scope", "May be empty."), &self.scope))
            (fields.text(field("auth/audience", "Audience", "May be empty."), &self.audience))
            (fields.choice(field("auth/in_body", "Id and secret go", ""), &self.in_body,
                &[("", "into the Authorization header"), ("yes", "into the form")]))
        }
    }
}

fn or_empty(secret: Option<&Secret>) -> Secret {
    secret.cloned().unwrap_or_else(|| Secret::new(""))
}

/// What is new has nothing that could stay besides nothing.
fn choices<'a>(all: &[(&'a str, &'a str)], is_new: bool) -> Vec<(&'a str, &'a str)> {
    let superfluous = |value: &str| is_new && (value == REMOVE || value == "none");
    all.iter().filter(|(value, _)| !superfluous(value)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_chosen_stays_and_what_belongs_to_another_kind_does_not_count() {
        let (input, wrong) = AccessForm::default().read();
        assert!(wrong.is_empty());
        assert!(input.headers.is_none() && input.auth.is_none() && input.client_certificate.is_none());
        let form = AccessForm {
            kind: "bearer".to_owned(),
            token: Some(Secret::new("t")),
            username: "ann".to_owned(),
            headers_do: REMOVE.to_owned(),
            certificate_do: REMOVE.to_owned(),
            ..AccessForm::default()
        };
        let (input, _) = form.read();
        let auth = input.auth.unwrap_or_default();
        assert_eq!((auth.kind.as_str(), auth.username, auth.token.is_some()), ("bearer", None, true));
        assert_eq!(input.headers.map(|headers| headers.len()), Some(0));
        assert!(matches!(input.client_certificate, Some(None)));
    }

    #[test]
    fn headers_are_read_by_line_and_their_faults_do_not_tell_them() {
        let form = AccessForm {
            headers_do: REPLACE.to_owned(),
            headers: Some(Secret::new("X-Team: desk: 7\r\n\r\nsecret without colon")),
            ..AccessForm::default()
        };
        let (input, wrong) = form.read();
        let headers = input.headers.unwrap_or_default();
        assert_eq!(headers.len(), 1);
        assert!(headers.iter().all(|(name, value)| name == "X-Team" && value.expose() == "desk: 7"));
        assert_eq!(wrong, [Violation::new("headers/1", "has no colon behind a name")]);
    }
}
