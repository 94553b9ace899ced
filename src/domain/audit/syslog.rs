//! Audit entries as syslog messages (RFC 5424), and where they go.

use std::fmt;

use serde_json::{Map, Value, json};
use url::{Host, Url};

/// Facility "log audit".
const FACILITY: u8 = 13;
/// Our structured data. 32473 is the enterprise number that is set aside for examples: we have none of our
/// own.
const STRUCTURED_DATA: &str = "audit@32473";
/// Shortest limit that every shortened message fits into.
pub const MESSAGE_MIN: u32 = 2048;
/// Longest datagram; there may be relays that take no more than 2 KiB.
const DATAGRAM_MAX: usize = 2048;

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram each (RFC 5426).
    Udp,
    /// A stream, each with its length before it (RFC 6587).
    Tcp,
    /// The same within TLS (RFC 5425).
    Tls,
}

/// Who gets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Transport.
    pub transport: Transport,
    /// Name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl Receiver {
    /// Most bytes of a message that travels this way, where a setting allows `max_bytes`.
    #[must_use]
    pub fn message_max(&self, max_bytes: usize) -> usize {
        match self.transport {
            Transport::Udp => max_bytes.min(DATAGRAM_MAX),
            Transport::Tcp | Transport::Tls => max_bytes,
        }
    }

    /// From `udp://host:port`, `tcp://…` or `tls://…`; the usual ports are 514 and, with TLS, 6514.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let (transport, usual) = match url.scheme() {
            "udp" => (Transport::Udp, 514),
            "tcp" => (Transport::Tcp, 514),
            "tls" => (Transport::Tls, 6514),
            _ => return None,
        };
        let bare = ["", "/"].contains(&url.path()) && url.query().is_none() && url.fragment().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        let host = match url.host()? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let port = url.port().unwrap_or(usual);
        (bare && nobody && !host.is_empty() && port > 0).then_some(Self { transport, host, port })
    }
}

/// One message before it is written out.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// INFO, WARN or ERROR.
    pub level: &'a str,
    /// RFC 3339, UTC.
    pub at: &'a str,
    /// What happened; at most 32 visible ASCII characters.
    pub kind: &'a str,
    /// Ids, by name.
    pub ids: &'a [(&'static str, String)],
    /// The whole entry, as a JSON object with `id` and `data`.
    pub text: &'a str,
}

impl Message<'_> {
    /// As it travels, without its length, in at most `max` bytes (no less than [`MESSAGE_MIN`]). An entry
    /// that does not fit keeps the smallest members of its `data`, and says `shortened` in both parts.
    #[must_use]
    pub fn write(&self, max: usize) -> String {
        let whole = self.with(self.ids, self.text);
        if whole.len() <= max {
            return whole;
        }
        let mut entry: Map<String, Value> = serde_json::from_str(self.text).unwrap_or_default();
        let id = entry.get("id").cloned().unwrap_or_default();
        let details = entry.insert("data".to_owned(), json!({}));
        let told = json!({"audit_id": id, "bytes": self.text.len()});
        entry.insert("shortened".to_owned(), told.clone());
        let bytes = ("shortened", self.text.len().to_string());
        let ids: Vec<_> = self.ids.iter().cloned().chain([bytes.clone()]).collect();
        let without = self.with(&ids, &Value::Object(entry.clone()).to_string());
        let Some(room) = max.checked_sub(without.len()) else {
            let least = json!({"id": id, "at": self.at, "kind": self.kind, "data": {}, "shortened": told});
            return self.with(&[("id", id.to_string()), bytes], &least.to_string());
        };
        entry.insert("data".to_owned(), Value::Object(smallest(details, room)));
        self.with(&ids, &Value::Object(entry).to_string())
    }

    fn with(&self, ids: &[(&str, String)], text: &str) -> String {
        let severity = match self.level {
            "ERROR" => 3,
            "WARN" => 4,
            _ => 6,
        };
        let priority = FACILITY * 8 + severity;
        let kind: String = self.kind.chars().filter(char::is_ascii_graphic).take(32).collect();
        let mut message = format!("<{priority}>1 {} - presence-bridge - {kind} [{STRUCTURED_DATA}", self.at);
        for (name, value) in ids {
            message.push_str(&format!(" {name}=\""));
            for c in value.chars() {
                if matches!(c, '"' | '\\' | ']') {
                    message.push('\\');
                }
                message.push(if c.is_control() { ' ' } else { c });
            }
            message.push('"');
        }
        message.push_str("] ");
        message.push_str(text);
        message
    }
}

