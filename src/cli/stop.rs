//! Ctrl-C ends what has no end of its own, and that is no failure.

use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::terminal::print::remark;

/// What is said at the end.
#[derive(Clone, Default)]
pub struct OnStop(Arc<Mutex<String>>);

impl OnStop {
    /// Ends the process with code 0 at SIGINT and SIGTERM from now on.
    ///
    /// # Errors
    /// If signals cannot be watched.
    pub fn watch() -> anyhow::Result<Self> {
        let on_stop = Self::default();
        let said = on_stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _in_it = runtime.enter();
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            let last = said.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !last.is_empty() {
                remark(last);
            }
            exit(0);
        })?;
        Ok(on_stop)
    }

    /// Sets what is said at the end.
    pub fn say(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}
