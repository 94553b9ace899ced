//! A reader that has seen enough (`| head`) ends a command quietly.

use std::io;

/// Whether a command failed because nobody reads its output any more.
#[must_use]
pub fn is_broken(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}
