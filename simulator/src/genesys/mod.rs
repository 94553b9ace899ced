//! Genesys Cloud, played by us: the server side of the protocol `realtime`, with verbs to hurt it.
//!
//! ```text
//!  test ──verbs──▶ World (one lock) ──orders──▶ Socket task ──frames──▶ the bridge
//!                    ▲      │ ledger: number, state, what became of it        │
//!                    └──────┴────────── written / lost ◀──────────────────────┘
//! ```
//!
//! [`Genesys`] is the handle. `options` are its settings, `rest` and `upgrade` its public face, `socket` one
//! open WebSocket over `frame` (codec) and `outbox` (unwritten bytes), `ledger` the truth, `faults` and
//! `verbs` the ways to hurt it, `control` the same verbs over REST, `snapshot` what a test asserts on.

mod answers;
mod control;
mod faults;
pub mod frame;
mod ledger;
mod options;
mod outbox;
mod rest;
mod server;
mod snapshot;
mod socket;
mod upgrade;
mod verbs;
mod world;

mod handle;

pub use faults::{Fault, Route, Tamper};
pub use handle::{Genesys, StillWaiting};
pub use ledger::{Change, Fate};
pub use options::{GenesysOptions, TOPICS};
pub use snapshot::{CloseSeen, ConnectionSeen, OpenSeen, Snapshot, Tally};
pub use verbs::{Junk, Target, Verb};
