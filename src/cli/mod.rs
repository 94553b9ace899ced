//! Floor 4: the subcommands. Each has a `run`, which gives the exit code of the process.

pub mod audit;
pub mod check_config;
pub mod daily;
pub mod doctor;
pub mod healthcheck;
pub mod manual;
pub mod migrate;
mod pipe;
pub mod rotate_master_key;
pub mod serve;
mod stop;
mod terminal;
