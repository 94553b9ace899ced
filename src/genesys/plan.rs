//! Plans which agents get a connection, and which channel watches which agents. Pure.

use std::collections::HashSet;

/// Connections that one OAuth client may hold in protocol `realtime`, one agent each.
pub const REALTIME_CONNECTIONS_MAX: usize = 10;

/// Changes that make the connections of a source match its agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPlan {
    /// Agents that need a connection and have none.
    pub add: Vec<String>,
    /// Agents that have a connection and shall have none.
    pub remove: Vec<String>,
    /// Agents that are wanted and stay without, because the client's ceiling is reached.
    pub over_limit: Vec<String>,
}

/// Plans connections: an agent that is connected and still wanted stays, even if the order of the wanted
/// changed.
#[must_use]
pub fn plan(wanted: &[String], connected: &[String], limit: usize) -> ConnectionPlan {
    let keep: Vec<&String> = connected.iter().filter(|agent| wanted.contains(agent)).take(limit).collect();
    let mut free = limit.saturating_sub(keep.len());
    let mut plan = ConnectionPlan {
        remove: connected.iter().filter(|agent| !keep.contains(agent)).cloned().collect(),
        ..ConnectionPlan::default()
    };
    for agent in wanted.iter().filter(|agent| !keep.contains(agent)) {
        if free > 0 && !plan.add.contains(agent) {
            plan.add.push(agent.clone());
            free -= 1;
        } else if !plan.add.contains(agent) && !plan.over_limit.contains(agent) {
            plan.over_limit.push(agent.clone());
        }
    }
    plan
}

/// Topics that one channel of protocol `notifications` takes; an agent is one topic.
pub const CHANNEL_AGENTS_MAX: usize = 1_000;
/// Channels of one OAuth client that we use. The platform keeps 20 and ends the least used without a word
/// when another is made, so two stay free: a hand-over needs the new one before the old one ends.
pub const CHANNELS_MAX: usize = 18;
/// The two that stay free; as many hand-overs run at once.
pub const CHANNELS_SPARE: usize = 2;

/// Changes that make the channels of a source watch its agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelPlan {
    /// Channels whose agents change: index in the list of existing channels, and all agents from now on.
    pub changed: Vec<(usize, Vec<String>)>,
    /// Agents of channels to be made.
    pub added: Vec<Vec<String>>,
    /// Channels that are not needed any more: indices in the list of existing channels.
    pub removed: Vec<usize>,
    /// Agents that are wanted and stay unwatched, because the client's ceiling is reached.
    pub over_limit: Vec<String>,
}

