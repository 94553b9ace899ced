//! One connection through the relay.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;

use super::frames::{Gather, NotPostgres, Opening, Part, Unit, fatal, message, opening, query};
use super::plan::{Deed, Shared};
use super::{Mode, Server};

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// The connection ends; what is left of both sockets closes.
struct End;

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl From<NotPostgres> for End {
    fn from(_: NotPostgres) -> Self {
        Self
    }
}

/// A request that the server has and has not ended yet.
struct UnderWay {
    /// Of the answer nothing reaches the client until it is whole; then this is done.
    then: Then,
    held: Vec<Bytes>,
    /// What the server is given next, before the client is told that it is ready; what it says to that is
    /// nobody's.
    follow_up: Option<Bytes>,
    /// Only the `ReadyForQuery` is passed on.
    quiet: bool,
    commits: bool,
}

enum Then {
    Stream,
    Hold(Duration),
    Lose,
}

struct Carried {
    shared: Arc<Shared>,
    number: u64,
    to_client: OwnedWriteHalf,
    to_server: Writer,
    gather: Gather,
    waiting: VecDeque<Part>,
    under_way: Option<UnderWay>,
}

/// Carries a connection until one side ends it, or a fault does.
pub async fn carry(shared: Arc<Shared>, client: TcpStream) {
    let _ = client.set_nodelay(true);
    let mut mode = shared.mode.subscribe();
    let (number, generation) = {
        let mut tally = shared.tally();
        if *mode.borrow_and_update() == Mode::Refuse {
            tally.refused += 1;
            return;
        }
        tally.connections += 1;
        (tally.connections, tally.generation)
    };
    let Ok((mut from_server, to_server)) = connect(&shared.server()).await else { return };
    let (mut from_client, to_client) = client.into_split();
    let (mut up, mut down) = (BytesMut::with_capacity(65_536), BytesMut::with_capacity(65_536));
    let (gather, waiting) = (Gather::default(), VecDeque::new());
    let mut carried = Carried { shared, number, to_client, to_server, gather, waiting, under_way: None };
    let mut opened = false;
    loop {
        let now = *mode.borrow_and_update();
        let of_now = generation == carried.shared.tally().generation;
        let passes = now == Mode::Pass || now == Mode::PassNew && of_now;
        let done = tokio::select! {
            changed = mode.changed() => {
                if changed.is_err() || *mode.borrow() == Mode::Refuse { Err(End) } else { Ok(()) }
            }
            read = from_client.read_buf(&mut up), if passes => match read {
                Ok(1..) => carried.client_said(&mut up, &mut opened).await,
                _ => Err(End),
            },
            read = from_server.read_buf(&mut down), if passes => match read {
                Ok(1..) => carried.server_said(&mut down).await,
                _ => Err(End),
            },
        };
        if done.is_err() {
            return;
        }
    }
}

async fn connect(server: &Server) -> io::Result<(Reader, Writer)> {
    Ok(match server {
        Server::Tcp(address) => {
            let (read, write) = TcpStream::connect(address).await?.into_split();
            (Box::new(read), Box::new(write))
        }
        Server::Unix(path) => {
            let (read, write) = UnixStream::connect(path).await?.into_split();
            (Box::new(read), Box::new(write))
        }
    })
}

impl Carried {
    async fn client_said(&mut self, bytes: &mut BytesMut, opened: &mut bool) -> Result<(), End> {
        while !*opened {
            match opening(bytes)? {
                None => return Ok(()),
                Some(Opening::Encryption) => self.to_client.write_all(b"N").await?,
                Some(Opening::Cancel(packet)) => self.to_server.write_all(&packet).await?,
                Some(Opening::Startup(bytes)) => {
                    *opened = true;
                    let unit = Unit { bytes, statement: "-- startup".into(), runs: true };
                    self.waiting.push_back(Part::Request(unit));
                }
            }
        }
        while let Some(message) = message(bytes)? {
            self.waiting.extend(self.gather.take(&message));
        }
        self.pass_on().await
    }

    /// Gives the server what waits, up to a request that it has to end first.
    async fn pass_on(&mut self) -> Result<(), End> {
        // A password and the rows of a COPY belong to the request under way.
        while self.under_way.is_none() || matches!(self.waiting.front(), Some(Part::Aside(_))) {
            match self.waiting.pop_front() {
                None => return Ok(()),
                Some(Part::Aside(bytes)) => self.to_server.write_all(&bytes).await?,
                Some(Part::Request(unit)) => self.request(unit).await?,
            }
        }
        Ok(())
    }

    async fn request(&mut self, unit: Unit) -> Result<(), End> {
        let deed = self.shared.tally().next(self.number, &unit);
        let commits = unit.is_commit();
        let (mut then, mut bytes, mut follow_up) = (Then::Stream, unit.bytes, None);
        match deed {
            None => {}
            Some(Deed::PassLate(wait)) => sleep(wait).await,
            Some(Deed::AnswerLate(wait)) => then = Then::Hold(wait),
            Some(Deed::LoseAnswer) => then = Then::Lose,
            Some(Deed::LoseRequest) => return Err(End),
            Some(Deed::Refuse(state)) if state.starts_with("57P0") => {
                let text = "terminating connection due to administrator command";
                self.to_client.write_all(&fatal(state, text)).await?;
                return Err(End);
            }
            Some(Deed::Refuse(state)) => {
                // The server itself fails, so that it and the client agree on what has become of the
                // transaction.
                let raise =
                    format!("do $$begin raise 'refused by the relay' using errcode = '{state}'; end$$");
                bytes = query(&raise);
                // A commit that fails has ended its transaction.
                follow_up = commits.then(|| query("rollback"));
            }
        }
        self.to_server.write_all(&bytes).await?;
        self.under_way = Some(UnderWay { then, held: Vec::new(), follow_up, quiet: false, commits });
        Ok(())
    }

    async fn server_said(&mut self, bytes: &mut BytesMut) -> Result<(), End> {
        while let Some(message) = message(bytes)? {
            let ready = message.kind == b'Z';
            if ready {
                *self.shared.tally().ready.entry(self.number).or_default() += 1;
            }
            let Some(under_way) = &mut self.under_way else {
                // A notice, a notification, or the server's farewell.
                self.to_client.write_all(&message.bytes).await?;
                continue;
            };
            if ready && let Some(next) = under_way.follow_up.take() {
                under_way.quiet = true;
                self.to_server.write_all(&next).await?;
                continue;
            }
            if !ready && under_way.quiet {
                continue;
            }
            match under_way.then {
                Then::Stream => self.to_client.write_all(&message.bytes).await?,
                Then::Hold(_) | Then::Lose => under_way.held.push(message.bytes),
            }
            if ready {
                self.ended().await?;
                self.pass_on().await?;
            }
        }
        Ok(())
    }

    /// The server has ended the request.
    async fn ended(&mut self) -> Result<(), End> {
        let Some(UnderWay { then, held, commits, .. }) = self.under_way.take() else { return Ok(()) };
        match then {
            Then::Stream => {}
            Then::Lose => {
                self.shared.tally().swallowed += u64::from(commits);
                return Err(End);
            }
            Then::Hold(wait) => {
                sleep(wait).await;
                for bytes in held {
                    self.to_client.write_all(&bytes).await?;
                }
            }
        }
        Ok(())
    }
}
