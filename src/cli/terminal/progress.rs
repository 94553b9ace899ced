//! How far something long is, for a person at a terminal: nothing is shown to a file or a pipe.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(120);

/// A bar on stderr; without a known end it turns and counts.
#[must_use]
pub fn bar(what: &'static str, end: Option<u64>) -> ProgressBar {
    let template = match end {
        Some(_) => "{msg} [{bar:40}] {human_pos}/{human_len} {eta}",
        None => "{spinner} {msg} {human_pos} {elapsed}",
    };
    let bar = ProgressBar::with_draw_target(end, indicatif::ProgressDrawTarget::stderr()).with_message(what);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}
