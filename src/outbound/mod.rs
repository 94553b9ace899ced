//! Floor 2, the right edge: POSTs to receivers, whom nobody here trusts.
//!
//! - `body/`: what is sent, pure. `data` has the fields of an event, `envelope` the whole body and its
//!   headers.
//! - `transport/`: the way to a receiver. `guard` resolves a name and validates its addresses,
//!   `own_addresses` tells the policy our own ones, `socket` is a connection that can be looked at,
//!   `connector` opens one, `pool` keeps them, `wire` carries one request and its answer, `failure` says why
//!   there is none, `target` is one webhook's receiver with its headers and credentials, `oauth` caches its
//!   token.
//! - `post` makes one attempt, `verify` asks a receiver whether it wants any, `redact` keeps secrets out of
//!   what is stored, `syslog` carries the audit log to its receiver.
//!
//! Not awc: it hands the answer of one POST to the next after an interim answer (docs/adr/0008).

pub mod body;
pub mod post;
mod redact;
pub mod syslog;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod verify;
