//! Small client of the protocol `realtime`, on tungstenite: nothing of it comes from the simulator.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use genesys_simulator::genesys::{Genesys, GenesysOptions};
use genesys_simulator::http::Api;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Longest wait for something that should happen at once, on a busy machine.
pub const SECOND: Duration = Duration::from_secs(10);

pub async fn genesys() -> Genesys {
    Genesys::start(GenesysOptions::default()).await.unwrap()
}

pub struct Client {
    pub api: Api,
}

pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    pub async fn new(genesys: &Genesys) -> Self {
        Self::with(genesys, "sim-client", "sim-secret").await
    }

    pub async fn with(genesys: &Genesys, id: &str, secret: &str) -> Self {
        let token = Self::token(genesys, id, secret).await;
        let token = token["access_token"].as_str().unwrap().to_owned();
        Self { api: Api::new(&genesys.api_url()).with_bearer(&token) }
    }

    pub async fn token(genesys: &Genesys, id: &str, secret: &str) -> Value {
        let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        let api = Api::new(&genesys.api_url());
        api.post_text("/api/v2/oauth/token", "application/x-www-form-urlencoded", form).await.unwrap().json()
    }

    pub fn wish(agent: &str, heartbeat_ms: u64) -> Value {
        json!({"userId": agent, "topics": ["routing:agent:state"], "heartbeatInterval": heartbeat_ms})
    }

    pub async fn provision(&self, agent: &str, heartbeat_ms: u64) -> (String, String) {
        let reply =
            self.api.post("/api/v2/realtime/connections", &Self::wish(agent, heartbeat_ms)).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.excerpt());
        let text = |name: &str| reply.json()[name].as_str().unwrap().to_owned();
        (text("connectionId"), text("wsUrl"))
    }

    /// Opens a socket, or gives back the status that refused it.
    pub async fn connect(url: &str) -> Result<Socket, u16> {
        match connect_async(url).await {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(other) => panic!("{other}"),
        }
    }

    pub async fn open(&self, agent: &str, heartbeat_ms: u64) -> Socket {
        let (_, url) = self.provision(agent, heartbeat_ms).await;
        Self::connect(&url).await.unwrap()
    }
}

impl Socket {
    async fn next(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(SECOND, self.0.next()).await.expect("nothing came")
    }

    pub async fn text(&mut self) -> String {
        loop {
            match self.next().await.unwrap().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    pub async fn send(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    pub async fn close(&mut self, code: u16, reason: &str) {
        self.0.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await.unwrap();
        assert_eq!(self.closed().await.map(|(code, _)| code), Some(code));
    }

    /// Reads until the end: code and reason of the server's close frame, or nothing when there was none.
    pub async fn closed(&mut self) -> Option<(u16, String)> {
        let mut seen = None;
        loop {
            match self.next().await {
                Some(Ok(Message::Close(frame))) => {
                    seen = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return seen,
            }
        }
    }

    /// Whether the client gave up because the server broke a rule.
    pub async fn broken(&mut self) -> bool {
        loop {
            match self.next().await {
                Some(Err(Error::Protocol(_) | Error::Capacity(_) | Error::Utf8(_))) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }
}
