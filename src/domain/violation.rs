//! What is wrong with a setting that somebody gave us. Rules return all of them, not the first.

use std::fmt;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the field, and the place in its list if it is one: `url`, `agents/3`.
    pub field: String,
    /// What is wrong, worded to follow the name; never the value of a secret.
    pub what: String,
}

impl Violation {
    /// A violation of `field`.
    #[must_use]
    pub fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.what)
    }
}

/// Notes what is wrong with a text: empty or blank, longer than `chars_max`, or with control characters.
pub(super) fn check_text(field: &str, text: &str, chars_max: usize, found: &mut Vec<Violation>) {
    if text.trim().is_empty() {
        found.push(Violation::new(field, "is empty"));
    } else if text.chars().count() > chars_max {
        found.push(Violation::new(field, format!("is longer than {chars_max} characters")));
    } else if text.chars().any(char::is_control) {
        found.push(Violation::new(field, "has control characters"));
    }
}

/// Notes what is wrong with each text of a list, and with its length; returns it without repeats, in order.
pub(super) fn check_texts(
    field: &str,
    texts: Vec<String>,
    items_max: usize,
    chars_max: usize,
    found: &mut Vec<Violation>,
) -> Vec<String> {
    if texts.len() > items_max {
        found.push(Violation::new(field, format!("has more than {items_max} items")));
        return Vec::new();
    }
    for (i, text) in texts.iter().enumerate() {
        check_text(&format!("{field}/{i}"), text, chars_max, found);
    }
    without_repeats(texts)
}

/// The list in its order, each value once.
pub(super) fn without_repeats<T: Clone + Eq + std::hash::Hash>(values: Vec<T>) -> Vec<T> {
    let mut seen = std::collections::HashSet::new();
    values.into_iter().filter(|value| seen.insert(value.clone())).collect()
}

/// A name as RFC 6901 writes it in a pointer.
#[must_use]
pub fn pointer_token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
