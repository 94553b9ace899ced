//! Orders to a socket's task.

use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Order {
    /// Send an event, and write in the ledger what became of it.
    Event {
        number: u64,
        frame: Arc<str>,
    },
    Say(String),
    /// Send a binary message.
    Binary(Vec<u8>),
    /// Start the closing handshake.
    Close(u16, String),
    /// End TCP without a close frame.
    Drop,
    /// Keep TCP open and say nothing, or be normal again.
    Silence(bool),
}