/// Spreads agents over channels: an agent that is watched does not move, and free places are filled before a
/// channel is made.
///
/// `wanted` holds each agent once.
#[must_use]
pub fn plan_channels(
    wanted: &[String],
    existing: &[Vec<String>],
    room: usize,
    channels_max: usize,
) -> ChannelPlan {
    let wanted_set: HashSet<&str> = wanted.iter().map(String::as_str).collect();
    let mut placed: HashSet<&str> = HashSet::with_capacity(wanted.len());
    let mut kept: Vec<Vec<&str>> = Vec::with_capacity(existing.len());
    for (index, agents) in existing.iter().enumerate() {
        let mut stay = Vec::new();
        for agent in agents.iter().map(String::as_str).filter(|agent| wanted_set.contains(agent)) {
            // A ceiling that was lowered, or an agent that stands twice: the first channel counts.
            if index < channels_max && stay.len() < room && placed.insert(agent) {
                stay.push(agent);
            }
        }
        kept.push(stay);
    }
    let mut waiting = wanted.iter().map(String::as_str).filter(|agent| !placed.contains(agent)).peekable();
    // Channels that somebody stays on first: the others may then go.
    let mut order: Vec<usize> = (0..kept.len().min(channels_max)).collect();
    order.sort_by_key(|index| kept.get(*index).is_none_or(Vec::is_empty));
    for index in order {
        if let Some(agents) = kept.get_mut(index) {
            while agents.len() < room
                && let Some(agent) = waiting.next()
            {
                agents.push(agent);
            }
        }
    }
    let mut plan = ChannelPlan::default();
    let mut used = 0;
    for (index, (agents, before)) in kept.iter().zip(existing).enumerate() {
        if agents.is_empty() {
            plan.removed.push(index);
            continue;
        }
        used += 1;
        let same: HashSet<&str> = before.iter().map(String::as_str).collect();
        if agents.len() != before.len() || !agents.iter().all(|agent| same.contains(agent)) {
            plan.changed.push((index, agents.iter().map(|agent| (*agent).to_owned()).collect()));
        }
    }
    while used < channels_max && waiting.peek().is_some() {
        plan.added.push(waiting.by_ref().take(room).map(str::to_owned).collect());
        used += 1;
    }
    plan.over_limit = waiting.map(str::to_owned).collect();
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn who_is_connected_and_wanted_stays() {
        let plan = plan(&names("c b a"), &names("a b"), 10);
        assert_eq!(plan, ConnectionPlan { add: names("c"), ..ConnectionPlan::default() });
    }

    #[test]
    fn the_ceiling_is_said_and_not_crossed() {
        let plan = plan(&names("a b c d d"), &names("d x"), 2);
        assert_eq!(plan, ConnectionPlan { add: names("a"), remove: names("x"), over_limit: names("b c") });
    }

    #[test]
    fn nobody_wanted_is_nobody_connected() {
        assert_eq!(
            plan(&[], &names("a"), 10),
            ConnectionPlan { remove: names("a"), ..ConnectionPlan::default() }
        );
    }

    fn agents(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("agent-{n:05}")).collect()
    }

    /// The channels after a plan.
    fn applied(existing: &[Vec<String>], plan: &ChannelPlan) -> Vec<Vec<String>> {
        let mut after: Vec<Option<Vec<String>>> = existing.iter().cloned().map(Some).collect();
        plan.changed.iter().for_each(|(index, agents)| after[*index] = Some(agents.clone()));
        plan.removed.iter().for_each(|index| after[*index] = None);
        after.into_iter().flatten().chain(plan.added.iter().cloned()).collect()
    }

    #[test]
    fn eighteen_thousand_agents_fill_eighteen_channels_and_one_more_is_said_to_be_too_many() {
        let plan = plan_channels(&agents(0..18_001), &[], CHANNEL_AGENTS_MAX, CHANNELS_MAX);
        assert_eq!(plan.added.len(), 18);
        assert!(plan.added.iter().all(|channel| channel.len() == 1_000));
        assert_eq!(plan.over_limit, ["agent-18000"]);
    }

    #[test]
    fn who_joins_takes_a_free_place_and_nobody_else_moves() {
        let existing = [agents(0..3), agents(3..5)];
        let plan = plan_channels(&agents(0..6), &existing, 3, 18);
        let expected = ChannelPlan { changed: vec![(1, agents(3..6))], ..ChannelPlan::default() };
        assert_eq!(plan, expected);
    }

    #[test]
    fn a_channel_that_nobody_needs_goes_and_an_unchanged_roster_changes_nothing() {
        let existing = [agents(0..3), agents(3..5)];
        let plan = plan_channels(&agents(0..3), &existing, 3, 18);
        assert_eq!(plan, ChannelPlan { removed: vec![1], ..ChannelPlan::default() });
        let mut shuffled = agents(0..5);
        shuffled.reverse();
        assert_eq!(plan_channels(&shuffled, &existing, 3, 18), ChannelPlan::default());
    }

    proptest! {
        #[test]
        fn everybody_has_one_place_no_channel_is_too_full_and_few_move(
            before in proptest::collection::btree_set(0_usize..60, 0..50),
            after in proptest::collection::btree_set(0_usize..60, 0..50),
            room in 1_usize..8,
            channels in 1_usize..8,
        ) {
            let name = |n: &usize| format!("agent-{n}");
            let before: Vec<String> = before.iter().map(name).collect();
            let after: Vec<String> = after.iter().map(name).collect();
            let existing = applied(&[], &plan_channels(&before, &[], room, channels));
            let plan = plan_channels(&after, &existing, room, channels);
            let now = applied(&existing, &plan);
            prop_assert!(now.len() <= channels);
            prop_assert!(now.iter().all(|agents| !agents.is_empty() && agents.len() <= room));
            let mut watched: Vec<&String> = now.iter().flatten().chain(&plan.over_limit).collect();
            watched.sort();
            let mut wanted: Vec<&String> = after.iter().collect();
            wanted.sort();
            prop_assert_eq!(watched, wanted);
            // Places are wasted only by those who stayed.
            prop_assert!(plan.over_limit.is_empty() || now.iter().all(|agents| agents.len() == room));
            for (index, agents) in existing.iter().enumerate() {
                for agent in agents.iter().filter(|agent| after.contains(agent)) {
                    let stays = match plan.changed.iter().find(|(changed, _)| *changed == index) {
                        Some((_, now)) => now.contains(agent),
                        None => !plan.removed.contains(&index),
                    };
                    prop_assert!(stays, "{agent} was moved");
                }
            }
        }
    }
}
