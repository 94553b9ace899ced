//! Promises of the bridge, as linear passes over the record of what arrived.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::post::{Event, Post};

/// Stream within which order is promised: one path, one source, one agent.
type Lane<'a> = (&'a str, &'a str, &'a str);

/// POSTs that are the first of their `(path, webhook-id)`.
pub fn first_arrivals(posts: &[Arc<Post>]) -> Vec<&Arc<Post>> {
    let mut seen = BTreeSet::new();
    posts.iter().filter(|post| seen.insert((post.path(), post.webhook_id()))).collect()
}

/// POSTs that repeat an earlier one.
#[must_use]
pub fn repeats(posts: &[Arc<Post>]) -> usize {
    posts.len() - first_arrivals(posts).len()
}

/// First arrivals whose `data.sequence`, or whose upstream number, is not above its predecessor's in the
/// lane.
#[must_use]
pub fn inversions(posts: &[Arc<Post>]) -> Vec<String> {
    let mut last: BTreeMap<Lane<'_>, (u64, Option<u64>)> = BTreeMap::new();
    let mut found = Vec::new();
    for (post, event) in events(first_arrivals(posts).into_iter()) {
        let now = (event.sequence(), event.n());
        if let Some(before) = last.insert(lane(post, event), now)
            && (now.0 <= before.0 || now.1.zip(before.1).is_some_and(|(now, before)| now <= before))
        {
            let agent = event.agent();
            found.push(format!(
                "{agent}: sequence and n {now:?} arrived after {before:?} (post {})",
                post.number
            ));
        }
    }
    found
}

/// Holes in `data.sequence` between the first and the last of each lane.
#[must_use]
pub fn holes(posts: &[Arc<Post>]) -> Vec<String> {
    let mut sequences: BTreeMap<Lane<'_>, BTreeSet<u64>> = BTreeMap::new();
    for (post, event) in events(posts.iter()) {
        sequences.entry(lane(post, event)).or_default().insert(event.sequence());
    }
    let mut found = Vec::new();
    for ((path, _, agent), numbers) in sequences {
        for (before, after) in numbers.iter().zip(numbers.iter().skip(1)) {
            if *after != before + 1 {
                found.push(format!("{path} {agent}: sequence {before} is followed by {after}"));
            }
        }
    }
    found
}

/// Repeats whose body is not byte by byte that of the first arrival.
#[must_use]
pub fn altered_repeats(posts: &[Arc<Post>]) -> Vec<String> {
    let mut first: HashMap<(&str, &str), &Arc<Post>> = HashMap::new();
    let mut found = Vec::new();
    for post in posts {
        let original = first.entry((post.path(), post.webhook_id())).or_insert(post);
        if original.body != post.body {
            found.push(format!(
                "{}: post {} differs from {}",
                post.webhook_id(),
                post.number,
                original.number
            ));
        }
    }
    found
}

/// Different ids that carry the same event to the same path.
#[must_use]
pub fn doubled_events(posts: &[Arc<Post>]) -> Vec<String> {
    let mut ids: HashMap<(&str, &str), &str> = HashMap::new();
    let mut found = Vec::new();
    for (post, event) in events(posts.iter()) {
        let id = ids.entry((post.path(), event.data.event_id.as_str())).or_insert_with(|| post.webhook_id());
        if *id != post.webhook_id() {
            found.push(format!("event {} came as {id} and as {}", event.data.event_id, post.webhook_id()));
        }
    }
    found
}

/// Upstream numbers that no accepted and verified POST carries.
#[must_use]
pub fn missing(posts: &[Arc<Post>], expected: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let accepted = posts.iter().filter(|post| post.accepted() && post.verified());
    let present: BTreeSet<u64> = accepted.filter_map(|post| post.n()).collect();
    expected.into_iter().filter(|number| !present.contains(number)).collect()
}

/// POSTs whose signature is wrong, or that claim to be a presence event and are not the documented one.
#[must_use]
pub fn distrusted(posts: &[Arc<Post>]) -> Vec<String> {
    let mut found = Vec::new();
    for post in posts {
        if let Err(why) = &*post.verdict {
            found.push(format!("post {}: {why}", post.number));
        }
        if let Err(why) = &*post.event
            && post.kind().is_none_or(|kind| kind == "presence.updated")
        {
            found.push(format!("post {}: {why}", post.number));
        }
    }
    found
}

/// All of the above at once, for one webhook that must get every expected number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    pub inversions: Vec<String>,
    pub holes: Vec<String>,
    pub altered_repeats: Vec<String>,
    pub doubled_events: Vec<String>,
    pub distrusted: Vec<String>,
    pub missing: Vec<u64>,
}

impl Findings {
    /// Runs every check over `posts`.
    #[must_use]
    pub fn of(posts: &[Arc<Post>], expected: impl IntoIterator<Item = u64>) -> Self {
        Self {
            inversions: inversions(posts),
            holes: holes(posts),
            altered_repeats: altered_repeats(posts),
            doubled_events: doubled_events(posts),
            distrusted: distrusted(posts),
            missing: missing(posts, expected),
        }
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

fn lane<'a>(post: &'a Post, event: &'a Event) -> Lane<'a> {
    (post.path(), &event.data.source.id, event.agent())
}

fn events<'a>(
    posts: impl Iterator<Item = &'a Arc<Post>>,
) -> impl Iterator<Item = (&'a Arc<Post>, &'a Event)> {
    posts.filter_map(|post| post.event.as_ref().ok().map(|event| (post, event)))
}

#[cfg(test)]
mod tests;
