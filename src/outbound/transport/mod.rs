//! The way to a receiver: addresses, connections, one request and its answer.

pub(super) mod connector;
mod failure;
pub(super) mod guard;
mod oauth;
pub mod own_addresses;
mod pool;
mod request_parts;
mod socket;
pub(super) mod target;
pub(super) mod wire;

#[cfg(test)]
mod proxy_tests;
