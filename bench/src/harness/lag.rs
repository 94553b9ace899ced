//! A relay between a primary and its standby that delivers late what the primary says. With the primary ends
//! what is still on its way, as if the standby had never been sent it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

const CHUNK: usize = 64 * 1024;

/// A running relay; takes no new connections once it is dropped.
pub struct Lag {
    port: u16,
    millis: Arc<AtomicU64>,
    accepting: AbortHandle,
}

impl Lag {
    /// Leads to a port of the loopback, without a delay at first.
    pub async fn start(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (port, millis) = (listener.local_addr()?.port(), Arc::<AtomicU64>::default());
        let delay = millis.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // It ends with either end's connection, whatever the reason.
                let delay = delay.clone();
                tokio::spawn(async move { carry(client, server, &delay).await.ok() });
            }
        });
        Ok(Self { port, millis, accepting: accepting.abort_handle() })
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Everything that the server says from now on arrives that much later.
    pub fn set(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, server: u16, millis: &AtomicU64) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
    let (mut from_server, mut to_server) = server.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let (under_way, mut due) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    let read = async {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            if from_server.read_buf(&mut chunk).await? == 0 {
                return Ok(());
            }
            let at = Instant::now() + Duration::from_millis(millis.load(Ordering::Relaxed));
            if under_way.send((at, chunk.freeze())).is_err() {
                return Ok(());
            }
        }
    };
    let deliver = async {
        while let Some((at, chunk)) = due.recv().await {
            sleep_until(at).await;
            to_client.write_all(&chunk).await?;
        }
        Ok(())
    };
    let answer = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    tokio::select! {
        ended = read => ended,
        ended = deliver => ended,
        ended = answer => ended,
    }
}
