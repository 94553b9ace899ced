//! Sources, the Genesys organisations that are watched: added, changed and removed here, for the API and for
//! `app.rs`, which sets the one from the environment.
//!
//! Read `rows` (settings to columns), `desired_connections` (what the supervisor starts, and how each
//! connection stands), `assignments` (which connection watches which agents), `connections` (connections as
//! the API shows them), `gap_tracking`, `gap_notices` and `gaps` (times without coverage: their rows, their
//! events, their list), `health` (stale and recovered sources), `ownership` (upstream connections that are
//! ours), then `external_ids` (ids of agents in the CRM).

use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Result, Store, StoreError, audit};
use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::SourceId;
use crate::domain::presence::source::{SourceOrigin, SourceSettings};
use crate::domain::presence::topics::TopicMatrix;
use crate::domain::secret::{MasterKey, OpenError, Secret};
use health::Health;
use rows::{insert, write_changes};

pub mod assignments;
pub mod connections;
pub mod desired_connections;
pub mod external_ids;
pub(super) mod gap_notices;
pub mod gap_tracking;
pub mod gaps;
pub mod health;
pub mod ownership;
pub(super) mod rows;

/// Principal of changes to the source from the environment.
const ENVIRONMENT: &str = "environment";

/// A source as it is stored; its client secret is sealed.
#[derive(Clone)]
pub struct Source {
    pub source_id: SourceId,
    /// Name that people call it.
    pub name: String,
    /// Upstream protocol.
    pub protocol: String,
    /// Genesys domain.
    pub region: Option<String>,
    /// REST address, if it is not the region's.
    pub api_url: Option<String>,
    /// Token address, if it is not the protocol's own.
    pub login_url: Option<String>,
    /// OAuth client id.
    pub client_id: String,
    client_secret_sealed: Vec<u8>,
    /// Genesys users to watch.
    pub agents: Vec<String>,
    /// Object of topic lists.
    pub topic_matrix: Json<TopicMatrix>,
    /// Interval of upstream's pings, in milliseconds.
    pub heartbeat_interval_ms: i32,
    /// Whether every active user is watched.
    pub all_users: bool,
    /// Queues whose members are watched.
    pub queues: Vec<String>,
    /// Groups whose members are watched.
    pub groups: Vec<String>,
    /// Language of presence labels.
    pub language: String,
    /// Seconds without a live connection after which it is stale.
    pub stale_after_seconds: i32,
    /// Seconds between two readings of the rosters.
    pub roster_interval_seconds: i32,
    /// Coverage and last reading of the rosters.
    pub health: Json<Health>,
    /// Its settings are changed there alone.
    pub origin: SourceOrigin,
    /// Counts changes.
    pub version: i64,
    /// When it was added.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

impl Source {
    /// Settings, with this client secret.
    #[must_use]
    pub fn settings(&self, client_secret: Secret) -> SourceSettings {
        SourceSettings {
            name: self.name.clone(),
            protocol: self.protocol.clone(),
            region: self.region.clone(),
            api_url: self.api_url.clone(),
            login_url: self.login_url.clone(),
            client_id: self.client_id.clone(),
            client_secret,
            agents: self.agents.clone(),
            topic_matrix: self.topic_matrix.0.clone(),
            heartbeat_interval_ms: self.heartbeat_interval_ms,
            all_users: self.all_users,
            queues: self.queues.clone(),
            groups: self.groups.clone(),
            language: self.language.clone(),
            stale_after_seconds: self.stale_after_seconds,
            roster_interval_seconds: self.roster_interval_seconds,
        }
    }

    /// OAuth client secret, opened.
    ///
    /// # Errors
    /// If it was sealed under another master key or is damaged.
    pub fn client_secret(&self, master_key: &MasterKey) -> Result<Secret, OpenError> {
        let plain = master_key.open(&self.client_secret_sealed, self.source_id.0.as_bytes())?;
        Ok(Secret::new(String::from_utf8(plain).map_err(|_| OpenError::Damaged)?))
    }

    /// Whether it is set by variables of the process, and only there.
    #[must_use]
    pub fn is_from_environment(&self) -> bool {
        self.origin == SourceOrigin::Environment
    }

