//! The pages and what their forms do: a file or a folder for each kind of thing, with its rows of the tables.

use super::{Action, Page};

mod board;

/// In the order of the navigation.
pub(super) const PAGES: &[&[Page]] = &[board::PAGES];

/// In any order.
pub(super) const ACTIONS: &[&[Action]] = &[];
