//! Each file is one part that the command line names, and what it must show: docs/benchmarks.md.

pub mod console;
pub mod database_away;
pub mod deliver;
pub mod ends;
pub mod failover;
pub mod filters;
pub mod hanging;
pub mod hardship;
pub mod isolation;
pub mod many;
pub mod order;
pub mod outage;
pub mod removal;
pub mod scale;
