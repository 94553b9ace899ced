//! Counts of things, in words.

use std::fmt::Display;

/// A count with the words for one and for any other number: `1 agent`, `2 agents`.
#[must_use]
pub fn plural<N: Display + From<u8> + PartialEq>(count: N, one: &str, more: &str) -> String {
    let words = if count == N::from(1) { one } else { more };
    format!("{count} {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_one() {
        let told = [0, 1, 2].map(|count: i64| plural(count, "agent is", "agents are"));
        assert_eq!(told, ["0 agents are", "1 agent is", "2 agents are"]);
    }
}
