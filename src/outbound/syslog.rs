//! Carries syslog messages to their receiver. It is the operator's own, named in the configuration: no
//! address policy applies.
//!
//! Syslog knows no receipt: what was written into a connection that then breaks may be lost. So a batch
//! counts only once the connection has stayed whole for a moment after it.

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::dial::first_of;
use crate::domain::audit::syslog::{Receiver, Transport};
use crate::tls;

/// To open a connection, TLS included, and to write a batch.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const WRITE_WITHIN: Duration = Duration::from_secs(30);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Wire {
    Datagrams(UdpSocket),
    Stream(Box<dyn Stream>),
}

/// A way to the receiver that is open.
pub struct Sink(Wire);

impl Sink {
    /// Opens one.
    ///
    /// # Errors
    /// If nobody answers in time, or is not who they should be.
    pub async fn open(receiver: &Receiver) -> Result<Self> {
        let address = (receiver.host.as_str(), receiver.port);
        let open = async {
            if receiver.transport == Transport::Udp {
                let target = lookup_host(address).await?.next();
                let target = target.ok_or(Error::from(ErrorKind::AddrNotAvailable))?;
                let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(target).await?;
                return Ok(Self(Wire::Datagrams(socket)));
            }
            let found: Vec<_> = lookup_host(address).await?.collect();
            let plain = first_of(&found, CONNECT_WITHIN, |address, _| TcpStream::connect(address)).await?;
            if receiver.transport == Transport::Tcp {
                return Ok(Self(Wire::Stream(Box::new(plain))));
            }
            let mut config: ClientConfig = tls::client_config().map_err(Error::other)?;
            config.alpn_protocols.clear();
            let name = ServerName::try_from(receiver.host.clone()).map_err(Error::other)?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, plain).await?;
            Ok(Self(Wire::Stream(Box::new(stream))))
        };
        timeout(CONNECT_WITHIN, open).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
    }

    /// Writes messages out.
    ///
    /// # Errors
    /// If the receiver is gone, or does not take them.
    pub async fn send(&mut self, messages: &[String]) -> Result<()> {
        let write = async {
            match &mut self.0 {
                Wire::Datagrams(socket) => {
                    for message in messages {
                        socket.send(message.as_bytes()).await?;
                    }
                }
                Wire::Stream(stream) => {
                    let mut bytes = Vec::new();
                    for message in messages {
                        bytes.extend_from_slice(format!("{} ", message.len()).as_bytes());
                        bytes.extend_from_slice(message.as_bytes());
                    }
                    stream.write_all(&bytes).await?;
                    stream.flush().await?;
                }
            }
            Ok(())
        };
        timeout(WRITE_WITHIN, write).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
    }

    /// Waits this long for the connection to break; it must stay whole.
    ///
    /// # Errors
    /// If it does not.
    pub async fn stays_open(&mut self, span: Duration) -> Result<()> {
        let until = Instant::now() + span;
        let mut ignored = [0; 256];
        loop {
            let read = async {
                match &mut self.0 {
                    Wire::Datagrams(socket) => socket.recv(&mut ignored).await.map(|_| 1),
                    Wire::Stream(stream) => stream.read(&mut ignored).await,
                }
            };
            match timeout_at(until, read).await {
                Err(_) => return Ok(()),
                Ok(Ok(0)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}
