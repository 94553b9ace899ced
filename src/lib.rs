//! Genesys Cloud presence in, signed webhooks out, every step on record.
//!
//! Modules in floor order; a module imports only from floors below it (`tests/floors.rs` holds this):
//!
//! - 0 [`domain`]: words and rules, pure
//! - 1 [`clock`], [`config`], [`keyfile`], [`metrics`], [`random`], [`status`], [`telemetry`], [`tls`]: the ground
//! - 2 [`genesys`] (sockets in), [`store`] (Postgres), [`outbound`] (POSTs out): three edges that never meet
//! - 3 [`actors`] (what lives), [`api`] (REST)
//! - 4 [`app`] (builds everything once), [`lifecycle`] (how it ends), [`doctor`] (examines a source), [`rotate`]
//!   (changes the master key), [`sweep`] (retention), `main`, and with the feature of that name `fuzzing` (doors for `fuzz/`)

pub mod actors;
pub mod api;
pub mod app;
pub mod audit_cli;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod domain;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod genesys;
pub mod keyfile;
pub mod lifecycle;
pub mod metrics;
pub mod outbound;
pub mod random;
pub mod rotate;
pub mod status;
pub mod store;
pub mod sweep;
pub mod telemetry;
pub mod tls;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
