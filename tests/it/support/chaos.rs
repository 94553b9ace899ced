//! A wire between the bridge and Postgres that can be hurt: TCP on one end, the server's Unix socket on the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// What the wire does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Carries everything.
    Pass,
    /// Closes every connection, and new ones at once.
    Refuse,
    /// Keeps connections open and carries nothing, either way.
    Silent,
    /// Carries what new connections say; those from before stay silent.
    PassNew,
}

struct Wire {
    mode: watch::Sender<Mode>,
    /// Commits that are carried to the server and whose answer is swallowed, with the connection.
    swallow: AtomicU64,
    swallowed: watch::Sender<u64>,
    refused: AtomicU64,
    /// Connections of another generation stay silent in [`Mode::PassNew`].
    generation: AtomicU64,
    socket: PathBuf,
}

/// The wire; ends with its last clone.
#[derive(Clone)]
pub struct Chaos {
    wire: Arc<Wire>,
    port: u16,
    name: String,
}

impl Chaos {
    /// A wire to the database of a URL with a socket directory, as the test server gives them.
    pub async fn before(database_url: &str) -> Self {
        let url = url::Url::parse(database_url).unwrap();
        let dir = url.query_pairs().find(|(key, _)| key == "host").unwrap().1.into_owned();
        let socket = PathBuf::from(dir).join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Arc::new(Wire {
            mode: watch::Sender::new(Mode::Pass),
            swallow: AtomicU64::new(0),
            swallowed: watch::Sender::new(0),
            refused: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            socket,
        });
        let weak = Arc::downgrade(&wire);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(wire) = weak.upgrade() else { return };
                tokio::spawn(carry(wire, client));
            }
        });
        let name = url.path().trim_start_matches('/').to_owned();
        Self { wire, port, name }
    }

    /// What the bridge is to connect to.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", self.port, self.name)
    }

    /// Changes what the wire does, for connections that exist and for new ones.
    pub fn set(&self, mode: Mode) {
        if mode == Mode::PassNew {
            self.wire.generation.fetch_add(1, Ordering::SeqCst);
        }
        self.wire.mode.send_replace(mode);
    }

    /// Connections refused so far.
    pub fn refused(&self) -> u64 {
        self.wire.refused.load(Ordering::SeqCst)
    }

    /// Lets the next commits happen, and lose their answers.
    pub fn swallow_commits(&self, count: u64) {
        self.wire.swallow.store(count, Ordering::SeqCst);
    }

    /// Commits that have lost their answer so far.
    pub fn swallowed(&self) -> u64 {
        *self.wire.swallowed.borrow()
    }
}

/// One connection. A commit is the simple query `COMMIT`, which sqlx sends as one message.
async fn carry(wire: Arc<Wire>, client: TcpStream) {
    let mut mode = wire.mode.subscribe();
    if *mode.borrow_and_update() == Mode::Refuse {
        wire.refused.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let generation = wire.generation.load(Ordering::SeqCst);
    let Ok(server) = UnixStream::connect(&wire.socket).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut swallowing = false;
    loop {
        let now = *mode.borrow_and_update();
        let of_now = generation == wire.generation.load(Ordering::SeqCst);
        let passes = now == Mode::Pass || now == Mode::PassNew && of_now;
        tokio::select! {
            changed = mode.changed() => {
                if changed.is_err() || *mode.borrow() == Mode::Refuse {
                    return;
                }
            }
            read = from_client.read(&mut up), if passes => {
                let Ok(length @ 1..) = read else { return };
                let commits = up[..length].windows(7).any(|bytes| bytes == b"COMMIT\0");
                let take = |left: u64| left.checked_sub(1);
                swallowing |= commits
                    && wire.swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
                if to_server.write_all(&up[..length]).await.is_err() {
                    return;
                }
            }
            read = from_server.read(&mut down), if passes => {
                let Ok(length @ 1..) = read else { return };
                if swallowing {
                    wire.swallowed.send_modify(|count| *count += 1);
                    return;
                }
                if to_client.write_all(&down[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
