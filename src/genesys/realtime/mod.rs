//! The seed document's protocol: one connection an agent, JSON pings, ten connections a client.

mod rest;
pub mod wire;

pub use rest::{Realtime, RealtimeSettings};
