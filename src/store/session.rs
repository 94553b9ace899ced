//! Settings of one transaction, for statements that are not like the rest.

use sqlx::{AssertSqlSafe, PgConnection};

use super::Result;

/// Lets the server plan each statement of this transaction for its values. A statement with optional filters
/// would otherwise get one plan for all of them, which reads everything.
pub(super) async fn choose_plan_by_values(conn: &mut PgConnection) -> Result<()> {
    sqlx::query_scalar!("select set_config('plan_cache_mode', 'force_custom_plan', true)")
        .fetch_one(conn)
        .await?;
    Ok(())
}

/// The same, and has each table read by an index, in the order of an index where one has the wanted order.
/// Statistics are older than what a page asks for: a webhook that became busy a minute ago looks as if it had
/// a handful of rows, which are soon sorted, and a table of pending deliveries full of dead rows as if it were
/// soon read as a whole.
pub(super) async fn read_by_index(conn: &mut PgConnection) -> Result<()> {
    by_index(conn, "plan_cache_mode = force_custom_plan").await
}

/// Has each table read by an index in the order of that index, and nothing sorted: day partitions are many, and
/// the planner's statistics of the newest one are old.
pub(super) async fn read_in_order(conn: &mut PgConnection) -> Result<()> {
    by_index(conn, "enable_sort = off").await
}

async fn by_index(conn: &mut PgConnection, besides: &'static str) -> Result<()> {
    let settings =
        format!("set local enable_seqscan = off; set local enable_bitmapscan = off; set local {besides}");
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(conn).await?;
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
