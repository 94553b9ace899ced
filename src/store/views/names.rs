//! What people call things that lists know by their ids. Called by the pages of the console.

use crate::domain::ids::{AgentId, SourceId, WebhookId};
use crate::store::session::choose_plan_by_values;
use crate::store::{Result, Store};

/// A webhook by what people know it by.
#[derive(Clone, Debug)]
pub struct WebhookName {
    pub webhook_id: WebhookId,
    pub url: String,
    /// Empty if its owner gave none.
    pub description: String,
    /// It was removed.
    pub is_removed: bool,
}

/// An agent by what people know it by.
#[derive(Clone, Debug)]
pub struct AgentName {
    /// Its source.
    pub source_id: SourceId,
    /// Genesys user id.
    pub agent_id: AgentId,
    /// Its id in the CRM.
    pub external_id: Option<String>,
    /// Name as the organisation keeps it.
    pub name: Option<String>,
}

/// A source by what people know it by.
#[derive(Clone, Debug)]
pub struct SourceName {
    pub source_id: SourceId,
    pub name: String,
    /// It was removed.
    pub is_removed: bool,
}

impl Store {
    /// What all sources are called, removed ones too.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn source_names(&self) -> Result<Vec<SourceName>> {
        Ok(sqlx::query_as!(
            SourceName,
            r#"select source_id as "source_id: SourceId", name, deleted_at is not null as "is_removed!"
               from source
               where coalesce(tenant_id = tenant_asking(), true)
               order by source_id"#,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?)
    }

    /// What these webhooks are called, removed ones too; those that are not found are left out.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn webhook_names(&self, ids: &[WebhookId]) -> Result<Vec<WebhookName>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_as!(
            WebhookName,
            r#"select webhook_id as "webhook_id: WebhookId", url, description, deleted_at is not null as "is_removed!"
               from webhook
               where webhook_id = any ($1)"#,
            ids as _,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?)
    }

    /// The newest webhooks in whose description or address this text occurs, in whatever case; all if it is
    /// empty.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn webhooks_called(&self, text: &str, limit: i64) -> Result<Vec<WebhookName>> {
        Ok(sqlx::query_as!(
            WebhookName,
            r#"select webhook_id as "webhook_id: WebhookId", url, description, false as "is_removed!"
               from webhook
               where deleted_at is null
                 and ($1 = '' or strpos(lower(description), lower($1)) > 0 or strpos(lower(url), lower($1)) > 0)
               order by webhook_id desc
               limit $2"#,
            text,
            limit,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?)
    }

    /// What agents of these Genesys ids are called; those without a name are left out.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agent_names(&self, ids: &[String]) -> Result<Vec<AgentName>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let names = sqlx::query_as!(
            AgentName,
            r#"select a.source_id as "source_id: SourceId", a.agent_id as "agent_id: AgentId",
                      null::text as external_id, a.name
               from source s
               join agent a on a.source_id = s.source_id
               where a.agent_id = any ($1)
                 and a.name is not null"#,
            ids,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(names)
    }

    /// Agents of sources in use whose id or id in the CRM this is, or in whose name it occurs, in whatever
    /// case.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn agents_called(&self, text: &str, limit: i64) -> Result<Vec<AgentName>> {
        let mut tx = self.begin().await?;
        choose_plan_by_values(&mut tx).await?;
        let names = sqlx::query_as!(
            AgentName,
            r#"select a.source_id as "source_id: SourceId", a.agent_id as "agent_id: AgentId",
                      x.external_id as "external_id?", a.name
               from source s
               join agent a on a.source_id = s.source_id
               left join agent_external_id x on x.source_id = a.source_id and x.agent_id = a.agent_id
               where s.deleted_at is null
                 and (a.agent_id = $1
                      or a.agent_id = lower($1)
                      or x.external_id = $1
                      or strpos(a.name_lower, lower($1)) > 0)
               order by a.name, a.agent_key
               limit $2"#,
            text,
            limit,
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(names)
    }
}
