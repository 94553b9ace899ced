//! Names in place of ids: what people call the webhooks, agents and sources that a page tells of.

use std::collections::HashMap;

use maud::{Markup, html};
use url::Url;

use crate::console::view::View;
use crate::console::{Result, links};
use crate::domain::ids::{AgentId, SourceId, WebhookId};
use crate::store::views::names::{SourceName, WebhookName};

/// Most characters of a name that stand in a table.
const CHARS_MAX: usize = 60;

/// The names that one page needs.
#[derive(Debug, Default)]
pub struct Names {
    webhooks: HashMap<WebhookId, String>,
    agents: HashMap<String, String>,
    sources: HashMap<SourceId, String>,
}

impl Names {
    /// Reads the names of these webhooks and agents.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn read(
        view: &View,
        webhooks: impl Iterator<Item = WebhookId>,
        agents: impl Iterator<Item = String>,
    ) -> Result<Self> {
        let (mut webhooks, mut agents): (Vec<_>, Vec<_>) = (webhooks.collect(), agents.collect());
        webhooks.sort_unstable();
        webhooks.dedup();
        agents.sort_unstable();
        agents.dedup();
        let webhooks = view.caller.store.webhook_names(&webhooks).await?;
        let agents = view.caller.store.agent_names(&agents).await?;
        Ok(Self {
            webhooks: webhooks.iter().map(|known| (known.webhook_id, webhook_label(known))).collect(),
            agents: agents.into_iter().filter_map(|known| Some((known.agent_id.0, known.name?))).collect(),
            sources: HashMap::new(),
        })
    }

    /// The same with the names of sources.
    #[must_use]
    pub fn with_sources(mut self, sources: &[SourceName]) -> Self {
        self.sources = sources.iter().map(|known| (known.source_id, known.name.clone())).collect();
        self
    }

    /// A webhook's name, which leads to its page.
    pub fn webhook(&self, id: Option<WebhookId>) -> Markup {
        html! {
            @match id {
                Some(id) => a href=(links::webhook(id)) {
                    @match self.webhooks.get(&id) { Some(name) => (name), None => (id) }
                },
                None => span.none { "–" }
            }
        }
    }

    /// An agent's name, which leads to its page; the id where it has none.
    pub fn agent(&self, id: Option<&AgentId>, source: Option<SourceId>) -> Markup {
        html! {
            @match id {
                Some(id) => a href=(links::agent(id, source)) {
                    (short(self.agents.get(&id.0).unwrap_or(&id.0)))
                },
                None => span.none { "–" }
            }
        }
    }

    /// A source's name, which leads to its page.
    pub fn source(&self, id: Option<SourceId>) -> Markup {
        html! {
            @match id {
                Some(id) => a href=(links::source(id)) {
                    @match self.sources.get(&id) { Some(name) => (short(name)), None => (id) }
                },
                None => span.none { "–" }
            }
        }
    }
}

/// What people call a webhook: its description, or else its address without the query, which may hold what is
/// not for a list.
pub fn webhook_label(known: &WebhookName) -> String {
    let name = if known.description.trim().is_empty() {
        match Url::parse(&known.url) {
            Ok(url) => format!("{}{}", url.host_str().unwrap_or_default(), url.path()),
            Err(_) => known.url.clone(),
        }
    } else {
        known.description.clone()
    };
    let removed = if known.is_removed { " (removed)" } else { "" };
    format!("{}{removed}", short(&name))
}

fn short(text: &str) -> String {
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}
