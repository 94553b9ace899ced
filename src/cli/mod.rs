//! Floor 4: subcommands that are no service: they do one thing and end.

pub mod audit;
pub mod doctor;
pub mod rotate_master_key;
