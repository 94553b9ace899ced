//! The console as a browser asks for it: pages and live streams behind one login.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use genesys_simulator::http::Api;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::bridge::Bridge;

/// Somebody who is logged in.
pub struct Console {
    api: Api,
    address: String,
    cookie: String,
}

/// A live stream that is read until it is dropped.
pub struct Live {
    reader: JoinHandle<()>,
    bytes: Arc<AtomicU64>,
}

impl Console {
    /// Logs in with a key.
    pub async fn log_in(bridge: &Bridge, key: &str) -> anyhow::Result<Self> {
        let address = bridge.listen.clone();
        let origin = format!("http://{address}");
        let api = Api::new(&origin).with_header("origin", &origin);
        let form = format!("key={key}");
        let reply = api.post_text("/console/login", "application/x-www-form-urlencoded", form).await?;
        let cookie = reply.header("set-cookie").and_then(|cookie| cookie.split(';').next());
        let cookie =
            cookie.with_context(|| format!("no cookie: {} {}", reply.status, reply.excerpt()))?.to_owned();
        Ok(Self { api: api.with_header("cookie", &cookie), address, cookie })
    }

    /// Reads a page; gives its status, the time until its last byte, and its bytes.
    pub async fn page(&self, path: &str) -> anyhow::Result<(u16, Duration, usize)> {
        let asked = Instant::now();
        let reply = self.api.get(path).await?;
        Ok((reply.status, asked.elapsed(), reply.body.len()))
    }

    /// Opens a live stream and reads it.
    pub async fn follow(&self, path: &str) -> anyhow::Result<Live> {
        let mut socket = TcpStream::connect(&self.address).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\naccept: text/event-stream\r\n\r\n",
            self.address, self.cookie
        );
        socket.write_all(request.as_bytes()).await?;
        let mut buffer = vec![0; 64 * 1024];
        let read = socket.read(&mut buffer).await?;
        let head = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned();
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.starts_with("HTTP/1.1 200 "), "{path} answered {status}");
        ensure!(head.contains("text/event-stream"), "{path} has nothing that moves");
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = bytes.clone();
        let reader = tokio::spawn(async move {
            while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                counted.fetch_add(u64::try_from(read).unwrap_or(0), Ordering::Relaxed);
            }
        });
        Ok(Live { reader, bytes })
    }
}

impl Live {
    /// Bytes that it brought so far; fails if it has ended.
    pub fn bytes(&self) -> anyhow::Result<u64> {
        ensure!(!self.reader.is_finished(), "a live stream ended by itself");
        Ok(self.bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
