//! The words of the model: what stands in the database, what each process remembers, and what both have seen
//! of receivers.

/// Events at most; an event's index is its `position`.
pub const EVENTS: usize = 3;
/// Processes: the first one has the recorder, the second one only sends.
pub const PROCESSES: usize = 2;

/// A dispatch loop (`DispatcherId`). A process that starts again gets a new one.
pub type Id = u8;
/// A set of events, of lanes or of dispatchers.
pub type Set = u8;

pub const fn only(member: usize) -> Set {
    1 << member
}

pub const fn has(set: Set, member: usize) -> bool {
    set & only(member) != 0
}

/// A row of `delivery`, as far as its lane is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    Absent,
    /// Due, held (`leased`), or, if neither, blocked. `leased_at_insert`: `sent_at = created_at`, so it was
    /// handed over as it is inserted.
    Open {
        due: bool,
        leased: Option<Id>,
        attempt: u8,
        leased_at_insert: bool,
    },
    Ended,
}

impl Row {
    pub const BLOCKED: Self = Self::Open { due: false, leased: None, attempt: 0, leased_at_insert: false };
    pub const DUE: Self = Self::Open { due: true, leased: None, attempt: 0, leased_at_insert: false };

    pub fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }

    pub fn is_blocked(self) -> bool {
        matches!(self, Self::Open { due: false, leased: None, .. })
    }

    pub fn holder(self) -> Option<Id> {
        match self {
            Self::Open { leased, .. } => leased,
            _ => None,
        }
    }

    pub fn attempt(self) -> u8 {
        match self {
            Self::Open { attempt, .. } => attempt,
            _ => 0,
        }
    }

    /// Free and due; the attempt counts, or is as if it had never begun.
    pub fn freed(self, counts: bool) -> Self {
        match self {
            Self::Open { attempt, leased_at_insert, .. } => Self::Open {
                due: true,
                leased: None,
                attempt: attempt.saturating_sub(u8::from(!counts)),
                leased_at_insert,
            },
            other => other,
        }
    }

    pub fn leased_to(self, id: Id) -> Self {
        match self {
            Self::Open { attempt, leased_at_insert, .. } => {
                Self::Open { due: false, leased: Some(id), attempt: attempt + 1, leased_at_insert }
            }
            other => other,
        }
    }
}

/// A writer's transaction. It has the writers' lock, and nobody sees what it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writing {
    pub event: usize,
    pub row: Row,
    /// The recorder waits for the answer to the commit.
    pub awaited: bool,
}

/// A dispatcher's cycle. It has the cycle lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cycling {
    pub process: usize,
    pub rows: [Row; EVENTS],
    /// What the cycle looked at: rows that a writer commits meanwhile are not touched.
    pub seen: Set,
    pub claimed: Set,
    /// The loop waits for the answer to the commit.
    pub awaited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Runs,
    Drains,
    /// The loop has ended; the recorder may still have something to say.
    Stopped,
    Killed,
}

/// What a writer says to the dispatcher of its process (`DirectDispatch`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    Delivery { event: usize },
    Behind { lane: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hand {
    Empty,
    Ready(u8),
    /// A POST is under way.
    Posting(u8),
}

/// How an attempt leaves its delivery (`Next`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Next {
    Ended,
    Retry,
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Settlement {
    pub event: usize,
    pub attempt: u8,
    pub next: Next,
    pub promotes_next: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Work {
    pub settlements: Vec<Settlement>,
    pub lanes: Set,
}

impl Work {
    pub fn is_empty(&self) -> bool {
        self.settlements.is_empty() && self.lanes == 0
    }

    pub fn settles(&self) -> Set {
        self.settlements.iter().fold(0, |set, settlement| set | only(settlement.event))
    }

    pub fn add(&mut self, settlement: Settlement) {
        self.settlements.push(settlement);
        self.settlements.sort_unstable();
    }
}

/// Where the loop's cycle is; one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cycle {
    None,
    /// `reconcile` is next; `known` was gathered when the cycle was started.
    Reconciles {
        known: Set,
        work: Work,
    },
    Starts(Work),
    Waits(Work),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub life: Life,
    pub id: Id,
    /// `Handoff`: whose hands it is, what waits there, and lanes to look into.
    pub leave: Option<Id>,
    pub waiting: Vec<Word>,
    pub uncertain: Set,
    /// `Dispatch`.
    pub held: [Hand; EVENTS],
    pub work: Work,
    pub cycle: Cycle,
    pub commit_unknown: bool,
    pub walks: bool,
}

impl Process {
    pub fn new(id: Id) -> Self {
        Self {
            life: Life::Runs,
            id,
            leave: Some(id),
            waiting: Vec::new(),
            uncertain: 0,
            held: [Hand::Empty; EVENTS],
            work: Work::default(),
            cycle: Cycle::None,
            commit_unknown: false,
            walks: true,
        }
    }

    /// Whether it has a loop that does something.
    pub fn has_loop(&self) -> bool {
        matches!(self.life, Life::Runs | Life::Drains)
    }

    pub fn leased_set(&self) -> Set {
        (0..EVENTS).filter(|e| self.held[*e] != Hand::Empty).fold(0, |set, event| set | only(event))
    }

    pub fn settling(&self) -> Set {
        match &self.cycle {
            Cycle::None => 0,
            Cycle::Reconciles { work, .. } | Cycle::Starts(work) | Cycle::Waits(work) => work.settles(),
        }
    }

    /// Leased, to be settled, or being settled.
    pub fn knows(&self) -> Set {
        self.leased_set() | self.work.settles() | self.settling()
    }
}

/// Where the recorder is with event `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recorder {
    Idle,
    /// Waits for its commit; `leave` is what it asked for before.
    Writes {
        leave: Option<Id>,
    },
    /// The commit was answered.
    Announces {
        leave: Option<Id>,
        row: Row,
    },
    /// Nobody took the word.
    Returns {
        leave: Option<Id>,
        row: Row,
    },
    /// The outcome of its transaction is unknown.
    Unsure,
    /// It is stored, and nobody was told.
    Unannounced,
}

/// What must never be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broken {
    /// A POST began though an older one of its lane is open.
    pub order: bool,
    /// Two POSTs of a lane were under way.
    pub twice_at_once: bool,
    /// A POST that was answered with 2xx began again, without a crash or a lost lease.
    pub repeated: bool,
    /// A change that is stored was recorded again, and refused as a duplicate.
    pub refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub rows: [Row; EVENTS],
    /// Rows of `dispatcher`.
    pub dispatchers: Set,
    pub writing: Option<Writing>,
    pub cycling: Option<Cycling>,
    pub processes: [Process; PROCESSES],
    pub recorder: Recorder,
    /// The event to be written next.
    pub next: usize,
    /// Ids given so far.
    pub ids: Id,
    /// Lost with a killed process before the commit.
    pub lost: Set,
    /// Answered with 2xx.
    pub answered: Set,
    /// May be sent again: a process was killed with it leased, or its lease was lost.
    pub loose: Set,
    pub faults_left: u8,
    pub failures_left: u8,
    pub broken: Broken,
}
