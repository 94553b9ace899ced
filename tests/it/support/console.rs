//! The console as a browser without JavaScript uses it: pages and forms, with cookies.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::json;
use url::form_urlencoded;

use super::bridge::{API_KEY, Bridge};
use super::client::{Answer, Client};
use super::eventually;

const FORM: &str = "application/x-www-form-urlencoded";

/// A browser that is logged in.
pub struct Console {
    client: Client,
    origin: String,
    cookies: Mutex<BTreeMap<String, String>>,
}

impl Console {
    /// Logs in with the key of every test bridge.
    pub async fn of(bridge: &Bridge) -> Self {
        Self::log_in(bridge, API_KEY).await
    }

    /// Logs in with a key of its own that has these scopes.
    pub async fn with_scopes(bridge: &Bridge, scopes: &[&str]) -> Self {
        let made = bridge.post("/v1/api-keys", &json!({"name": scopes.join("-"), "scopes": scopes})).await;
        assert_eq!(made.status, 201, "{}", made.text());
        Self::log_in(bridge, made.json()["key"].as_str().unwrap()).await
    }

    /// Logs in with this key.
    pub async fn log_in(bridge: &Bridge, key: &str) -> Self {
        let origin = bridge.url.clone();
        let console = Self { client: Client::new(origin.clone()), origin, cookies: Mutex::default() };
        let answer = console.post("/console/login", &[("key", key)]).await;
        assert_eq!(answer.status, 303, "{}", answer.text());
        console
    }

    /// Asks for a page.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[("accept", "text/html")], None).await
    }

    /// A page that is there.
    pub async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    }

    /// Waits until a page says this; gives the page.
    pub async fn says(&self, path: &str, text: &str) -> String {
        eventually(&format!("{path} says {text}"), || async {
            Some(self.page(path).await).filter(|page| page.contains(text))
        })
        .await
    }

    /// Sends a form, as a page of the console does.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let headers = [("content-type", FORM), ("origin", self.origin.as_str())];
        self.send("POST", path, &headers, Some(form.into_bytes())).await
    }

    /// Sends a form and looks at the page that it leads to; gives its address and the page.
    pub async fn done(&self, path: &str, fields: &[(&str, &str)]) -> (String, String) {
        let answer = self.post(path, fields).await;
        assert_eq!(answer.status, 303, "{path}: {}", answer.text());
        let to = answer.headers["location"].to_str().unwrap().to_owned();
        let page = self.page(&to).await;
        (to, page)
    }

    /// Sends a form, and looks at what comes of it: the page that it leads to, or the answer itself.
    pub async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let answer = self.post(path, fields).await;
        match place(&answer) {
            Some(to) => self.get(&to).await,
            None => answer,
        }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Answer {
        let cookies: Vec<String> =
            self.cookies.lock().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut headers = headers.to_vec();
        headers.push(("cookie", &cookies));
        let answer = self.client.try_send(method, path, &headers, body).await.expect("an answer");
        let mut kept = self.cookies.lock().unwrap();
        for cookie in answer.headers.get_all("set-cookie") {
            let (name, value) = cookie.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() {
                kept.remove(name);
            } else {
                kept.insert(name.to_owned(), value.to_owned());
            }
        }
        drop(kept);
        answer
    }
}

/// Where an answer leads.
pub fn place(answer: &Answer) -> Option<String> {
    answer.headers.get("location").map(|to| to.to_str().unwrap().to_owned())
}

/// The fields of the form that sends to an address, as a browser would send them untouched.
pub fn fields_of(page: &str, action: &str) -> Vec<(String, String)> {
    let start =
        page.find(&format!("action=\"{action}\"")).unwrap_or_else(|| panic!("no form {action}: {page}"));
    let form = page[start..].split("</form>").next().unwrap();
    let mut fields = Vec::new();
    for tag in form.split('<').skip(1) {
        let Some(name) = attribute(tag, "name") else { continue };
        if tag.starts_with("input") {
            let box_like = attribute(tag, "type").is_some_and(|kind| kind == "checkbox");
            if !box_like || tag.contains(" checked") {
                fields.push((name, attribute(tag, "value").unwrap_or_default()));
            }
        } else if tag.starts_with("textarea") {
            let text = tag.split_once('>').unwrap().1.trim_start_matches('\n');
            fields.push((name, unescaped(text)));
        } else if tag.starts_with("select") {
            let options = form.split(&format!("<{tag}")).nth(1).unwrap().split("</select>").next().unwrap();
            let options: Vec<&str> = options.split("<option").skip(1).collect();
            let chosen = options.iter().find(|option| option.contains(" selected")).or(options.first());
            fields.push((name, chosen.and_then(|option| attribute(option, "value")).unwrap_or_default()));
        }
    }
    fields
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let value = tag.split_once(&format!(" {name}=\""))?.1.split('"').next()?;
    Some(unescaped(value))
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// The same fields with other values; what is not there yet is added.
pub fn with(fields: &[(String, String)], changed: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all: Vec<_> =
        fields.iter().filter(|(name, _)| !changed.iter().any(|(other, _)| other == name)).cloned().collect();
    all.extend(changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    all
}

/// Fields as [`Console::submit`] takes them.
pub fn pairs(fields: &[(String, String)]) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
