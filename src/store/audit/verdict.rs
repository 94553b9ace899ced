//! What a check of the audit log comes to: for `store/audit/verify.rs`, which finds it out, and for whoever
//! tells people.

use std::fmt;

use time::Date;

use crate::domain::audit::seal::{Head, LostHead, RowFault};

/// Kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// With a row.
    Row(RowFault),
    /// With the rows of a seal; the row is unknown, because the listing was altered or is gone too.
    Rows,
    /// The seal was altered.
    SealEdited,
    /// The seal is not there.
    SealMissing,
    /// The seal was not signed with the audit key, or the key was altered.
    SealForged,
    /// The proof that a day was dropped was not signed with the audit key.
    DropForged,
    /// What is kept of a row that was erased was not signed with the audit key, or was altered.
    ErasureForged,
    /// That a head was lost was not signed with the audit key, or was altered.
    LossForged,
    /// A row that was erased is not as it was then.
    ErasedRowEdited,
    /// The log ends before the given head.
    Truncated,
    /// The chain is not the one that the given head was taken from.
    Rewritten,
}

impl FaultKind {
    /// A stable word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Row(RowFault::Edited) => "row_edited",
            Self::Row(RowFault::Deleted) => "row_deleted",
            Self::Row(RowFault::Inserted) => "row_inserted",
            Self::Rows => "rows_differ",
            Self::SealEdited => "seal_edited",
            Self::SealMissing => "seal_missing",
            Self::SealForged => "seal_forged",
            Self::DropForged => "drop_forged",
            Self::ErasureForged => "erasure_forged",
            Self::LossForged => "loss_forged",
            Self::ErasedRowEdited => "erased_row_edited",
            Self::Truncated => "truncated",
            Self::Rewritten => "rewritten",
        }
    }
}

/// First difference between the log and its seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub what: FaultKind,
    pub seal_id: i64,
    /// Row, if it is about one.
    pub audit_id: Option<i64>,
    /// Day, if it is about one.
    pub day: Option<Date>,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChainVerdict {
    /// Seals that hold.
    pub seals: i64,
    /// Rows in them that match.
    pub rows: i64,
    /// Of those, rows whose particulars were erased, under a signature.
    pub rows_erased: i64,
    /// Rows in them that were dropped with their day.
    pub rows_dropped: i64,
    /// Heads of the chain that failovers of the database have lost, under a signature.
    pub heads_lost: i64,
    /// The last of them.
    pub lost_head: Option<LostHead>,
    /// Rows that no seal covers yet.
    pub unsealed: i64,
    /// End of the chain, as far as it holds.
    pub head: Option<Head>,
    /// First difference; `None` if there is none.
    pub fault: Option<Fault>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seal = self.seal_id;
        let row = self.audit_id.map_or("a row".to_owned(), |id| format!("row {id}"));
        let day = self.day.map_or(String::new(), |day| format!(", day {day}"));
        match self.what {
            FaultKind::Row(RowFault::Edited) => write!(f, "{row} was edited (seal {seal}{day})"),
            FaultKind::Row(RowFault::Deleted) => write!(f, "{row} was deleted (seal {seal}{day})"),
            FaultKind::Row(RowFault::Inserted) => {
                write!(f, "{row} was inserted after it was sealed (seal {seal}{day})")
            }
            FaultKind::Rows => {
                write!(
                    f,
                    "the rows of seal {seal}{day} were altered, and so was what would tell which of them"
                )
            }
            FaultKind::SealEdited => {
                write!(f, "seal {seal} was edited, or does not follow on the one before it")
            }
            FaultKind::SealMissing => write!(f, "seal {seal} was deleted"),
            FaultKind::SealForged => write!(f, "seal {seal} was not signed by this bridge"),
            FaultKind::DropForged => {
                write!(f, "it was not this bridge that dropped a day{day} (up to seal {seal})")
            }
            FaultKind::ErasureForged => write!(
                f,
                "it was not this bridge that erased {row}, or what is kept of that was altered (seal {seal}{day})"
            ),
            FaultKind::LossForged => {
                write!(f, "it was not this bridge that found seal {seal} lost, or its note was altered")
            }
            FaultKind::ErasedRowEdited => {
                write!(f, "{row} was edited after it was erased (seal {seal}{day})")
            }
            FaultKind::Truncated => {
                write!(f, "the log ends before seal {seal} of the given head: its end was cut off")
            }
            FaultKind::Rewritten => {
                write!(f, "seal {seal} is not that of the given head: the chain was made again")
            }
        }
    }
}
