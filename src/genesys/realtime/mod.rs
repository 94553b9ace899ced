//! Protocol of the original specification (docs/realtime.md): one connection per agent, JSON pings, ten
//! connections per client.

mod rest;
pub mod wire;

pub use rest::{Realtime, RealtimeSettings};
