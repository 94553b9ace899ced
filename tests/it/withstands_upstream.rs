//! The platform as an untrusted peer: whatever answers at the upstream address, and however it floods, drips
//! or lies, costs the bridge neither its memory nor its life, and as soon as the platform behaves the agents
//! are seen again. What single frames and answers come to is told next to the code
//! (`genesys/socket_tests.rs`, `genesys/realtime/rest_tests.rs`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use presence_bridge::actors::recorder::Recorder;
use presence_bridge::config::Buffer;
use presence_bridge::domain::ids::{AgentId, ConnectionId, EventId, SourceId};
use presence_bridge::domain::presence::{Origin, PresenceChange};
use presence_bridge::metrics::Metrics;
use presence_bridge::store::Store;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::{Bridge, SOON, database, eventually};

/// What a bridge may hold, whatever its peers do.
const MEMORY_MIB_MAX: f64 = 256.0;
/// A whole call upstream ends within ten seconds; the rest is this machine's.
const CALL_WITHIN: Duration = Duration::from_secs(12);

/// What the platform does once its socket is open.
#[derive(Clone, Debug)]
enum Talk {
    /// Nothing but what is sent by [`Hostile::ping`].
    Quiet,
    /// It closes.
    HangUp,
    /// It sends these bytes that many times, as fast as it can, and then stays.
    Flood(Vec<u8>, usize),
}

/// How it answers a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Good,
    /// A body without an end.
    Endless,
    /// A byte now and then.
    Drip,
    /// Not at all.
    Silence,
    /// Heads without an end.
    EndlessHead,
    /// Interim answers without an end.
    Interim,
    /// A good body, and trailers without an end.
    Trailers,
    /// Somewhere else.
    Redirect,
    /// A body that says it is packed.
    Packed,
}

/// A platform that does as it was told, in raw bytes. Protocol `realtime`.
#[derive(Clone)]
struct Hostile {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    talk: Talk,
    answer: Answer,
    /// What a new connection is told to dial; `None`: the right address.
    socket_url: Option<String>,
    expires_in: String,
    requests: HashMap<String, u64>,
    /// How long answers that do not end lasted until the bridge left.
    lasted: Vec<Duration>,
    /// Bytes that floods got rid of.
    sent: u64,
    pongs: Vec<Duration>,
}

