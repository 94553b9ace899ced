//! What an examination of a source finds, step by step.

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What was seen.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

/// What came of a step: words, and whether they are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It works.
    Good(String),
    /// It works in part.
    Warning(Trouble),
    /// It does not work.
    Bad(Trouble),
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name: `settings`, `proxy`, `login`, `token`, `rosters`, `presences`, `channels`, `subscribe`,
    /// `socket`, `channel`, `ping`, `state`, `time`.
    pub name: &'static str,
    pub finding: Finding,
}
