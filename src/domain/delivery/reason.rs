//! Why a POST failed, in words: what the one-word class of its outcome cannot say.

use std::fmt;

use crate::domain::delivery::outcome::Outcome;

/// One line for people, at most [`Reason::LONGEST`] characters. Whoever makes one leaves secrets out: it goes
/// into the audit log, the API, notices and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// Characters that are kept.
    pub const LONGEST: usize = 300;

    /// From a text that may hold anything: what would break the line becomes a blank, and the rest is cut.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self(one_line.trim().chars().take(Self::LONGEST).collect())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A POST without an answer that counts, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class, for rules and metrics.
    pub outcome: Outcome,
    /// The words, for people; `None` if the class says it all.
    pub reason: Option<Reason>,
    /// It was made a second time at once, on a fresh connection.
    pub remade: bool,
}

impl Failure {
    /// A failure with its reason.
    #[must_use]
    pub fn because(outcome: Outcome, reason: &str) -> Self {
        Self { reason: Some(Reason::new(reason)), ..Self::from(outcome) }
    }
}

impl From<Outcome> for Failure {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, reason: None, remade: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(Reason::new(" two\r\nlines\0 ").as_str(), "two  lines");
        assert_eq!(Reason::new(&"ä".repeat(1000)).as_str().chars().count(), Reason::LONGEST);
    }
}
