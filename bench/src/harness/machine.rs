//! Facts about the machine that figures were taken on.

use std::fs;

use super::bridge::Bridge;

/// Prints what one must know to compare the figures with others.
pub async fn print(bridge: &Bridge) {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let postgres = bridge.sql("show server_version").await.ok();
    let postgres = postgres.and_then(|rows| rows.into_iter().flatten().next());
    println!(
        "{cores} cores ({}), Linux {}, PostgreSQL {}; bench built {}",
        model.unwrap_or("unknown").trim(),
        kernel.trim(),
        postgres.as_deref().unwrap_or("of unknown version, for want of psql"),
        if cfg!(debug_assertions) { "for debugging: do not trust these figures" } else { "with --release" }
    );
}
