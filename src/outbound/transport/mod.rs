//! The way to a receiver: addresses, connections, one request and its answer.

pub(super) mod connector;
pub(super) mod dial;
pub(super) mod guard;
mod oauth;
pub mod own_addresses;
pub(super) mod proxy;
mod request_parts;
pub(super) mod target;
pub(super) mod wire;
