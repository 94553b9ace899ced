//! The bridge's own feed of events: every webhook must get each of them.

use anyhow::{Context as _, ensure};
use genesys_simulator::http::Api;
use serde_json::Value;

use crate::measuring::figures::count;
use crate::measuring::ledger::agent_number;

/// The bridge's feed as far as it was read.
pub struct Feed {
    cursor: Option<String>,
    /// Last sequence of each agent.
    pub last: Vec<u64>,
    pub events: u64,
    /// Events whose sequence is not one more than that of the agent's event before. Within one incarnation of
    /// the database there are none.
    pub holes: u64,
}

impl Feed {
    /// Of this many agents; nothing is read yet.
    pub fn of(agents: usize) -> Self {
        Self { cursor: None, last: vec![0; agents], events: 0, holes: 0 }
    }

    /// Reads on; gives how many events were new.
    pub async fn read(&mut self, api: &Api) -> anyhow::Result<u64> {
        let mut new = 0;
        loop {
            let cursor = self.cursor.as_ref().map(|cursor| format!("&cursor={cursor}"));
            let reply = api.get(&format!("/v1/events?limit=200{}", cursor.unwrap_or_default())).await?;
            ensure!(reply.status == 200, "the feed answered {}", reply.status);
            let page = reply.json();
            let items = page.get("items").and_then(Value::as_array).context("no items")?;
            for item in items {
                self.take(item).with_context(|| format!("no presence change: {item}"))?;
            }
            new += count(items.len());
            self.cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if items.len() < 200 {
                return Ok(new);
            }
        }
    }

    fn take(&mut self, item: &Value) -> Option<()> {
        let sequence = item.get("sequence")?.as_u64()?;
        let agent = agent_number(item.pointer("/agent/id")?.as_str()?)?;
        let last = self.last.get_mut(agent)?;
        self.holes += u64::from(sequence != *last + 1);
        *last = sequence;
        self.events += 1;
        Some(())
    }
}
