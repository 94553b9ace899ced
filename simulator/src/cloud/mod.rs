//! Genesys Cloud, played by us: the public Notifications API, with verbs to hurt it.
//!
//! ```text
//!  test ──verbs──▶ State (one lock) ──orders──▶ socket task ──frames──▶ the bridge
//!                    ▲   │ people: the truth; ledger: each change and what became of it
//!                    └───┴──────────── written / lost ◀─────────┘
//! ```
//!
//! [`Cloud`] is the handle. `people` is the truth, `state` holds it with tokens and channels, `rest`,
//! `channels` and `directory` are its public face, with `answers` in common; `socket` is one open WebSocket
//! and obeys an `order`; `deeds` are the ways to hurt it, `verbs` what they do.

mod answers;
mod channels;
mod deeds;
mod directory;
mod handle;
mod options;
mod order;
mod people;
mod rest;
mod socket;
mod state;
mod verbs;

pub use deeds::{ClientState, Deed, Fault, Manner, Place, Reach};
pub use handle::Cloud;
pub use options::{CloudOptions, RateHeaders};
pub use people::{Definition, Person};
pub use state::{Change, ChannelSeen, CloudSnapshot, CloudTally, Fate};
