//! A TCP connection that can be asked, while its owner reads it, whether the other end is still there.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The connection. Whoever reads and writes it owns it: it is closed when this is dropped.
pub struct Socket(Arc<TcpStream>);

/// A look at a connection that somebody else owns.
#[derive(Clone)]
pub struct Peephole(Weak<TcpStream>);

/// What lies unread in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    Nothing,
    Bytes,
    /// Its end, orderly or not, with nothing before it.
    End,
}

impl Socket {
    pub fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    pub fn peephole(&self) -> Peephole {
        Peephole(Arc::downgrade(&self.0))
    }
}

impl Peephole {
    /// Asks the system itself: what it has received may not have reached the owner yet.
    pub fn unread(&self) -> Unread {
        let Some(stream) = self.0.upgrade() else { return Unread::End };
        match recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => Unread::Nothing,
            Ok(0) | Err(_) => Unread::End,
            Ok(_) => Unread::Bytes,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|read| buf.advance(read))),
            }
        }
    }
}

impl Socket {
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match shutdown(self.0.as_raw_fd(), Shutdown::Write) {
            // There is nobody left to tell.
            Ok(()) | Err(Errno::ENOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_tells_of_its_end_before_anybody_reads_it() {
        for (said, resets, expected) in
            [("", false, Unread::End), ("", true, Unread::End), ("x", false, Unread::Bytes)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut theirs, _) = listener.accept().await.unwrap();
            let socket = Socket::new(ours);
            let peephole = socket.peephole();
            assert_eq!(peephole.unread(), Unread::Nothing);
            theirs.write_all(said.as_bytes()).await.unwrap();
            if resets {
                theirs.set_zero_linger().unwrap();
            }
            // On loopback it has arrived when this returns.
            drop(theirs);
            assert_eq!(peephole.unread(), expected, "{said:?} {resets}");
            drop(socket);
            assert_eq!(peephole.unread(), Unread::End);
        }
    }
}
