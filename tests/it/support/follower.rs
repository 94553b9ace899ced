//! A reader of server-sent events.

use std::collections::VecDeque;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::{Bridge, SOON};

/// One block of a stream, as far as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub id: Option<String>,
    pub data: String,
}

/// An answer whose body is read bit by bit. Dropping it closes its connection.
pub struct Follower {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    text: String,
    read: VecDeque<Message>,
    /// Last id that came: where a reader would go on.
    pub last_id: Option<String>,
}

impl Follower {
    /// Asks with this key; `last_id` is what a reader that comes again says.
    pub async fn open(bridge: &Bridge, key: &str, path: &str, last_id: Option<&str>) -> Self {
        let mut request =
            Request::get(format!("{}{path}", bridge.url)).header("authorization", format!("Bearer {key}"));
        if let Some(last_id) = last_id {
            request = request.header("last-event-id", last_id);
        }
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let answer = client.request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            text: String::new(),
            read: VecDeque::new(),
            last_id: last_id.map(str::to_owned),
        }
    }

    /// The next block that has an id or data; `None` at a clean end, a panic at any other.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.read.pop_front() {
                if message.id.is_some() {
                    self.last_id.clone_from(&message.id);
                }
                return Some(message);
            }
            let frame =
                tokio::time::timeout(SOON, self.body.frame()).await.expect("a heartbeat comes before");
            let bytes = frame?.expect("the body ends as it should").into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let mut message = Message::default();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => message.id = Some(id.to_owned()),
                        Some(("data", data)) => message.data.push_str(data),
                        _ => {}
                    }
                }
                if message != Message::default() {
                    self.read.push_back(message);
                }
                self.text = rest.to_owned();
            }
        }
    }

    /// The next event; a panic if the stream ends before, or nothing but heartbeats comes.
    pub async fn event(&mut self) -> Value {
        let event = async {
            loop {
                let message = self.next().await.expect("an event before the end");
                if !message.data.is_empty() {
                    return serde_json::from_str(&message.data).unwrap();
                }
            }
        };
        tokio::time::timeout(SOON, event).await.expect("an event in time")
    }

    /// Reads until the end, which must come soon and be clean.
    pub async fn end(mut self) {
        let end = async { while self.next().await.is_some() {} };
        tokio::time::timeout(SOON, end).await.expect("an end in time");
    }
}
