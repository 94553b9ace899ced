//! Genesys Cloud presence in, signed webhooks out, every step on record.
//!
//! Modules in floor order; a module imports only from floors below it (`tests/floors.rs` holds this):
//!
//! - 0 [`domain`]: words and rules, pure
//! - 1 [`client`], [`clock`], [`config`], [`dial`], [`embedded_postgres`], [`examinations`], [`keyfile`],
//!   [`metrics`], [`random`], [`status`], [`telemetry`], [`tls`], [`tunnel`]: the ground
//! - 2 [`genesys`] (sockets in), [`store`] (SQL), [`outbound`] (POSTs out): three edges that never meet
//! - 3 [`actors`] (long-lived loops), [`services`] (what callers may ask for), above it [`api`] (REST)
//!   and [`console`] (pages)
//! - 4 [`app`] (builds everything once), [`lifecycle`] (stops it), [`cli`] (subcommands), `main`, and with
//!   the feature of that name `fuzzing` (entry points for `fuzz/`)

pub mod actors;
pub mod api;
pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod console;
pub mod dial;
pub mod domain;
pub mod embedded_postgres;
pub mod examinations;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod genesys;
pub mod keyfile;
pub mod lifecycle;
pub mod metrics;
pub mod outbound;
pub mod random;
pub mod services;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod tunnel;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
