//! Settings of one transaction, for statements that are not like the rest.

use sqlx::PgConnection;

use super::Result;

/// Lets the server plan each statement of this transaction for its values. A statement with optional filters
/// would otherwise get one plan for all of them, which reads everything.
pub(super) async fn choose_plan_by_values(conn: &mut PgConnection) -> Result<()> {
    sqlx::query_scalar!("select set_config('plan_cache_mode', 'force_custom_plan', true)")
        .fetch_one(conn)
        .await?;
    Ok(())
}

/// Gives this transaction's statements a minute each, for the one step that may have to touch very many rows.
///
/// # Errors
/// If the database refuses.
pub(super) async fn allow_a_minute(conn: &mut PgConnection) -> Result<()> {
    sqlx::query_scalar!("select set_config('statement_timeout', '60s', true)").fetch_one(conn).await?;
    Ok(())
}
