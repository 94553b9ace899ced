//! Advisory locks of the database, in one place so that no number stands for two of them. A transaction that
//! takes several takes them in this order, and before any row.

use sqlx::PgConnection;

use super::Result;

/// Begins a transaction of a writer of agents' events, one at a time in whatever process.
pub(super) const BEGIN_WRITING: &str = "begin; select pg_advisory_xact_lock(7700451)";
/// The same, and shares the generation of the webhooks
/// ([`shared_generation`](super::ingest::filters::shared_generation)).
pub(super) const BEGIN_RECORDING: &str =
    "begin; select pg_advisory_xact_lock(7700451); select from webhook_generation for share";
/// Begins a cycle of a dispatcher, one at a time in whatever process.
pub(super) const BEGIN_CYCLE: &str = "begin; select pg_advisory_xact_lock(7700452)";
/// Held by the process that writes rows it needs at its start.
const START: &str = "select pg_advisory_xact_lock(7700453)";
/// First of two keys; the second is the tenant. Held by transactions that add something that its quota
/// counts.
pub(super) const TENANT_QUOTA: i32 = 7_700_454;
/// Held by the process that seals the audit log.
pub(super) const AUDIT_SEALER: i64 = 0x7062_5f73_6561_6c00;

/// Keeps other writers of agents' events out until the transaction ends.
pub(super) async fn lock_writers(conn: &mut PgConnection) -> Result<()> {
    sqlx::query("select pg_advisory_xact_lock(7700451)").execute(conn).await?;
    Ok(())
}

/// Keeps other processes that start out until the transaction ends.
pub(super) async fn lock_start(conn: &mut PgConnection) -> Result<()> {
    sqlx::query(START).execute(conn).await?;
    Ok(())
}
