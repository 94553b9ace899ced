//! Genesys Cloud presence in, signed webhooks out, every step on record.
//!
//! Modules in floor order; a module imports only from floors below it (`tests/floors.rs` holds this):
//!
//! - 0 [`domain`]: words and rules, pure
//! - 1 [`clock`], [`random`], [`status`], [`metrics`], `config`, `telemetry`: the ground
//! - 2 `genesys` (sockets in), [`store`] (Postgres), `outbound` (POSTs out): three edges that never meet
//! - 3 `actors` (what lives), `api` (REST)
//! - 4 `app` (builds everything once), `lifecycle` (how it ends), `main`

pub mod api;
pub mod clock;
pub mod domain;
pub mod metrics;
pub mod random;
pub mod status;
pub mod store;
