use std::net::{Ipv4Addr, SocketAddr};

use genesys_simulator::crm::{Behaviour, Distrust, Event};
use time::OffsetDateTime;

use super::*;

/// Four changes of one agent that a socket took.
fn changes() -> Vec<Played> {
    let played = |number| Played { number, agent: "a".to_owned(), sent: Instant::now(), written: true };
    (1..=4).map(played).collect()
}

/// The POST a good bridge sends for a change.
fn post(number: u64) -> Post {
    let body: bytes::Bytes = serde_json::json!({
        "type": "presence.updated", "timestamp": "2026-08-01T09:30:00Z",
        "data": {
            "event_id": format!("event-{number}"), "sequence": number, "source": {"id": "s", "name": "default"},
            "agent": {"id": "a"}, "presence": {"system": "BUSY"}, "previous": null, "occurred_at": null,
            "received_at": "2026-08-01T09:30:00Z", "raw": {"n": number},
        },
    })
    .to_string()
    .into();
    Post {
        number,
        target: "/hooks/presence".into(),
        headers: [("webhook-id".into(), format!("event-{number}"))].into(),
        event: Event::read(&body).into(),
        body,
        arrived: Instant::now(),
        arrived_at: OffsetDateTime::UNIX_EPOCH,
        verdict: Ok(()).into(),
        behaviour: Behaviour::default(),
        connection: 1,
        peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
    }
}

fn posts(numbers: &[u64]) -> Vec<Arc<Post>> {
    numbers.iter().map(|number| Arc::new(post(*number))).collect()
}

fn feed(numbers: &[u64]) -> Feed {
    numbers.iter().map(|number| (format!("event-{number}"), Some(*number))).collect()
}

#[test]
fn without_a_kill_everything_written_must_arrive_in_order_and_be_believed() {
    let judge = |changes: &[Played], posts| {
        Evidence { changes: changes.to_vec(), posts, after_kill: None }.judge().kept
    };
    let mut changes = changes();
    assert!(judge(&changes, posts(&[1, 2, 3, 4])));
    assert!(judge(&changes, posts(&[1, 2, 1, 3, 4])));
    assert!(!judge(&changes, posts(&[1, 2, 3])));
    assert!(!judge(&changes, posts(&[1, 3, 2, 4])));
    let forged = Arc::new(Post { verdict: Err(Distrust::Mismatch).into(), ..post(4) });
    assert!(!judge(&changes, [posts(&[1, 2, 3]), vec![forged]].concat()));
    changes[3].written = false;
    assert!(judge(&changes, posts(&[1, 2, 3])));
}

#[test]
fn after_a_kill_only_what_was_sent_into_the_blind_time_may_be_missing() {
    let mut changes = changes();
    let killed = Instant::now() + Duration::from_secs(60);
    let second = Duration::from_secs(1);
    // Long before, just before, while down, and after the agent's socket came back.
    for (change, sent) in changes.iter_mut().zip([
        killed - 10 * second,
        killed - second / 10,
        killed + second,
        killed + 5 * second,
    ]) {
        change.sent = sent;
    }
    let judge = |recorded: &[u64], arrived: &[u64]| {
        let blind = Blind { killed, reopened: BTreeMap::from([("a".to_owned(), killed + 3 * second)]) };
        let after_kill = Some((blind, feed(recorded)));
        Evidence { changes: changes.clone(), posts: posts(arrived), after_kill }.judge().kept
    };
    assert!(judge(&[1, 2, 3, 4], &[1, 2, 3, 4]));
    assert!(!judge(&[2, 3, 4], &[2, 3, 4]), "sent long before the kill and lost");
    assert!(!judge(&[1, 2, 3], &[1, 2, 3]), "sent after the socket was back and lost");
    assert!(!judge(&[1, 2, 3, 4], &[1, 2, 3]), "recorded and not delivered");
}