    /// Names of the fields in which `wanted` differs. A secret that no longer opens counts as different.
    pub(super) fn changed_fields(
        &self,
        wanted: &SourceSettings,
        master_key: &MasterKey,
    ) -> Vec<&'static str> {
        let secret_kept = self.client_secret(master_key).is_ok_and(|kept| kept == wanted.client_secret);
        [
            ("name", self.name != wanted.name),
            ("protocol", self.protocol != wanted.protocol),
            ("region", self.region != wanted.region),
            ("api_url", self.api_url != wanted.api_url),
            ("login_url", self.login_url != wanted.login_url),
            ("client_id", self.client_id != wanted.client_id),
            ("client_secret", !secret_kept),
            ("agents", self.agents != wanted.agents),
            ("topic_matrix", self.topic_matrix.0 != wanted.topic_matrix),
            ("heartbeat_interval_ms", self.heartbeat_interval_ms != wanted.heartbeat_interval_ms),
            ("all_users", self.all_users != wanted.all_users),
            ("queues", self.queues != wanted.queues),
            ("groups", self.groups != wanted.groups),
            ("language", self.language != wanted.language),
            ("stale_after_seconds", self.stale_after_seconds != wanted.stale_after_seconds),
            ("roster_interval_seconds", self.roster_interval_seconds != wanted.roster_interval_seconds),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

impl Store {
    /// A page of sources, oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn sources(&self, after: Option<SourceId>, limit: i64) -> Result<Vec<Source>> {
        let sources = sqlx::query_as!(
            Source,
            r#"select source_id as "source_id: SourceId", name, protocol, region, api_url, login_url, client_id,
                      client_secret_sealed, agents, topic_matrix as "topic_matrix: Json<TopicMatrix>",
                      heartbeat_interval_ms, all_users, queues, groups,
                      language, stale_after_seconds, roster_interval_seconds, origin as "origin: SourceOrigin",
                      version, created_at, updated_at, source_health_of(source_id) as "health!: Json<Health>"
               from source
               where deleted_at is null
                 and coalesce(tenant_id = tenant_asking(), true)
                 and ($1::uuid is null or source_id > $1)
               order by source_id
               limit $2"#,
            after as _,
            limit,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(sources)
    }

    /// One source.
    ///
    /// # Errors
    /// If there is none, or the database does not answer.
    pub async fn source(&self, id: SourceId) -> Result<Source> {
        read(&mut *self.begin().await?, id).await
    }

    /// Those of the ids that name no source.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn unknown_sources(&self, ids: &[SourceId]) -> Result<Vec<SourceId>> {
        let unknown = sqlx::query_scalar!(
            r#"select wanted as "wanted!: SourceId"
               from unnest($1::uuid[]) wanted
               where not exists (
                   select from source s
                   where s.source_id = wanted
                     and coalesce(s.tenant_id = tenant_asking(), true)
                     and s.deleted_at is null)"#,
            ids as _,
        )
        .fetch_all(&mut *self.begin().await?)
        .await?;
        Ok(unknown)
    }

    /// Adds a source over the API.
    ///
    /// # Errors
    /// If the name is taken (constraint `source_name_unique`), or the database refuses.
    pub async fn create_source(
        &self,
        settings: &SourceSettings,
        master_key: &MasterKey,
        principal: &str,
    ) -> Result<Source> {
        let mut tx = self.begin().await?;
        let id = insert(&mut tx, settings, SourceOrigin::Api, master_key, principal).await?;
        let source = read(&mut tx, id).await?;
        tx.commit().await?;
        self.wake.connections_changed();
        Ok(source)
    }

    /// Gives a source new settings, if it still is as `before` shows it. A change that changes nothing is
    /// neither counted nor written down.
    ///
    /// # Errors
    /// If it is gone, was changed meanwhile, comes from the environment, its new name is taken (constraint
    /// `source_name_unique`), or the database refuses.
    pub async fn update_source(
        &self,
        before: &Source,
        settings: &SourceSettings,
        master_key: &MasterKey,
        principal: &str,
    ) -> Result<Source> {
        let mut tx = self.begin().await?;
        lock(&mut tx, before.source_id).await?;
        let present = read(&mut tx, before.source_id).await?;
        refuse_if_from_environment(&present)?;
        if present.version != before.version {
            return Err(StoreError::Conflict(
                "the source was changed by somebody else meanwhile; read it again".to_owned(),
            ));
        }
        write_changes(&mut tx, &present, settings, master_key, principal).await?;
        let source = read(&mut tx, before.source_id).await?;
        tx.commit().await?;
        self.wake.connections_changed();
        Ok(source)
    }

    /// Asks for the rosters of a source to be read at once.
    ///
    /// # Errors
    /// If there is none, or the database refuses.
    pub async fn refresh_source(&self, id: SourceId, principal: &str) -> Result<Source> {
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        sqlx::query!(
            "update source
             set refreshes_asked = refreshes_asked + 1
             where source_id = $1",
            id as _,
        )
        .execute(&mut *tx)
        .await?;
        audit::write(&mut tx, &[source_entry(clock::now(), Kind::RefreshRequested, id, principal)]).await?;
        let source = read(&mut tx, id).await?;
        tx.commit().await?;
        self.wake.connections_changed();
        Ok(source)
    }

    /// Removes a source; its connections end when the supervisor sees it.
    ///
    /// # Errors
    /// If there is none, it comes from the environment, or the database refuses.
    pub async fn delete_source(&self, id: SourceId, principal: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        lock(&mut tx, id).await?;
        refuse_if_from_environment(&read(&mut tx, id).await?)?;
        remove(&mut tx, id, principal).await?;
        tx.commit().await?;
        self.wake.connections_changed();
        Ok(())
    }

    /// Makes the source from the environment be what the settings say; they must have been checked.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn upsert_environment_source(
        &self,
        settings: &SourceSettings,
        master_key: &MasterKey,
    ) -> Result<SourceId> {
        let mut tx = self.begin_in_turn().await?;
        let id = match lock_environment_source(&mut tx).await? {
            Some(id) => {
                let present = read(&mut tx, id).await?;
                write_changes(&mut tx, &present, settings, master_key, ENVIRONMENT).await?;
                id
            }
            None => insert(&mut tx, settings, SourceOrigin::Environment, master_key, ENVIRONMENT).await?,
        };
        tx.commit().await?;
        Ok(id)
    }

