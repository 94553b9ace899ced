//! A finding that is made when somebody first looks.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// Reads like the finding itself. A flood of POSTs is accepted as fast as it comes; each is checked
/// afterwards, when the check takes no processor time from the sender.
#[derive(Clone)]
pub struct Late<T> {
    found: OnceLock<T>,
    look: Arc<dyn Fn() -> T + Send + Sync>,
}

impl<T> Late<T> {
    pub(super) fn new(look: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self { found: OnceLock::new(), look: Arc::new(look) }
    }
}

impl<T> Deref for Late<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.found.get_or_init(|| (self.look)())
    }
}

impl<T: Clone + Send + Sync + 'static> From<T> for Late<T> {
    fn from(found: T) -> Self {
        Self::new(move || found.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Late<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}

impl<T: PartialEq> PartialEq<T> for Late<T> {
    fn eq(&self, other: &T) -> bool {
        **self == *other
    }
}
