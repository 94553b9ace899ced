//! Floor 2, the right edge: POSTs to receivers, whom nobody here trusts.
//!
//! `data` and `envelope` say what is sent (pure), `guard` where to (`ours` keeps it told what is ours, `proxy` is the way
//! through an egress proxy, `dial` tries one address after another), `connector` opens the way, `wire` carries one
//! question and its answer, `target` is one webhook's own way with all that its receiver asks for (`oauth` keeps its
//! token), `post` makes one attempt, `handshake` asks a receiver whether it wants any. Not awc: it hands the answer of
//! one POST to the next after an interim answer (docs/adr/0008).

pub mod body;
pub mod post;
mod redact;
pub mod syslog;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod verify;
