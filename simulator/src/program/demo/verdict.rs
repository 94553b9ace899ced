//! Rules by which the demo says whether the bridge kept its promises; pure, so that they are tested with
//! lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use genesys_simulator::crm::{Post, check};

use crate::program::upstream::Played;

/// Bridge's feed: event id, and the number of the change it holds.
pub type Feed = BTreeMap<String, Option<u64>>;

/// A frame that the kernel took so shortly before the kill may not have been committed yet.
const BEFORE_KILL: Duration = Duration::from_millis(500);

/// Examples printed of each kind of fault.
const EXAMPLES: usize = 5;

/// Time in which a killed bridge could see nothing.
#[derive(Debug)]
pub struct Blind {
    pub killed: Instant,
    /// First socket of each agent after the kill.
    pub reopened: BTreeMap<String, Instant>,
}

impl Blind {
    /// Whether a change may be missing from the feed: sent from just before the kill until the agent's next
    /// socket.
    pub fn excuses(&self, change: &Played) -> bool {
        change.sent + BEFORE_KILL >= self.killed
            && self.reopened.get(&change.agent).is_none_or(|reopened| change.sent < *reopened)
    }
}

/// All that is known when the play is over.
#[derive(Debug)]
pub struct Evidence {
    pub changes: Vec<Played>,
    pub posts: Vec<Arc<Post>>,
    pub after_kill: Option<(Blind, Feed)>,
}

/// Result of the demo.
#[derive(Debug)]
pub struct Verdict {
    pub kept: bool,
    pub lines: Vec<String>,
}

impl Evidence {
    /// Compares what was sent with what arrived.
    pub fn judge(&self) -> Verdict {
        let written: Vec<_> = self.changes.iter().filter(|change| change.written).collect();
        let unseen = self.changes.len() - written.len();
        // After a kill the feed says what was committed; without one, everything written must have been.
        let expected: Vec<u64> = match &self.after_kill {
            None => written.iter().map(|change| change.number).collect(),
            Some((_, feed)) => feed.values().copied().flatten().collect(),
        };
        let findings = check::Findings::of(&self.posts, expected.iter().copied());
        let (blind, unexcused, undelivered) = self.after_the_kill(&written);

        let faults: [(&str, Vec<String>); 8] = [
            ("missing", findings.missing.iter().map(|number| format!("change {number}")).collect()),
            ("events of the feed not delivered", undelivered),
            ("written outside the blind interval but not in the feed", unexcused),
            ("out of order", findings.inversions),
            ("gaps in data.sequence", findings.holes),
            ("repeats with another body", findings.altered_repeats),
            ("events under two ids", findings.doubled_events),
            ("not verified", findings.distrusted),
        ];
        let kept = faults.iter().all(|(_, found)| found.is_empty());

        let first = check::first_arrivals(&self.posts).len();
        let verified = self.posts.iter().filter(|post| post.verified()).count();
        let mut lines = vec![
            String::new(),
            format!("  changes played          {}", self.changes.len()),
            format!("  written to a socket     {} ({unseen} had no live socket)", written.len()),
            format!("  POSTs arrived           {first} + {} repeats", self.posts.len() - first),
            format!("  signature ok            {verified} of {}", self.posts.len()),
        ];
        if let Some((_, feed)) = &self.after_kill {
            lines.push(format!("  events in the feed      {}", feed.len()));
            lines.push(format!("  lost in the blind time  {blind} written around the kill, before a commit"));
        }
        lines.push(self.latency());
        for (name, found) in &faults {
            lines.push(format!("  {name:<55} {}", found.len()));
            lines.extend(found.iter().take(EXAMPLES).map(|example| format!("      {example}")));
        }
        lines.push(format!("  {}", if kept { "KEPT: every promise" } else { "BROKEN: see above" }));
        Verdict { kept, lines }
    }

    /// After a kill: changes lost in the blind interval, losses without that excuse, feed events that never
    /// arrived.
    fn after_the_kill(&self, written: &[&Played]) -> (usize, Vec<String>, Vec<String>) {
        let Some((blind, feed)) = &self.after_kill else {
            return (0, Vec::new(), Vec::new());
        };
        let recorded: BTreeSet<u64> = feed.values().copied().flatten().collect();
        let (excused, unexcused): (Vec<&Played>, Vec<&Played>) = written
            .iter()
            .filter(|change| !recorded.contains(&change.number))
            .partition(|change| blind.excuses(change));
        let accepted = self.posts.iter().filter(|post| post.accepted() && post.verified());
        let arrived: BTreeSet<String> = accepted.filter_map(|post| post.event_id()).collect();
        let undelivered = feed.keys().filter(|id| !arrived.contains(*id)).cloned().collect();
        let unexcused =
            unexcused.iter().map(|change| format!("change {} of {}", change.number, change.agent));
        (excused.len(), unexcused.collect(), undelivered)
    }

    /// Frame's first byte out to POST's last byte in, over first arrivals.
    fn latency(&self) -> String {
        let sent: BTreeMap<u64, Instant> =
            self.changes.iter().map(|change| (change.number, change.sent)).collect();
        let mut latencies: Vec<Duration> = check::first_arrivals(&self.posts)
            .into_iter()
            .filter_map(|post| Some(post.arrived.saturating_duration_since(*sent.get(&post.n()?)?)))
            .collect();
        latencies.sort_unstable();
        let at = |percent: usize| {
            let rank = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
            latencies
                .get(rank)
                .map_or_else(|| "-".to_owned(), |latency| format!("{:.1} ms", latency.as_secs_f64() * 1e3))
        };
        format!("  latency                 p50 {}, p99 {}, max {}", at(50), at(99), at(100))
    }
}

#[cfg(test)]
mod tests;
