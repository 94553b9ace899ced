//! A simulated Genesys Cloud and a demo CRM: both ends of the bridge, played by somebody else.
//!
//! This crate shares no type with `presence-bridge` on purpose. It is the second opinion on the wire: what
//! the bridge sends upstream is checked by [`genesys`], what it sends downstream by [`crm`], each written
//! from the documents and not from the bridge's code. A mistake in the bridge's idea of a frame, a header or
//! a signature therefore meets a disagreeing reader instead of its own mirror image.
//!
//! - [`genesys`]: the server side of the `realtime` protocol (REST and WebSocket), with verbs to hurt it and
//!   a ledger that remembers what was really sent and when.
//! - [`cloud`]: the server side of the `notifications` protocol, likewise.
//! - [`crm`]: a webhook receiver with its own Standard Webhooks check, every misbehaviour a receiver can
//!   have, and checkers over what arrived.
//! - [`shift`]: a repeatable working day of agents, as a list of presence changes.
//! - [`relay`]: stands between a program and its Postgres, and makes single answers late, lost or refused.
//! - [`http`]: the small JSON client that the program and the tests talk to the bridge with.
//! - [`chance`]: repeatable chance.
//! - [`clock`]: one spelling of time for all of them.
//!
//! Everything runs on the caller's tokio runtime, binds port 0 unless told otherwise, and ends when its
//! handle is dropped.

pub mod chance;
pub mod clock;
pub mod cloud;
pub mod crm;
pub mod genesys;
pub mod http;
mod listen;
pub mod relay;
pub mod shift;