    /// Removes the source from the environment, if there is one: it is no longer configured.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn remove_environment_source(&self) -> Result<()> {
        let mut tx = self.begin_in_turn().await?;
        if let Some(id) = lock_environment_source(&mut tx).await? {
            remove(&mut tx, id, ENVIRONMENT).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

fn refuse_if_from_environment(source: &Source) -> Result<()> {
    if source.is_from_environment() {
        return Err(StoreError::Conflict(
            "the source is set by the environment of the process and can only be changed there".to_owned(),
        ));
    }
    Ok(())
}

async fn lock(conn: &mut PgConnection, id: SourceId) -> Result<()> {
    sqlx::query_scalar!(
        r#"select source_id as "source_id: SourceId"
           from source
           where source_id = $1
             and coalesce(tenant_id = tenant_asking(), true)
             and deleted_at is null
           for update"#,
        id as _,
    )
    .fetch_optional(conn)
    .await?
    .map(|_| ())
    .ok_or(StoreError::NotFound("source"))
}

async fn lock_environment_source(conn: &mut PgConnection) -> Result<Option<SourceId>> {
    let id = sqlx::query_scalar!(
        r#"select source_id as "source_id: SourceId"
           from source
           where origin = 'environment'
             and deleted_at is null
           for update"#,
    )
    .fetch_optional(conn)
    .await?;
    Ok(id)
}

async fn read(conn: &mut PgConnection, id: SourceId) -> Result<Source> {
    sqlx::query_as!(
        Source,
        r#"select source_id as "source_id: SourceId", name, protocol, region, api_url, login_url, client_id,
                  client_secret_sealed, agents, topic_matrix as "topic_matrix: Json<TopicMatrix>", heartbeat_interval_ms,
                  all_users, queues, groups, language,
                  stale_after_seconds, roster_interval_seconds, origin as "origin: SourceOrigin", version,
                  created_at, updated_at,
                  source_health_of(source_id) as "health!: Json<Health>"
           from source
           where source_id = $1
             and deleted_at is null"#,
        id as _,
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("source"))
}

async fn remove(conn: &mut PgConnection, id: SourceId, principal: &str) -> Result<()> {
    let now = clock::now();
    // The sealed client secret stays: connections made upstream are still to be deleted there.
    sqlx::query!(
        "update source
         set deleted_at = $2,
             version = version + 1,
             updated_at = $2
         where source_id = $1",
        id as _,
        now,
    )
    .execute(&mut *conn)
    .await?;
    audit::write(conn, &[source_entry(now, Kind::SourceDeleted, id, principal)]).await
}

pub(super) fn source_entry(now: OffsetDateTime, kind: Kind, id: SourceId, principal: &str) -> Entry {
    let mut entry = Entry::new(now, kind);
    entry.source_id = Some(id);
    entry.principal = Some(principal.to_owned());
    entry
}
