//! One test binary: each file is a promise to users, kept against real parts: the program itself as a process, a
//! real Postgres, the simulated Genesys Cloud and a receiver that checks signatures on its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::as_conversions
)]

mod support;

mod delivers_signed_posts;
mod drains_on_stop;
mod examines_a_source;
mod keeps_order_per_agent;
mod keeps_secrets;
mod keeps_tokens;
mod leaves_nothing_upstream;
mod matches_openapi;
mod refuses_wrong_configuration;
mod registers_webhooks;
mod retries_then_gives_up;
mod speaks_notifications;
mod speaks_realtime;
mod survives_a_kill;
mod survives_database_loss;
mod tells_how_sources_stand;
mod verifies_elsewhere;
mod writes_everything_down;
