//! How long gaps lasted, by the times that the bridge tells.

use std::time::Duration;

use genesys_simulator::clock::parse_rfc3339;
use serde_json::Value;
use time::OffsetDateTime;

/// Time in which somebody was in a gap. One that lasts still counts until now.
pub fn total(gaps: &[Value]) -> Duration {
    let now = OffsetDateTime::now_utc();
    let time =
        |gap: &Value, name| gap.get(name).and_then(Value::as_str).and_then(parse_rfc3339).unwrap_or(now);
    let mut spans: Vec<_> = gaps.iter().map(|gap| (time(gap, "from"), time(gap, "to"))).collect();
    spans.sort_unstable();
    let (mut total, mut covered) = (Duration::ZERO, OffsetDateTime::UNIX_EPOCH);
    for (from, to) in spans {
        total += Duration::try_from(to - from.max(covered)).unwrap_or_default();
        covered = covered.max(to);
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gaps_at_the_same_time_count_once() {
        let gap = |from: u32, to: u32| json!({"from": format!("2026-01-01T00:00:{from:02}Z"), "to": format!("2026-01-01T00:00:{to:02}Z")});
        let gaps = [gap(20, 21), gap(1, 5), gap(2, 3), gap(4, 8)];
        assert_eq!(total(&gaps), Duration::from_secs(8));
        assert_eq!(total(&[]), Duration::ZERO);
    }
}
