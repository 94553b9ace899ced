//! Every request to the database late, lost or refused, one in each run of a whole life of the bridge:
//! whatever it was, everything committed has an end, nothing is told twice under another id, and nothing is
//! left over.
//!
//! `make faults` tries all of it, which takes hours; SECONDS=n tries a part of that many seconds. Which part
//! follows from the commit, FAULTS_FROM=n says it instead. FAULTS_ONLY=id tries one again, FAULTS_AT_ONCE=n
//! that many at a time.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use genesys_simulator::relay::{Deed, Fault, Point, Request};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::support::script::{Seen, play};

/// Longer than the bridge waits for any step.
const LATE: Duration = Duration::from_secs(7);
/// Serialization failure, deadlock, disk full, lock not available, cancelled, shutdown, read-only.
const CLASSES: [&str; 7] = ["40001", "40P01", "53100", "55P03", "57014", "57P01", "25006"];
/// What a run takes with the worst of faults: in a part with an end none begins later.
const LONGEST: Duration = Duration::from_secs(25);

/// A fault and its name.
struct Case {
    id: String,
    label: String,
    fault: Fault,
}

impl Case {
    fn new(request: &Request, deed: Deed) -> Self {
        let Request { statement, runs, nth, .. } = request;
        let verb = if *runs { "run" } else { "prepare" };
        let label = format!("{deed:?} at {verb} {nth} of {statement}");
        let at = Point::Statement { text: statement.clone(), runs: *runs, nth: *nth };
        Self { id: id_of(&label), label, fault: Fault { at, deed } }
    }
}

/// FNV-1a: the same on every machine and with every compiler.
fn id_of(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// All that can be done to what was seen, in an order that has a bit of everything in each part of it.
fn cases(requests: &[Request]) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut refused = BTreeSet::new();
    for request in requests {
        for deed in [Deed::PassLate(LATE), Deed::AnswerLate(LATE), Deed::LoseRequest, Deed::LoseAnswer] {
            cases.push(Case::new(request, deed));
        }
        // Before the session has begun there is nothing to refuse, and an empty request is never refused.
        if request.runs && !request.statement.starts_with("--") && refused.insert(request.statement.clone()) {
            cases.extend(CLASSES.map(|class| Case::new(request, Deed::Refuse(class))));
        }
    }
    cases.sort_by(|a, b| a.id.cmp(&b.id));
    cases
}

/// Where the part begins: the same for everybody who looks at this commit.
fn beginning(of: usize) -> usize {
    let given = std::env::var("FAULTS_FROM").ok().and_then(|from| from.parse::<usize>().ok());
    let commit = || {
        let head = Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
        usize::from_str_radix(std::str::from_utf8(&head.stdout).ok()?.get(..12)?, 16).ok()
    };
    given.or_else(commit).unwrap_or_default() % of.max(1)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_without_any_fault_is_a_whole_one() {
    let Seen { requests, failed_starts, .. } = play(None).await;
    assert_eq!(failed_starts, 0);
    let distinct: BTreeSet<_> = requests.iter().map(|request| &request.statement).collect();
    println!("{} requests, {} distinct statements", requests.len(), distinct.len());
    assert!(requests.iter().any(|request| request.statement.starts_with("COMMIT")));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "hours, or as long as one likes: make faults"]
async fn every_answer_may_be_late_lost_or_refused() {
    let begun = Instant::now();
    let requests = play(None).await.requests;
    let mut cases = cases(&requests);
    let all = cases.len();
    if let Ok(only) = std::env::var("FAULTS_ONLY") {
        cases.retain(|case| case.id == only || case.label.contains(&only));
    }
    let from = beginning(cases.len());
    cases.rotate_left(from);
    let until = number("FAULTS_SECONDS").map(|seconds| begun + Duration::from_secs(seconds));
    println!(
        "{all} faults at {} requests; {} of them wanted, FAULTS_FROM={from}",
        requests.len(),
        cases.len()
    );
    let at_once = number("FAULTS_AT_ONCE").unwrap_or(6);
    let (mut runs, mut done, mut unmet, mut restarts, mut broken) = (JoinSet::new(), 0, 0, 0, Vec::new());
    let mut cases = cases.into_iter();
    loop {
        let time = until.is_none_or(|until| Instant::now() + LONGEST < until);
        if time
            && (runs.len() as u64) < at_once
            && let Some(case) = cases.next()
        {
            runs.spawn(async move {
                let (fault, here) = (case.fault.clone(), Handle::current());
                (case, tokio::task::spawn_blocking(move || here.block_on(play(Some(fault)))).await)
            });
            continue;
        }
        let Some(run) = runs.join_next().await else { break };
        let (case, seen) = run.unwrap();
        done += 1;
        match seen {
            Ok(Seen { hurt, failed_starts, .. }) => {
                unmet += u32::from(hurt.is_none());
                restarts += failed_starts;
            }
            Err(error) => {
                let panic = error.into_panic();
                let why = panic.downcast_ref::<String>().cloned();
                let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
                let told = format!("FAULTS_ONLY={}: {}\n{}", case.id, case.label, why.unwrap_or_default());
                println!("== broken: {told}\n");
                broken.push(told);
            }
        }
        if done % 50 == 0 {
            println!("{done} tried in {:.0?}, {} broken", begun.elapsed(), broken.len());
        }
    }
    println!(
        "{done} faults tried in {:.0?}: {unmet} not met, {restarts} starts failed and were repeated, {} broke something",
        begun.elapsed(),
        broken.len()
    );
    assert!(broken.is_empty(), "{} of {done} faults broke something", broken.len());
}
