//! Which users of the CRM agents are: pairs as somebody gives them, many at once, as JSON or as CSV.

use std::collections::HashMap;

use super::ids::{AgentId, canonical_guid};
use super::violation::{Violation, check_text};

/// Most pairs at once.
pub const PAIRS_MAX: usize = 20_000;
/// Most violations that are told; the rest would only repeat them.
pub const VIOLATIONS_MAX: usize = 100;
const ID_CHARS_MAX: usize = 200;
const AGENT: &str = "agent_id";
const EXTERNAL: &str = "external_id";

/// An agent and its id in the CRM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Genesys user id.
    pub agent_id: AgentId,
    /// The CRM's own id.
    pub external_id: String,
}

/// Where a pair stands in what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Item of a list, from 0.
    Item(usize),
    /// Line of a file, from 1.
    Line(u64),
}

/// What is wrong with one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Place in the list or the file.
    pub place: Place,
    /// Which of the two, and why.
    pub violation: Violation,
}

/// Why a text is no list of pairs at all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CsvError {
    /// The first line does not name the two columns.
    #[error("the first line is not agent_id,external_id")]
    Header,
    /// More pairs than are read at once.
    #[error("it has more than {PAIRS_MAX} lines")]
    TooMany,
    /// A line with too many or too few fields, or bytes that are no UTF-8.
    #[error("line {0} is no pair of texts in UTF-8")]
    Line(u64),
}

/// What is wrong with the id of an agent or of a user of the CRM.
///
/// # Errors
/// The rule that it breaks.
pub fn check_id(field: &str, text: &str) -> Result<(), Violation> {
    let mut found = Vec::new();
    check_text(field, text, ID_CHARS_MAX, &mut found);
    found.pop().map_or(Ok(()), Err)
}

/// Holds pairs against the rules. An agent may be named once; several agents may be one user of the CRM.
///
/// # Errors
/// What is wrong, of each pair the first, [`VIOLATIONS_MAX`] at most.
pub fn check_pairs(given: Vec<(Place, String, String)>) -> Result<Vec<Pair>, Vec<Wrong>> {
    let mut seen: HashMap<String, Place> = HashMap::with_capacity(given.len());
    let mut pairs = Vec::with_capacity(given.len());
    let mut wrong = Vec::new();
    for (place, agent, external) in given {
        let agent = canonical_guid(agent);
        let checked = check_id(AGENT, &agent).and_then(|()| check_id(EXTERNAL, &external)).and_then(|()| {
            match seen.insert(agent.clone(), place) {
                None => Ok(()),
                Some(Place::Item(first)) => {
                    Err(Violation::new(AGENT, format!("is there twice, first as item {first}")))
                }
                Some(Place::Line(first)) => {
                    Err(Violation::new(AGENT, format!("is there twice, first in line {first}")))
                }
            }
        });
        match checked {
            Ok(()) => pairs.push(Pair { agent_id: AgentId(agent), external_id: external }),
            Err(violation) if wrong.len() < VIOLATIONS_MAX => wrong.push(Wrong { place, violation }),
            Err(_) => {}
        }
    }
    if wrong.is_empty() { Ok(pairs) } else { Err(wrong) }
}

/// Finds the line of a place. The reader's own count is of where the line before ended, blank lines not
/// skipped.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of a place that is not before the last one asked for.
    fn of(&mut self, position: Option<&csv::Position>) -> u64 {
        let start = position.and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or_default();
        let rest = self.bytes.get(self.at..).unwrap_or_default().iter();
        for (i, byte) in rest.enumerate() {
            if self.at + i >= start && !b"\r\n".contains(byte) {
                self.at += i;
                return self.line;
            }
            self.line += u64::from(*byte == b'\n');
        }
        self.at = self.bytes.len();
        self.line
    }
}

/// Reads pairs from CSV (RFC 4180) whose first line names the columns, in either order. Blanks around a field
/// do not count, nor does a byte order mark.
///
/// # Errors
/// If it is no such text.
pub fn read_csv(bytes: &[u8]) -> Result<Vec<(Place, String, String)>, CsvError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let header = reader.headers().map_err(|_| CsvError::Header)?;
    let agent_first = match header.iter().collect::<Vec<_>>().as_slice() {
        [AGENT, EXTERNAL] => true,
        [EXTERNAL, AGENT] => false,
        _ => return Err(CsvError::Header),
    };
    let mut given = Vec::new();
    let mut lines = Lines { bytes, at: 0, line: 1 };
    for record in reader.records() {
        let record = record.map_err(|error| CsvError::Line(lines.of(error.position())))?;
        let line = lines.of(record.position());
        let (Some(first), Some(second)) = (record.get(0), record.get(1)) else {
            return Err(CsvError::Line(line));
        };
        if given.len() == PAIRS_MAX {
            return Err(CsvError::TooMany);
        }
        let (agent, external) = if agent_first { (first, second) } else { (second, first) };
        given.push((Place::Line(line), agent.to_owned(), external.to_owned()));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn csv_is_read_as_people_and_programs_write_it() {
        let text = "\u{feff}agent_id, external_id\r\nann,crm-1\r\n\r\n\"bob\",\"a \"\"b\"\", c\"\n";
        let given = read_csv(text.as_bytes()).unwrap();
        let expected = [(2, "ann", "crm-1"), (4, "bob", "a \"b\", c")];
        let expected: Vec<_> =
            expected.iter().map(|(l, a, e)| (Place::Line(*l), (*a).to_owned(), (*e).to_owned())).collect();
        assert_eq!(given, expected);
        let turned = read_csv(b"external_id,agent_id\ncrm-1,ann\n").unwrap();
        assert_eq!(turned.first().unwrap().1, "ann");
        assert!(read_csv(b"agent_id,external_id\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_of_pairs_is_refused_with_its_line() {
        for text in
            ["", "ann,crm-1\n", "agent_id\nann\n", "agent_id,external_id,name\n", "agent_id;external_id\n"]
        {
            assert_eq!(read_csv(text.as_bytes()), Err(CsvError::Header), "{text:?}");
        }
        assert_eq!(read_csv(b"agent_id,external_id\nann,1\nbob\n"), Err(CsvError::Line(3)));
        assert_eq!(read_csv(b"agent_id,external_id\nann,\xFF\n"), Err(CsvError::Line(2)));
        let many = format!("agent_id,external_id\n{}", "a,b\n".repeat(PAIRS_MAX + 1));
        assert_eq!(read_csv(many.as_bytes()), Err(CsvError::TooMany));
    }

    #[test]
    fn each_wrong_pair_is_named_by_its_place() {
        let pair = |n, agent: &str, external: &str| (Place::Line(n), agent.to_owned(), external.to_owned());
        let wrong = check_pairs(vec![
            pair(2, "ann", "1"),
            pair(3, "", "2"),
            pair(4, "bob", "a\tb"),
            pair(5, "ann", "3"),
            pair(6, "cid", &"x".repeat(201)),
            pair(7, "dan", "1"),
        ])
        .unwrap_err();
        let told: Vec<_> = wrong.iter().map(|wrong| (wrong.place, wrong.violation.field.as_str())).collect();
        assert_eq!(
            told,
            [
                (Place::Line(3), "agent_id"),
                (Place::Line(4), "external_id"),
                (Place::Line(5), "agent_id"),
                (Place::Line(6), "external_id")
            ]
        );
        assert!(wrong.get(2).unwrap().violation.what.contains("line 2"));
        let all_wrong = (0..500).map(|n| pair(n, "", "x")).collect();
        assert_eq!(check_pairs(all_wrong).unwrap_err().len(), VIOLATIONS_MAX);
    }
}
