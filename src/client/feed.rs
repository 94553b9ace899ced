//! The feed of changes as it grows: a stream of server-sent events, resumed at its cursor.

use std::io::{self, BufRead, Read};
use std::thread::sleep;
use std::time::Duration;

use ureq::BodyReader;

use crate::client::api::{Api, ApiError, Query};
use crate::client::transport::reason;

const PATH: [&str; 1] = ["events"];
/// Longest message of a stream: no event is near that long.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Waits before the stream is opened again; they double.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Where to begin.
#[derive(Clone, Debug)]
pub enum Start {
    /// With the next change that is stored.
    Now,
    /// With the changes that were stored at or after this time (RFC 3339).
    Since(String),
    /// Behind this cursor.
    Cursor(String),
}

/// What the feed says next.
pub enum Step {
    /// A change: the cursor behind it, and its JSON.
    Change {
        /// Where to go on.
        cursor: String,
        /// An item as in the list.
        item: String,
    },
    /// The stream broke off; the next step opens it again.
    Lost(String),
    /// It is open again.
    Back,
}

/// A reader of the feed, who misses no change and sees none twice over any number of streams.
pub struct Feed<'a> {
    api: &'a Api,
    filter: Query,
    cursor: Option<String>,
    stream: Option<Stream>,
    wait: Duration,
    /// Streams in a row that could not be opened.
    failures: u32,
}

type Stream = io::BufReader<BodyReader<'static>>;

impl<'a> Feed<'a> {
    /// Opens the feed, and knows then where it begins.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn open(api: &'a Api, mut filter: Query, start: Start) -> Result<Self, ApiError> {
        let cursor = match start {
            Start::Cursor(cursor) => Some(cursor),
            Start::Since(since) => {
                filter.push(("since", since));
                None
            }
            Start::Now => None,
        };
        let mut feed = Self { api, filter, cursor, stream: None, wait: WAIT_MIN, failures: 0 };
        let mut stream = feed.connect()?;
        // The first id is the place at which the stream begins.
        while let Ok(Some(first)) = read_message(&mut stream) {
            feed.note(&first);
            if first.id.is_some() {
                feed.stream = Some(stream);
                break;
            }
        }
        Ok(feed)
    }

    /// Where it goes on behind the last change that it gave.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn note(&mut self, message: &Message) {
        if let Some(id) = &message.id {
            self.cursor = Some(id.clone());
        }
        if let Some(milliseconds) = message.retry {
            self.wait = Duration::from_millis(milliseconds).clamp(WAIT_MIN, WAIT_MAX);
        }
    }

    /// Waits for the next step.
    ///
    /// # Errors
    /// If the bridge refuses to go on.
    pub fn next_step(&mut self) -> Result<Step, ApiError> {
        loop {
            let Some(stream) = &mut self.stream else {
                return self.again();
            };
            match read_message(stream) {
                Ok(Some(message)) => {
                    self.note(&message);
                    if !message.data.is_empty() {
                        let cursor = self.cursor.clone().unwrap_or_default();
                        return Ok(Step::Change { cursor, item: message.data });
                    }
                }
                Ok(None) => return Ok(self.lost("the bridge ended the stream".to_owned())),
                Err(error) => return Ok(self.lost(reason(&ureq::Error::from(error)))),
            }
        }
    }

    fn lost(&mut self, reason: String) -> Step {
        self.stream = None;
        Step::Lost(reason)
    }

    fn again(&mut self) -> Result<Step, ApiError> {
        sleep((self.wait * 2_u32.saturating_pow(self.failures)).min(WAIT_MAX));
        self.failures = (self.failures + 1).min(10);
        match self.connect() {
            Ok(stream) => {
                self.stream = Some(stream);
                self.failures = 0;
                Ok(Step::Back)
            }
            Err(error) if passes(&error) => Ok(Step::Lost(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn connect(&self) -> Result<Stream, ApiError> {
        let mut query = self.filter.clone();
        query.push(("follow", "true".to_owned()));
        query.extend(self.cursor.clone().map(|cursor| ("cursor", cursor)));
        self.api.stream(&PATH, &query)
    }
}

/// Whether it may pass by itself, as while a bridge starts again.
fn passes(error: &ApiError) -> bool {
    match error {
        ApiError::Unreachable { .. } => true,
        ApiError::Refused(problem) => problem.status >= 500 || problem.status == 429,
        ApiError::NotTheApi { status, .. } => *status >= 500,
    }
}

/// A message of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    id: Option<String>,
    data: String,
    retry: Option<u64>,
}

/// Reads up to the next message that holds something; `None` at the end, where half a message does not count.
fn read_message(stream: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut message = Message::default();
    let mut has_data = false;
    let mut line = Vec::new();
    let mut left = MESSAGE_BYTES_MAX;
    loop {
        line.clear();
        let read = stream.by_ref().take(left).read_until(b'\n', &mut line)?;
        left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.is_empty() {
            if has_data || message.id.is_some() || message.retry.is_some() {
                return Ok(Some(message));
            }
            left = MESSAGE_BYTES_MAX;
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let (name, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                if has_data {
                    message.data.push('\n');
                }
                message.data.push_str(value);
                has_data = true;
            }
            "id" => message.id = Some(value.to_owned()),
            "retry" => message.retry = value.parse().ok(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn messages(text: &str) -> Vec<(Option<String>, String, Option<u64>)> {
        let mut stream = io::BufReader::with_capacity(3, text.as_bytes());
        std::iter::from_fn(|| read_message(&mut stream).unwrap()).map(|m| (m.id, m.data, m.retry)).collect()
    }

    #[test]
    fn messages_are_read_as_browsers_read_them() {
        let id = |text: &str| Some(text.to_owned());
        let text = ": heartbeat\n\nretry: 1000\n\nid: 7\ndata: {\"a\":\ndata:1}\n\n\n\r\nid:8\r\ndata:  x\r\n\r\ndata\n\nid: 9\n\nevent: y\ndata: z\n";
        let expected = [
            (None, String::new(), Some(1000)),
            (id("7"), "{\"a\":\n1}".to_owned(), None),
            (id("8"), " x".to_owned(), None),
            (None, String::new(), None),
            (id("9"), String::new(), None),
        ];
        assert_eq!(messages(text), expected, "the last one is cut off and does not count");
    }

    #[test]
    fn a_message_without_an_end_is_given_up() {
        let mut endless = io::BufReader::new(EndlessLines { given: 0 });
        assert_eq!(read_message(&mut endless).unwrap(), None);
        let given = endless.get_ref().given;
        assert!(u64::try_from(given).unwrap() < MESSAGE_BYTES_MAX + 65_536, "{given} bytes were read");
    }

    /// Lines of data for ever, and never the empty one that ends a message.
    struct EndlessLines {
        given: usize,
    }

    impl Read for EndlessLines {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let line = b"data: x\n";
            let whole = buffer.len() / line.len() * line.len();
            buffer[..whole].chunks_mut(line.len()).for_each(|chunk| chunk.copy_from_slice(line));
            self.given += whole;
            Ok(whole)
        }
    }
}
