//! Audit entries as syslog messages (RFC 5424), and where they go.

use std::fmt;

use url::{Host, Url};

/// Facility "log audit".
const FACILITY: u8 = 13;
/// Our structured data. 32473 is the enterprise number that is set aside for examples: we have none of our
/// own.
const STRUCTURED_DATA: &str = "audit@32473";
/// Longest text behind the ids in one datagram; there may be relays that take no more than 2 KiB.
const DATAGRAM_TEXT_MAX: usize = 1400;

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
    /// The whole entry.
    pub text: &'a str,
}

impl Message<'_> {
    /// As it travels, without its length.
    #[must_use]
    pub fn write(&self, transport: Transport) -> String {
        let severity = match self.level {
            "ERROR" => 3,
            "WARN" => 4,
            _ => 6,
        };
        let priority = FACILITY * 8 + severity;
        let kind: String = self.kind.chars().filter(char::is_ascii_graphic).take(32).collect();
        let mut message = format!("<{priority}>1 {} - presence-bridge - {kind} [{STRUCTURED_DATA}", self.at);
        for (name, value) in self.ids {
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
        match transport {
            Transport::Udp => message.extend(
                self.text
                    .char_indices()
                    .take_while(|(at, c)| at + c.len_utf8() <= DATAGRAM_TEXT_MAX)
                    .map(|(_, c)| c),
            ),
            Transport::Tcp | Transport::Tls => message.push_str(self.text),
        }
        message
    }
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
            message.write(Transport::Tcp),
            "<108>1 2026-11-25T06:00:00.000Z - presence-bridge - FRAMEREJECTED \
             [audit@32473 id=\"7\" agent=\"a\\\"b\\]c\\\\d \"] {\"id\":7}"
        );
        let long = "é".repeat(5000);
        let datagram = Message { text: &long, ..message }.write(Transport::Udp);
        assert!(datagram.len() < 1600 && datagram.ends_with('é'));
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
