//! The way to a receiver: addresses, connections, one request and its answer.

pub(super) mod connector;
pub(super) mod guard;
mod oauth;
pub mod own_addresses;
mod request_parts;
pub(super) mod target;
pub(super) mod wire;

#[cfg(test)]
mod proxy_tests;
