//! Faults: a request, and the harm done to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::frames::Unit;
use super::{Mode, Server};

/// One request that is to be hurt, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub at: Point,
    pub deed: Deed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// The k-th of all, from 1.
    Number(u64),
    /// The n-th, from 1, that says this, and that runs it or does not.
    Statement { text: Arc<str>, runs: bool, nth: u64 },
}

/// Harm done to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The server gets it this much later, whether or not the client has hung up by then: what it does is
    /// done late, and a transaction keeps its locks until then.
    PassLate(Duration),
    /// The client gets the answer this much later.
    AnswerLate(Duration),
    /// The connection is cut before the server is given it: it is not done.
    LoseRequest,
    /// The connection is cut once the server has answered: it is done, and nobody is told.
    LoseAnswer,
    /// The server is made to answer with an error of this SQLSTATE in its place; of class `57P0_` the
    /// connection ends with it.
    Refuse(&'static str),
}

/// A request that was passed on, or hurt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Among all, from 1.
    pub number: u64,
    /// Number of its connection, from 1.
    pub connection: u64,
    /// SQL text, with single spaces.
    pub statement: Arc<str>,
    /// Whether it runs the statement; it may also only prepare it.
    pub runs: bool,
    /// How many have said the same so far, this one included.
    pub nth: u64,
}

#[derive(Debug)]
pub struct Shared {
    pub server: Mutex<Server>,
    pub mode: watch::Sender<Mode>,
    pub tally: Mutex<Tally>,
}

/// Counts, and what is to come.
#[derive(Debug, Default)]
pub struct Tally {
    pub refused: u64,
    /// Connections of another generation stay silent in [`Mode::PassNew`].
    pub generation: u64,
    pub connections: u64,
    pub requests: u64,
    /// `ReadyForQuery` by connection.
    pub ready: HashMap<u64, u64>,
    said: HashMap<(Arc<str>, bool), u64>,
    pub remembered: Option<Vec<Request>>,
    pub fault: Option<Fault>,
    pub hurt: Option<Request>,
    pub swallow: u64,
    pub swallowed: u64,
}

impl Shared {
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    /// Counts a request that is about to be passed on; gives what is to be done to it.
    pub fn next(&mut self, connection: u64, unit: &Unit) -> Option<Deed> {
        self.requests += 1;
        let said = self.said.entry((unit.statement.clone(), unit.runs)).or_default();
        *said += 1;
        let (statement, runs, nth) = (unit.statement.clone(), unit.runs, *said);
        let request = Request { number: self.requests, connection, statement, runs, nth };
        let met = self.fault.as_ref().is_some_and(|fault| fault.at.is(&request));
        let deed = if met {
            self.hurt = Some(request.clone());
            self.fault.take().map(|fault| fault.deed)
        } else if self.swallow > 0 && unit.is_commit() {
            self.swallow -= 1;
            Some(Deed::LoseAnswer)
        } else {
            None
        };
        if let Some(remembered) = &mut self.remembered {
            remembered.push(request);
        }
        deed
    }
}

impl Point {
    fn is(&self, request: &Request) -> bool {
        match self {
            Self::Number(number) => *number == request.number,
            Self::Statement { text, runs, nth } => {
                *text == request.statement && *runs == request.runs && *nth == request.nth
            }
        }
    }
}

impl Unit {
    /// `COMMIT`, which clients send as a simple query.
    pub fn is_commit(&self) -> bool {
        self.statement.eq_ignore_ascii_case("commit")
    }
}