/// The smallest members of an object that together take up no more than `room` bytes as JSON.
fn smallest(details: Option<Value>, mut room: usize) -> Map<String, Value> {
    let Some(Value::Object(details)) = details else {
        return Map::new();
    };
    let length = |name: &String, value: &Value| {
        // Colon, comma.
        Value::from(name.as_str()).to_string().len() + value.to_string().len() + 2
    };
    let mut sized: Vec<_> =
        details.into_iter().map(|(name, value)| (length(&name, &value), name, value)).collect();
    sized.sort_by_key(|(length, ..)| *length);
    let fitting = sized.into_iter().map_while(|(length, name, value)| {
        room = room.checked_sub(length)?;
        Some((name, value))
    });
    fitting.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_the_rfc_has_it_and_nothing_breaks_out_of_it() {
        let ids = [("id", "7".to_owned()), ("agent", "a\"b]c\\d\n".to_owned())];
        let message = Message {
            level: "WARN",
            at: "2026-11-25T06:00:00.000Z",
            kind: "FRAME REJECTED",
            ids: &ids,
            text: "{\"id\":7}",
        };
        assert_eq!(
            message.write(8000),
            "<108>1 2026-11-25T06:00:00.000Z - presence-bridge - FRAMEREJECTED \
             [audit@32473 id=\"7\" agent=\"a\\\"b\\]c\\\\d \"] {\"id\":7}"
        );
    }

    #[test]
    fn an_entry_that_is_too_long_keeps_the_details_that_fit_and_says_so() {
        let at = "2026-11-25T06:00:00.000Z";
        let text = json!({"id": 7, "kind": "TRIED", "agent_id": "ann",
            "data": {"a": "é".repeat(5000), "b": "x".repeat(1500), "c": [1, 2], "": null}});
        let text = text.to_string();
        let ids = [("id", "7".to_owned()), ("agent", "ann".to_owned())];
        let message = Message { level: "INFO", at, kind: "TRIED", ids: &ids, text: &text };
        let read =
            |message: &str| -> Value { serde_json::from_str(message.split_once("] ").unwrap().1).unwrap() };
        for (max, kept) in [
            (MESSAGE_MIN, json!({"b": "x".repeat(1500), "c": [1, 2], "": null})),
            (1600, json!({"c": [1, 2], "": null})),
        ] {
            let max = usize::try_from(max).unwrap();
            let written = message.write(max);
            assert!(written.len() <= max, "{}", written.len());
            assert!(written.contains(&format!(" agent=\"ann\" shortened=\"{}\"] ", text.len())), "{written}");
            let shortened = json!({"audit_id": 7, "bytes": text.len()});
            let expected =
                json!({"id": 7, "kind": "TRIED", "agent_id": "ann", "data": kept, "shortened": shortened});
            assert_eq!(read(&written), expected);
        }
        assert_eq!(message.write(text.len() + 200), message.with(&ids, &text), "whole where it fits");
        // Ids longer than any that there is: the entry is named at least.
        let long = [("id", "7".to_owned()), ("agent", "\"".repeat(3000))];
        let least = Message { ids: &long, ..message }.write(2048);
        assert!(least.len() <= 2048 && read(&least)["id"] == 7 && read(&least)["at"] == at, "{least}");
    }

    #[test]
    fn receivers_are_read_and_shown_again() {
        for (text, shown) in [
            ("udp://127.0.0.1", "udp://127.0.0.1:514"),
            ("tcp://siem.example.com:601", "tcp://siem.example.com:601"),
            ("tls://[2001:db8::1]", "tls://[2001:db8::1]:6514"),
        ] {
            let receiver = Receiver::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(receiver.to_string(), shown);
            assert_eq!(Receiver::parse(shown), Some(receiver));
        }
        for wrong in [
            "",
            "siem:514",
            "http://siem",
            "tcp://",
            "tcp://u:p@siem:1",
            "tcp://siem:0",
            "udp://siem/x",
            "tcp://siem?x",
        ] {
            assert_eq!(Receiver::parse(wrong), None, "{wrong}");
        }
    }
}
