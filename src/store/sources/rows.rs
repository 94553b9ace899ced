//! Row of a source: settings to columns. Called by `store/sources/mod.rs`, within its transactions.

use sqlx::PgConnection;

use crate::clock;
use crate::domain::audit::Kind;
use crate::domain::ids::SourceId;
use crate::domain::presence::source::{SourceOrigin, SourceSettings};
use crate::domain::secret::{MasterKey, Secret};
use crate::random;
use crate::store::sources::{Source, source_entry};
use crate::store::{Result, audit};

/// Adds a source.
pub(in crate::store) async fn insert(
    conn: &mut PgConnection,
    settings: &SourceSettings,
    origin: SourceOrigin,
    master_key: &MasterKey,
    principal: &str,
) -> Result<SourceId> {
    let (id, now) = (SourceId::generate(), clock::now());
    sqlx::query!(
        "insert into source (
             source_id, name, protocol, region, api_url, login_url, client_id, client_secret_sealed, agents,
             topic_matrix, heartbeat_interval_ms, origin, created_at, updated_at, all_users, queues, groups, language,
             stale_after_seconds, roster_interval_seconds)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::json, $11, $12, $13, $13, $14, $15, $16, $17, $18, $19)",
        id as _,
        settings.name,
        settings.protocol,
        settings.region,
        settings.api_url,
        settings.login_url,
        settings.client_id,
        seal(&settings.client_secret, id, master_key),
        &settings.agents,
        settings.topic_matrix.to_string(),
        settings.heartbeat_interval_ms,
        origin as _,
        now,
        settings.all_users,
        &settings.queues,
        &settings.groups,
        settings.language,
        settings.stale_after_seconds,
        settings.roster_interval_seconds,
    )
    .execute(&mut *conn)
    .await?;
    audit::write(conn, &[source_entry(now, Kind::SourceCreated, id, principal)]).await?;
    Ok(id)
}

/// Gives a source new settings; a change that changes nothing is neither counted nor written down.
pub(in crate::store) async fn write_changes(
    conn: &mut PgConnection,
    present: &Source,
    settings: &SourceSettings,
    master_key: &MasterKey,
    principal: &str,
) -> Result<()> {
    let changed = present.changed_fields(settings, master_key);
    if changed.is_empty() {
        return Ok(());
    }
    let (id, now) = (present.source_id, clock::now());
    sqlx::query!(
        "update source
         set name = $2,
             protocol = $3,
             region = $4,
             api_url = $5,
             login_url = $6,
             client_id = $7,
             client_secret_sealed = $8,
             agents = $9,
             topic_matrix = $10::text::json,
             heartbeat_interval_ms = $11,
             version = version + 1,
             updated_at = $12,
             all_users = $13,
             queues = $14,
             groups = $15,
             language = $16,
             stale_after_seconds = $17,
             roster_interval_seconds = $18
         where source_id = $1",
        id as _,
        settings.name,
        settings.protocol,
        settings.region,
        settings.api_url,
        settings.login_url,
        settings.client_id,
        seal(&settings.client_secret, id, master_key),
        &settings.agents,
        settings.topic_matrix.to_string(),
        settings.heartbeat_interval_ms,
        now,
        settings.all_users,
        &settings.queues,
        &settings.groups,
        settings.language,
        settings.stale_after_seconds,
        settings.roster_interval_seconds,
    )
    .execute(&mut *conn)
    .await?;
    let entry = source_entry(now, Kind::SourceUpdated, id, principal).data("fields", changed);
    audit::write(conn, &[entry]).await
}

fn seal(secret: &Secret, id: SourceId, master_key: &MasterKey) -> Vec<u8> {
    master_key.seal(secret.expose().as_bytes(), id.0.as_bytes(), random::bytes())
}
