//! Receivers that do to a sender whatever they can, each with a share of the agents.

use std::time::Duration;

use bytes::Bytes;
use genesys_simulator::crm::{Behaviour, Crm, CrmOptions};
use serde_json::json;

use crate::harness::bridge::Bridge;

/// Agents that each of them asks for.
const AGENTS_EACH: usize = 25;

/// Every way to hurt a sender that the simulated receiver knows.
fn behaviours() -> Vec<Behaviour> {
    let every = Duration::from_millis(200);
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    vec![
        Behaviour::Hang,
        Behaviour::CloseUnanswered,
        Behaviour::ResetUnanswered,
        Behaviour::Drip { status: 200, every },
        Behaviour::DripHead { every },
        Behaviour::EndlessHead,
        Behaviour::EndlessBody { status: 200 },
        Behaviour::EndlessTrailers { status: 200 },
        Behaviour::Interim { interim: 103, wait: every, status: 204 },
        Behaviour::Interims { interim: 100, count: 10_000, status: 204 },
        Behaviour::EndlessInterims { interim: 103 },
        Behaviour::EndlessExtension { status: 200 },
        Behaviour::DripChunks { status: 200, every },
        Behaviour::Length { status: 200, declared: u64::MAX, sent: 1 },
        Behaviour::Echo { status: 500 },
        Behaviour::Bomb { status: 200 },
        Behaviour::Raw(bytes("SSH-2.0-OpenSSH_9.2\r\n")),
        Behaviour::Spill(bytes(
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Early\r\ncontent-length: 0\r\n\r\n",
        )),
        Behaviour::ResetAfter(bytes("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")),
        Behaviour::status(204).after(Duration::from_secs(10)),
        Behaviour::status(429),
        Behaviour::retry_after(503, "1"),
        Behaviour::redirect(307, "http://127.0.0.1:1/"),
        Behaviour::status(500),
        Behaviour::status(204),
    ]
}

/// Registers this many webhooks at such a receiver.
pub async fn register(bridge: &Bridge, agents: &[String], count: usize) -> anyhow::Result<Crm> {
    let crm = Crm::start(CrmOptions::default()).await?;
    let behaviours = behaviours();
    for (n, behaviour) in behaviours.iter().cycle().take(count).enumerate() {
        let path = format!("/hostile/{n}");
        crm.always(&path, behaviour.clone());
        let theirs: Vec<&String> =
            agents.iter().cycle().skip(n * AGENTS_EACH % agents.len().max(1)).take(AGENTS_EACH).collect();
        let webhook = json!({"url": crm.url(&path), "agents": theirs, "retry_schedule_seconds": [1, 2, 5]});
        bridge.post("/v1/webhooks", &webhook).await?;
    }
    println!("{count} webhooks of {} kinds of hostile receivers", behaviours.len());
    Ok(crm)
}
