//! Cost of each SQL statement, as Postgres itself counts it.

use crate::harness::bridge::Bridge;

const SHOWN: u32 = 14;

/// Forgets what was counted so far.
pub async fn reset(bridge: &Bridge) -> anyhow::Result<()> {
    bridge.sql("select pg_stat_statements_reset()").await.map(drop)
}

/// Prints the dearest statements since the last reset.
pub async fn print(bridge: &Bridge, deliveries: u64) -> anyhow::Result<()> {
    let deliveries = deliveries.max(1);
    let rows = bridge
        .sql(&format!(
            "select calls, round(total_exec_time), round((mean_exec_time)::numeric, 3), \
                    round((max_exec_time)::numeric, 1), round((total_exec_time * 1000 / {deliveries})::numeric, 1), \
                    rows, wal_bytes / {deliveries}, \
                    left(regexp_replace(regexp_replace(query, '--[^\\n]*', '', 'g'), '\\s+', ' ', 'g'), 100) \
             from pg_stat_statements where query !~ 'pg_stat_statements' \
             order by total_exec_time desc limit {SHOWN}"
        ))
        .await?;
    println!("  statements:    calls  total ms  mean ms    max ms  µs/delivery      rows  WAL B/delivery");
    for row in rows {
        let column = |n: usize| row.get(n).map_or("", String::as_str);
        println!(
            "             {:>9} {:>9} {:>8} {:>9} {:>12} {:>9} {:>15}  {}",
            column(0),
            column(1),
            column(2),
            column(3),
            column(4),
            column(5),
            column(6).split('.').next().unwrap_or_default(),
            column(7)
        );
    }
    Ok(())
}
