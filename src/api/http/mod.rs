//! Reading requests and writing answers: the listener, limits, callers, bodies, pages and problems.

pub(crate) mod agent_query;
pub mod auth;
pub(super) mod body;
pub(crate) mod body_reader;
pub(super) mod connection;
pub(crate) mod deadline;
pub(crate) mod download;
pub mod event_stream;
pub(super) mod framing;
pub(super) mod idempotency;
pub(crate) mod limits;
pub(crate) mod page;
pub mod problem;
pub mod server;
pub(crate) mod strict_json;
