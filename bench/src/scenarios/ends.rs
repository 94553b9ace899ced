//! Both simulated ends without a bridge between them: changes sent to readers that throw them
//! away, POSTs taken from senders that always send the same. Both must be far more than the bridge does, or a
//! flood would measure the simulator.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use genesys_simulator::crm::{Crm, CrmOptions};
use genesys_simulator::genesys::{Genesys, GenesysOptions};
use genesys_simulator::http::Api;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::world::state_of;
use crate::measuring::cpu::Usage;
use crate::measuring::figures::{count, float};

const UPGRADE: &str = "Host: upstream\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[derive(Args)]
pub struct Options {
    /// Agents, one to a socket.
    #[arg(long, default_value_t = 200)]
    agents: usize,
    #[arg(long, default_value_t = 200_000)]
    changes: u64,
    /// Changes that may be on their way.
    #[arg(long, default_value_t = 4_000)]
    window: u64,
    /// Connections that send POSTs.
    #[arg(long, default_value_t = 64)]
    senders: usize,
    #[arg(long, default_value_t = 200_000)]
    posts: usize,
}

pub async fn run(options: &Options) -> anyhow::Result<()> {
    upstream(options).await?;
    receiver(options).await
}

async fn upstream(options: &Options) -> anyhow::Result<()> {
    let genesys =
        Genesys::start(GenesysOptions { connection_limit: options.agents, ..Default::default() }).await?;
    let api = Api::new(&genesys.api_url());
    let login = "grant_type=client_credentials&client_id=sim-client&client_secret=sim-secret".to_owned();
    let token =
        api.post_text("/api/v2/oauth/token", "application/x-www-form-urlencoded", login).await?.json();
    let token = token.get("access_token").and_then(Value::as_str).context("no token")?;
    let api = api.with_bearer(token);
    let agents: Vec<String> = (0..options.agents).map(|n| format!("agent-{n:05}")).collect();
    for agent in &agents {
        listen(&api, agent).await?;
    }
    let usage = Usage::of(0);
    let start = Instant::now();
    for n in 0..options.changes {
        let index = usize::try_from(n).unwrap_or_default();
        let agent = agents.get(index % agents.len()).map_or("", String::as_str);
        genesys.push_presence(agent, state_of(index / agents.len()));
        if n % 64 == 0 {
            while n.saturating_sub(genesys.written_count()) > options.window {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    while genesys.written_count() < options.changes {
        ensure!(start.elapsed() < Duration::from_secs(300), "{} were written", genesys.written_count());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), usage.until_now().own_ms());
    println!(
        "{} changes on {} sockets in {seconds:.1} s: {:.0} a second; CPU per change {:.4} ms, both ends",
        options.changes,
        agents.len(),
        float(options.changes) / seconds,
        float(cpu) / float(options.changes)
    );
    Ok(())
}

/// A POST like one of the bridge's.
fn post() -> String {
    let frame = "x".repeat(250);
    let body = format!(
        "{{\"type\":\"presence.updated\",\"timestamp\":\"2026-08-01T09:30:00.000Z\",\"data\":{{\"raw\":\"{}\"}}}}",
        frame.repeat(4)
    );
    format!(
        "POST /crm HTTP/1.1\r\nhost: receiver\r\ncontent-type: application/json\r\nuser-agent: bench\r\n\
         webhook-id: 019ab2f0-7c11-87a3-8b1f-b870b7723bbf\r\nwebhook-timestamp: 1785576600\r\n\
         webhook-signature: v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn receiver(options: &Options) -> anyhow::Result<()> {
    let crm = Crm::start(CrmOptions::default()).await?;
    let (usage, start) = (Usage::of(0), Instant::now());
    let mut senders = JoinSet::new();
    for _ in 0..options.senders {
        let (address, posts) = (crm.address(), options.posts / options.senders.max(1));
        senders.spawn(async move {
            let (mut stream, post) = (TcpStream::connect(address).await?, post());
            stream.set_nodelay(true)?;
            let mut answer = vec![0; 1024];
            for _ in 0..posts {
                stream.write_all(post.as_bytes()).await?;
                ensure!(stream.read(&mut answer).await? > 0, "the receiver hung up");
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = senders.join_next().await {
        done??;
    }
    let (seconds, cpu, taken) = (start.elapsed().as_secs_f64(), usage.until_now().own_ms(), crm.count());
    ensure!(taken == count(crm.posts().len()), "not all were kept");
    println!(
        "{taken} POSTs on {} connections in {seconds:.1} s: {:.0} a second; CPU per POST {:.4} ms, both ends",
        options.senders,
        float(taken) / seconds,
        float(cpu) / float(taken)
    );
    Ok(())
}

/// Opens a socket and throws away what comes.
async fn listen(api: &Api, agent: &str) -> anyhow::Result<()> {
    let wanted = json!({"userId": agent, "topics": ["routing:agent:state"], "heartbeatInterval": 300_000});
    let reply = api.post("/api/v2/realtime/connections", &wanted).await?;
    let url = reply.json().get("wsUrl").and_then(Value::as_str).map(str::to_owned);
    let url = url.with_context(|| format!("no connection: {}", reply.excerpt()))?;
    let (host, path) =
        url.strip_prefix("ws://").and_then(|rest| rest.split_once('/')).context("no ws url")?;
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(format!("GET /{path} HTTP/1.1\r\n{UPGRADE}").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "no upgrade: {}", String::from_utf8_lossy(&head));
    tokio::spawn(async move {
        let mut sink = vec![0; 16 * 1024];
        while let Ok(1..) = stream.read(&mut sink).await {}
    });
    Ok(())
}