impl Hostile {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Shared {
            talk: Talk::Quiet,
            answer,
            socket_url: None,
            expires_in: "3600".to_owned(),
            requests: HashMap::new(),
            lasted: Vec::new(),
            sent: 0,
            pongs: Vec::new(),
        };
        let hostile =
            Self { port: listener.local_addr().unwrap().port(), shared: Arc::new(Mutex::new(shared)) };
        let serving = hostile.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hostile = serving.clone();
                tokio::spawn(async move { hostile.serve(stream).await });
            }
        });
        hostile
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn set<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        change(&mut self.shared.lock().unwrap())
    }

    fn requests(&self, what: &str) -> u64 {
        self.set(|shared| shared.requests.get(what).copied().unwrap_or_default())
    }

    async fn serve(self, mut stream: TcpStream) {
        let Some((line, key)) = read_request(&mut stream).await else { return };
        let what = match line.as_str() {
            "POST /api/v2/oauth/token" => "token",
            "GET /api/v2/users/me" => "me",
            "POST /api/v2/realtime/connections" => "connect",
            "GET /ws" => "socket",
            _ => "other",
        };
        let number = self.set(|shared| {
            let count = shared.requests.entry(what.to_owned()).or_default();
            *count += 1;
            *count
        });
        let answer = self.set(|shared| shared.answer);
        let body = match what {
            "token" if answer != Answer::Good => {
                let began = Instant::now();
                self.misbehave(answer, &mut stream).await;
                return self.set(|shared| shared.lasted.push(began.elapsed()));
            }
            "token" => {
                let expires_in = self.set(|shared| shared.expires_in.clone());
                format!(r#"{{"access_token":"token-{number}","expires_in":{expires_in}}}"#)
            }
            "me" => r#"{"id":"me"}"#.to_owned(),
            "connect" => {
                let own = format!("ws://127.0.0.1:{}/ws", self.port);
                let url = self.set(|shared| shared.socket_url.clone()).unwrap_or(own);
                json!({"connectionId": format!("c-{number}"), "wsUrl": url}).to_string()
            }
            "socket" => return self.talk(stream, &key.unwrap_or_default()).await,
            _ => "{}".to_owned(),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    }

    /// Goes on until the bridge has left.
    async fn misbehave(&self, answer: Answer, stream: &mut TcpStream) {
        const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        let (first, rest, pause) = match answer {
            Answer::Good => return,
            Answer::Endless => (format!("{HEAD}transfer-encoding: chunked\r\n\r\n"), chunk, 0),
            Answer::Drip => (format!("{HEAD}content-length: 100000\r\n\r\n"), " ".to_owned(), 50),
            Answer::Silence => (String::new(), String::new(), 50),
            Answer::EndlessHead => (HEAD.to_owned(), format!("x-long: {}\r\n", "x".repeat(8000)), 0),
            Answer::Interim => (String::new(), "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000), 0),
            Answer::Trailers => {
                let body = r#"{"access_token":"t","expires_in":3600}"#;
                let first =
                    format!("{HEAD}transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n", body.len());
                (first, "x-trailer: more\r\n".repeat(1000), 0)
            }
            Answer::Redirect => {
                let to = "http://127.0.0.2:1/api/v2/oauth/token";
                let head =
                    format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\n");
                (format!("{head}connection: close\r\n\r\n"), String::new(), 50)
            }
            Answer::Packed => {
                // Nobody unpacks it: these bytes are no gzip at all.
                let head = format!("{HEAD}content-encoding: gzip\r\nconnection: close\r\n");
                (format!("{head}content-length: 4\r\n\r\nGZIP"), String::new(), 50)
            }
        };
        let mut byte = [0; 1];
        let (mut reading, mut writing) = stream.split();
        if writing.write_all(first.as_bytes()).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                biased;
                read = reading.read(&mut byte), if pause > 0 => {
                    if matches!(read, Ok(0) | Err(_)) {
                        return;
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(pause)), if pause > 0 => {
                    if writing.write_all(rest.as_bytes()).await.is_err() {
                        return;
                    }
                }
                written = writing.write_all(rest.as_bytes()), if pause == 0 => {
                    if written.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn talk(&self, mut stream: TcpStream, key: &str) {
        const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let text = format!("{key}{GUID}");
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {}\r\n\r\n",
            BASE64.encode(hash)
        );
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        let (mut reading, mut writing) = stream.into_split();
        let pings = self.clone();
        let sent = Arc::new(Mutex::new(None::<Instant>));
        let (pinged, reads) = (sent.clone(), async move {
            let mut buffer = [0; 4096];
            loop {
                match reading.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    // Our own pings carry `when`; the bridge masks, so any pong will do.
                    Ok(length) if buffer[..length].contains(&0x8a) => {
                        if let Some(at) = sent.lock().unwrap().take() {
                            pings.set(|shared| shared.pongs.push(at.elapsed()));
                        }
                    }
                    Ok(_) => {}
                }
            }
        });
        let writes = async {
            match self.set(|shared| shared.talk.clone()) {
                Talk::HangUp => return,
                Talk::Quiet => {}
                Talk::Flood(bytes, times) => {
                    for _ in 0..times {
                        if writing.write_all(&bytes).await.is_err() {
                            return;
                        }
                        self.set(|shared| shared.sent += bytes.len() as u64);
                    }
                }
            }
            loop {
                *pinged.lock().unwrap() = Some(Instant::now());
                if writing.write_all(&[0x89, 1, b'p']).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            () = reads => {}
            () = writes => {}
        }
    }
}

/// The request line without its version, and the key of a WebSocket.
async fn read_request(stream: &mut TcpStream) -> Option<(String, Option<String>)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let value = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
    };
    let length: usize = value("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let line = text.lines().next()?.rsplit_once(' ')?.0.to_owned();
    Some((line, value("sec-websocket-key")))
}

/// A frame as a server sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 127];
    bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

async fn watching(hostile: &Hostile) -> Bridge {
    let url = hostile.url();
    Bridge::start(&[
        ("GENESYS_PROTOCOL", "realtime"),
        ("GENESYS_API_URL", &url),
        ("GENESYS_CLIENT_ID", "sim-client"),
        ("GENESYS_CLIENT_SECRET", "sim-secret"),
        ("GENESYS_AGENTS", "ann"),
        ("GENESYS_HEARTBEAT_INTERVAL_MS", "1000"),
        // Every frame is told at level trace, and the log is kept by the test.
        ("BRIDGE_LOG", "info"),
    ])
    .await
}

async fn is_open(bridge: &Bridge) {
    eventually("the socket is open", || async {
        let page = bridge.get("/v1/connections").await.json();
        (page["items"][0]["state"] == "open").then_some(())
    })
    .await;
}

/// Has the connection made again now, whatever it waits for.
async fn restart(bridge: &Bridge) {
    let page = bridge.get("/v1/connections").await.json();
    let id = page["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(bridge.post(&format!("/v1/connections/{id}/restart"), &json!({})).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flood_costs_more_memory_than_is_allowed_and_the_agents_are_seen_again() {
    let hostile = Hostile::start(Answer::Good).await;
    let bridge = watching(&hostile).await;
    is_open(&bridge).await;
    let (before, _) = bridge.memory_mib();
    let big = |kib: usize| {
        frame(0x81, format!(r#"{{"state":"AWAY","pad":"{}"}}"#, "x".repeat(kib * 1024 - 40)).as_bytes())
    };
    let pieces = [frame(0x01, b"{"), frame(0x00, &[b' '; 1024]).repeat(10_000)].concat();
    let floods: Vec<(&str, Vec<u8>, usize)> = vec![
        ("a frame that declares a tebibyte", [&[0x81, 127][..], &(1_u64 << 40).to_be_bytes()].concat(), 1),
        (
            "and 64 MiB behind it",
            [&[0x82, 127][..], &(1_u64 << 40).to_be_bytes(), &[0; 1 << 20]].concat(),
            64,
        ),
        ("pieces without an end", pieces, 10),
        ("empty pieces without an end", [frame(0x01, b""), frame(0x00, b"").repeat(10_000)].concat(), 10),
        ("updates of 60 KiB, faster than they can be stored", big(60), 1200),
        ("malformed frames of 60 KiB", frame(0x81, &vec![b'x'; 60 * 1024]), 800),
        ("small malformed frames", frame(0x81, b"odd").repeat(1000), 100),
        ("binary frames", frame(0x82, &vec![0; 60 * 1024]), 800),
        ("pings", frame(0x89, &[b'p'; 125]).repeat(100), 200),
        ("pongs that nobody asked for", frame(0x8a, &[b'p'; 125]).repeat(100), 500),
        ("text that is not UTF-8", frame(0x81, &vec![0xff; 60 * 1024]), 10),
        (
            "objects in objects",
            frame(0x81, format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000)).as_bytes()),
            60,
        ),
        ("noise", (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect(), 4),
    ];
    for (name, bytes, times) in floods {
        let (sockets, sent) = (hostile.requests("socket"), hostile.set(|shared| shared.sent));
        let all = (bytes.len() * times) as u64;
        hostile.set(|shared| shared.talk = Talk::Flood(bytes, times));
        restart(&bridge).await;
        // Either all of it was taken, or the bridge has left and come again.
        eventually(name, || async {
            let taken = hostile.set(|shared| shared.sent) - sent;
            (taken >= all || hostile.requests("socket") > sockets + 1).then_some(())
        })
        .await;
        let (now, peak) = bridge.memory_mib();
        eprintln!(
            "{name}: {:.1} MiB sent, {now:.0} MiB held, {peak:.0} at most",
            (hostile.set(|shared| shared.sent) - sent) as f64 / 1048576.0
        );
        assert!(peak < MEMORY_MIB_MAX, "{name}: {peak} MiB");
        assert_eq!(bridge.get("/healthz").await.status, 200, "{name}");
    }
    hostile.set(|shared| shared.talk = Talk::Flood(frame(0x81, br#"{"state":"ON_QUEUE"}"#), 1));
    restart(&bridge).await;
    eventually("the agent is seen again", || async {
        let agent = bridge.get("/v1/agents/ann").await.json();
        (agent["presence"]["system"] == "ON_QUEUE").then_some(())
    })
    .await;
    let (after, peak) = bridge.memory_mib();
    eprintln!("before {before:.0} MiB, after {after:.0} MiB, at most {peak:.0} MiB");
    assert!(after < before + 100.0, "{before} MiB before, {after} MiB after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered_within_a_second_while_updates_pour_in() {
    let hostile = Hostile::start(Answer::Good).await;
    let updates = frame(0x81, br#"{"state":"AWAY"}"#).repeat(50);
    hostile.set(|shared| shared.talk = Talk::Flood(updates, 100));
    let bridge = watching(&hostile).await;
    eventually("ten pongs", || async { hostile.set(|shared| shared.pongs.len() >= 10).then_some(()) }).await;
    let slowest = hostile.set(|shared| shared.pongs.iter().max().copied()).unwrap();
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    drop(bridge);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_answers_over_rest_ends_in_time_and_costs_no_memory() {
    let good = Hostile::start(Answer::Good).await;
    let bridge = watching(&good).await;
    is_open(&bridge).await;
    let (before, _) = bridge.memory_mib();
    let mut platforms = Vec::new();
    for answer in [
        Answer::Endless,
        Answer::Drip,
        Answer::Silence,
        Answer::EndlessHead,
        Answer::Interim,
        Answer::Trailers,
        Answer::Redirect,
        Answer::Packed,
    ] {
        let hostile = Hostile::start(answer).await;
        let source = json!({
            "name": format!("{answer:?}"), "protocol": "realtime", "api_url": hostile.url(), "client_id": "c",
            "client_secret": "s", "agents": ["bob"], "topic_matrix": {"state": ["routing:agent:state"]},
        });
        let made = bridge.post("/v1/sources", &source).await;
        assert_eq!(made.status, 201, "{}", made.text());
        platforms.push((answer, hostile));
    }
    let decoy = TcpListener::bind("127.0.0.2:1").await;
    for (answer, hostile) in &platforms {
        eventually(&format!("{answer:?} is left"), || async {
            hostile.set(|shared| !shared.lasted.is_empty()).then_some(())
        })
        .await;
        let lasted = hostile.set(|shared| shared.lasted[0]);
        assert!(lasted < CALL_WITHIN, "{answer:?} lasted {lasted:?}");
        assert_eq!(hostile.requests("me"), 0, "{answer:?} gave no token");
    }
    if let Ok(decoy) = decoy {
        let dialled = timeout(Duration::from_millis(1), decoy.accept()).await;
        assert!(dialled.is_err(), "a redirect was followed");
    }
    let (after, peak) = bridge.memory_mib();
    eprintln!("before {before:.0} MiB, after {after:.0} MiB, at most {peak:.0} MiB");
    assert!(peak < MEMORY_MIB_MAX && after < before + 50.0, "{before}, {after}, {peak} MiB");
    is_open(&bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_that_is_not_the_sources_own_is_dialled() {
    let decoy = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = decoy.local_addr().unwrap().port();
    let hostile = Hostile::start(Answer::Good).await;
    let bridge = watching(&hostile).await;
    is_open(&bridge).await;
    let own = hostile.port;
    let addresses = [
        format!("ws://127.0.0.2:{port}/ws"),
        format!("wss://127.0.0.2:{port}/ws"),
        format!("http://127.0.0.2:{port}/ws"),
        format!("ws://127.0.0.1:{own}@127.0.0.2:{port}/ws"),
        format!("ws://127.0.0.1@127.0.0.2:{port}/ws"),
        format!("ws://user:secret@127.0.0.1:{own}/ws"),
        format!("ws:\\\\127.0.0.2:{port}\\ws"),
        format!("//127.0.0.2:{port}/ws"),
        format!("ws://[::ffff:127.0.0.2]:{port}/ws"),
        format!("ws://2130706434:{port}/ws"),
        format!("ws://0x7f.2:{port}/ws"),
        format!("ws://127.0.0.1.evil.example:{own}/ws"),
        format!("http://127.0.0.1:{own}/ws"),
        "file:///etc/passwd".to_owned(),
        "ws://".to_owned(),
        "\u{0}".to_owned(),
        "x".repeat(500_000),
    ];
    for (tried, address) in addresses.iter().enumerate() {
        let sockets = hostile.requests("socket");
        hostile.set(|shared| shared.socket_url = Some(address.clone()));
        restart(&bridge).await;
        let shown: String = address.chars().take(60).collect();
        eventually(&format!("{shown} is refused"), || async {
            let page = bridge.get("/v1/audit?limit=200&kind=WS_INIT_ERROR").await.json();
            (page["items"].as_array()?.len() > tried).then_some(())
        })
        .await;
        assert_eq!(hostile.requests("socket"), sockets, "{shown} was dialled");
    }
    let dialled = timeout(Duration::from_millis(1), decoy.accept()).await;
    assert!(dialled.is_err(), "the decoy was dialled");
    hostile.set(|shared| shared.socket_url = None);
    restart(&bridge).await;
    is_open(&bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_word_about_a_tokens_life_makes_it_ask_again_and_again() {
    for expires_in in [
        "0",
        "-1",
        "-1e300",
        "1e300",
        "1e-300",
        "0.001",
        "null",
        "9223372036854775807",
        "18446744073709551615",
    ] {
        let hostile = Hostile::start(Answer::Good).await;
        hostile.set(|shared| shared.expires_in = expires_in.to_owned());
        let bridge = watching(&hostile).await;
        is_open(&bridge).await;
        // Three pings of the platform's: most of a second in which a hot loop would ask a thousand times.
        eventually("three pongs", || async { hostile.set(|shared| shared.pongs.len() >= 3).then_some(()) })
            .await;
        assert_eq!(hostile.requests("token"), 1, "expires_in {expires_in}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_closes_at_once_is_asked_ever_more_rarely() {
    let hostile = Hostile::start(Answer::Good).await;
    hostile.set(|shared| shared.talk = Talk::HangUp);
    let bridge = watching(&hostile).await;
    // 1, 2, 4 and 8 seconds lie between five tries.
    let began = Instant::now();
    eventually("four sockets", || async { (hostile.requests("socket") >= 4).then_some(()) }).await;
    assert!(began.elapsed() > Duration::from_secs(6), "four tries within {:?}", began.elapsed());
    assert_eq!(hostile.requests("token"), 1);
    hostile.set(|shared| shared.talk = Talk::Quiet);
    restart(&bridge).await;
    is_open(&bridge).await;
}

#[tokio::test]
async fn frames_that_wait_for_the_database_are_weighed() {
    let options = database::create().await.parse().unwrap();
    let store = Store::connect(options, 1).await.unwrap();
    let change = |bytes: usize| PresenceChange {
        event_id: EventId::generate(),
        source_id: SourceId::generate(),
        source_name: "desk".to_owned(),
        connection_id: ConnectionId::generate(),
        agent_id: AgentId("ann".to_owned()),
        topic: "topic".to_owned(),
        presence: None,
        state: None,
        occurred_at: None,
        received_at: time::OffsetDateTime::UNIX_EPOCH,
        origin: Origin::Live,
        raw: vec![b'x'; bytes].into(),
    };
    // As many as are taken while nobody stores them, and their bytes.
    for (bytes, at_least, at_most) in [(353, 8192, 8192), (60 * 1024, 500, 540), (256 * 1024, 100, 128)] {
        // The worker is kept and does nothing: the database is unavailable.
        let buffer = Buffer { changes: 8192, frames_mib: 32 };
        let (recorder, _worker) = Recorder::new(store.clone(), Arc::default(), Metrics::new(), buffer);
        let taken = (0..10_000).take_while(|_| recorder.try_record(change(bytes)).is_ok()).count();
        assert!((at_least..=at_most).contains(&taken), "{taken} frames of {bytes} bytes");
    }
    store.close().await;
}

/// The library that speaks with the platform would speak HTTP/2 by an old one if it were offered.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_http_1_1_is_offered_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let _bridge = Bridge::start(&[
        ("GENESYS_API_URL", &url),
        ("GENESYS_CLIENT_ID", "c"),
        ("GENESYS_CLIENT_SECRET", "s"),
        ("GENESYS_AGENTS", "ann"),
    ])
    .await;
    let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut record = [0; 5];
    stream.read_exact(&mut record).await.unwrap();
    assert_eq!(record[0], 22, "a handshake");
    let mut hello = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
    stream.read_exact(&mut hello).await.unwrap();
    // The extension: its number, two lengths, then each protocol behind its own length.
    let offered: &[u8] = b"\x00\x10\x00\x0b\x00\x09\x08http/1.1";
    assert!(hello.windows(offered.len()).any(|bytes| bytes == offered), "{hello:x?}");
}
