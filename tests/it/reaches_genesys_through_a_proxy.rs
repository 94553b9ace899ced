//! A company lets nobody out but by its proxy: calls and sockets to Genesys go through it.

use std::sync::{Arc, Mutex};

use genesys_simulator::cloud::{Cloud, CloudOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::cloud::{CloudWorld, options};
use crate::support::neighbour::{Neighbour, free_port};
use crate::support::shown::{ELSEWHERE, authorities};
use crate::support::{SOON, eventually};

/// A host that nobody can look up; the certificate that stands for the platform's has its name.
const HOST: &str = "siem.example.com";
const CREDENTIALS: &str = "proxy-user:p%40ss-CANARY";
/// The same as the header has it.
const AUTHORIZATION: &str = "Proxy-Authorization: Basic cHJveHktdXNlcjpwQHNzLUNBTkFSWQ==\r\n";

/// A proxy at whose other end the platform speaks TLS.
struct Proxy {
    port: u16,
    /// Heads of what it was asked.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heads = asked.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, heads.clone()));
            }
        });
        Self { port, asked }
    }

    fn url(&self, credentials: &str) -> String {
        format!("http://{credentials}@127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Carries one connection to the platform, whose port stands in the name after the host's.
async fn serve(mut client: TcpStream, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let to = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = match (head.contains(AUTHORIZATION), to.strip_prefix(HOST)) {
        (false, _) => "407 Proxy Authentication Required",
        (true, None) => "403 Filtered",
        (true, Some(_)) => "200 Connection established",
    };
    heads.lock().unwrap().push(head);
    let answer = format!("HTTP/1.1 {answer}\r\nVia: 1.1 test\r\n\r\n");
    if client.write_all(answer.as_bytes()).await.is_err() || !answer.contains(" 200 ") {
        return;
    }
    let port: u16 = to.rsplit(':').next().unwrap().parse().unwrap();
    let mut platform = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    if let Ok(mut inside) = ELSEWHERE.acceptor().accept(client).await {
        let _ = copy_bidirectional(&mut inside, &mut platform).await;
    }
}

/// The platform has to say its address before it has a port.
fn platform(port: u16) -> CloudOptions {
    CloudOptions {
        listen: ([127, 0, 0, 1], port).into(),
        public_url: Some(format!("https://{HOST}:{port}")),
        ..options(&["ann"])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_sockets_go_through_the_proxy_with_tls_inside_and_the_host_by_its_name() {
    let (proxy, port, trusted) = (Proxy::start().await, free_port(), authorities());
    let (address, by) = (format!("https://{HOST}:{port}"), proxy.url(CREDENTIALS));
    let mut world = CloudWorld::starting(
        platform(port),
        &[
            ("GENESYS_API_URL", address.as_str()),
            ("GENESYS_LOGIN_URL", address.as_str()),
            ("GENESYS_AGENTS", "ann"),
            ("BRIDGE_GENESYS_PROXY", by.as_str()),
            ("HTTPS_PROXY", "http://user:CANARY@127.0.0.1:1"),
            ("SSL_CERT_FILE", trusted.path().to_str().unwrap()),
        ],
    )
    .await;
    world.sees(1).await;
    world.cloud.set_presence("ann", "BUSY").await;
    world.agent_is("ann", "BUSY").await;
    let asked = proxy.asked();
    assert!(asked.len() >= 5, "token, check, channel, subscription, socket, states: {asked:?}");
    let expected = format!("CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n{AUTHORIZATION}\r\n");
    assert!(asked.iter().all(|head| *head == expected), "{asked:?}");
    let log = world.bridge.log();
    assert!(log.contains("HTTPS_PROXY") && log.contains("this proxy is ignored"), "{log}");
    let audit = world.bridge.get("/v1/audit?limit=500").await.text();
    assert!(!log.contains("CANARY") && !audit.contains("CANARY") && !log.contains("cHJveHkt"), "{log}");

    // A proxy that refuses is named in the reason, and nothing of its credentials is.
    world.bridge.set("BRIDGE_GENESYS_PROXY", &proxy.url("proxy-user:wrong-CANARY"));
    world.bridge.kill_and_restart().await;
    let failed = eventually("the proxy's answer is told", || async {
        let failed = world.audit("TOKEN_FAILED").await;
        failed.into_iter().find(|entry| entry["data"].to_string().contains("the proxy answered 407"))
    })
    .await;
    assert!(!failed.to_string().contains("CANARY"), "{failed}");
}

/// Runs the doctor by way of a proxy; gives its exit code and what it said.
async fn doctor(port: u16, proxy: &str) -> (i32, String) {
    let (trusted, address) = (authorities(), format!("https://{HOST}:{port}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_presence-bridge"));
    command
        .arg("doctor")
        .env_clear()
        .envs([
            ("GENESYS_API_URL", address.as_str()),
            ("GENESYS_LOGIN_URL", address.as_str()),
            ("GENESYS_CLIENT_ID", "sim-client"),
            ("GENESYS_CLIENT_SECRET", "sim-secret"),
            ("GENESYS_ALL_USERS", "true"),
            ("BRIDGE_GENESYS_PROXY", proxy),
            ("https_proxy", "http://127.0.0.1:1"),
            ("SSL_CERT_FILE", trusted.path().to_str().unwrap()),
        ])
        .current_dir(std::env::temp_dir());
    let output = timeout(SOON, command.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("CANARY"), "{said}");
    (output.status.code().unwrap(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_the_proxy_tries_it_and_says_what_is_wrong_with_it() {
    let (proxy, port) = (Proxy::start().await, free_port());
    let _cloud = Cloud::start(platform(port)).await.unwrap();
    let (code, said) = doctor(port, &proxy.url(CREDENTIALS)).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("all through the proxy 127.0.0.1:{}\n", proxy.port)), "{said}");
    assert!(said.contains(&format!("ok       proxy        opens connections to {HOST}:{port}\n")), "{said}");
    assert!(said.contains("https_proxy is set and not read"), "{said}");
    let nobody = format!("http://{CREDENTIALS}@127.0.0.1:{}", free_port());
    for (by, what, remedy) in [
        (proxy.url("proxy-user:wrong-CANARY"), "the proxy answered 407", "wants other credentials"),
        (nobody, "the proxy cannot be reached", "host and port in BRIDGE_GENESYS_PROXY"),
    ] {
        let (code, said) = doctor(port, &by).await;
        let failed = said.lines().skip_while(|line| !line.starts_with("FAILED")).collect::<Vec<_>>();
        assert_eq!((code, failed.len()), (1, 2), "{said}");
        assert!(failed[0].contains(what) && failed[1].contains(remedy), "{said}");
    }
}

/// A password for tinyproxy, whose settings take letters and digits alone.
const SECRET: &str = "CANARY17";

/// Debian's tinyproxy; `None` where it cannot be had.
async fn tinyproxy() -> Option<Neighbour> {
    Neighbour::start("tinyproxy", |command, dir, port| {
        let file = dir.join("tinyproxy.conf");
        let settings = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 600\nBasicAuth bridge {SECRET}\nLogLevel Info\n\
             LogFile \"{}\"\n",
            dir.join("log").display()
        );
        std::fs::write(&file, settings).unwrap();
        command.arg("-d").arg("-c").arg(file);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tinyproxy_carries_every_call_and_socket() {
    let Some(proxy) = tinyproxy().await else { return };
    let by = format!("http://bridge:{SECRET}@127.0.0.1:{}", proxy.port);
    let variables = [("GENESYS_AGENTS", "ann"), ("BRIDGE_GENESYS_PROXY", by.as_str())];
    let world = CloudWorld::starting(options(&["ann"]), &variables).await;
    world.sees(1).await;
    world.cloud.set_presence("ann", "BUSY").await;
    world.agent_is("ann", "BUSY").await;
    let log = proxy.read("log");
    let carried = log.lines().filter(|line| line.contains("CONNECT 127.0.0.1:")).count();
    assert!(carried >= 5, "{log}");

    // A source that somebody adds goes the same way, to addresses that are validated first.
    let fields = json!({
        "name": "second", "api_url": world.cloud.api_url(), "login_url": world.cloud.api_url(),
        "client_id": "sim-client", "client_secret": "sim-secret", "all_users": true,
    });
    assert_eq!(world.bridge.post("/v1/sources", &fields).await.status, 201);
    world.cloud.wait_until(|seen| seen.connected() == 2, SOON).await.unwrap();
    let log = proxy.read("log");
    assert!(log.lines().filter(|line| line.contains("CONNECT 127.0.0.1:")).count() > carried, "{log}");
}
