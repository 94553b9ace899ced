//! Which agents get a connection. Pure.

/// Connections that one OAuth client may hold in protocol `realtime`, one agent each.
pub const REALTIME_CONNECTIONS_MAX: usize = 10;

/// What to do so that the connections of a source match its agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Agents that need a connection and have none.
    pub add: Vec<String>,
    /// Agents that have a connection and shall have none.
    pub remove: Vec<String>,
    /// Agents that are wanted and stay without, because the client's ceiling is reached.
    pub over_limit: Vec<String>,
}

/// Plans: who is connected and still wanted stays, even if the order of the wanted changed.
#[must_use]
pub fn plan(wanted: &[String], connected: &[String], limit: usize) -> Plan {
    let keep: Vec<&String> = connected.iter().filter(|agent| wanted.contains(agent)).take(limit).collect();
    let mut free = limit.saturating_sub(keep.len());
    let mut plan = Plan {
        remove: connected.iter().filter(|agent| !keep.contains(agent)).cloned().collect(),
        ..Plan::default()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn who_is_connected_and_wanted_stays() {
        let plan = plan(&names("c b a"), &names("a b"), 10);
        assert_eq!(plan, Plan { add: names("c"), ..Plan::default() });
    }

    #[test]
    fn the_ceiling_is_said_and_not_crossed() {
        let plan = plan(&names("a b c d d"), &names("d x"), 2);
        assert_eq!(plan, Plan { add: names("a"), remove: names("x"), over_limit: names("b c") });
    }

    #[test]
    fn nobody_wanted_is_nobody_connected() {
        assert_eq!(plan(&[], &names("a"), 10), Plan { remove: names("a"), ..Plan::default() });
    }
}
