//! Floor 2, the right edge: POSTs to strangers.
//!
//! `envelope` says what is sent (pure), `guard` where to, `connector` opens the way, `post` makes one attempt. Not
//! awc: it hands the answer of one POST to the next after an interim answer (docs/adr/0008).

mod connector;
pub mod envelope;
mod guard;
pub mod post;
