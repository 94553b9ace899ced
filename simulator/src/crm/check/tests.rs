use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use time::OffsetDateTime;

use super::*;
use crate::crm::{Behaviour, Distrust};

/// Makes the POST of an event: `webhook-id` is `id`, the event is `event-id`.
fn post(id: &str, agent: &str, sequence: u64, n: u64) -> Post {
    let body = serde_json::json!({
        "type": "presence.updated",
        "timestamp": "2026-08-01T09:30:00.000Z",
        "data": {
            "event_id": format!("event-{id}"), "sequence": sequence,
            "source": {"id": "source", "name": "default"}, "agent": {"id": agent},
            "topic": "routing:agent:state", "presence": {"system": "AVAILABLE"}, "previous": null,
            "occurred_at": null, "received_at": "2026-08-01T09:30:00.000Z",
            "raw": {"n": n, "timestamp": "2026-08-01T09:30:00.000Z"},
        },
    });
    let body: bytes::Bytes = body.to_string().into();
    Post {
        number: n,
        target: "/hooks/a?x=1".into(),
        headers: [("webhook-id".into(), id.into())].into(),
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

fn all(posts: Vec<Post>) -> Vec<Arc<Post>> {
    posts.into_iter().map(Arc::new).collect()
}

#[test]
fn finds_nothing_in_a_good_record() {
    let posts =
        all(vec![post("a1", "a", 1, 1), post("b1", "b", 7, 2), post("a1", "a", 1, 1), post("a2", "a", 2, 3)]);
    assert_eq!(Findings::of(&posts, 1..=3), Findings::default());
    assert!(Findings::of(&posts, 1..=3).is_clean());
    assert_eq!(repeats(&posts), 1);
}

#[test]
fn finds_a_later_change_before_an_earlier_one() {
    assert_eq!(inversions(&all(vec![post("a2", "a", 2, 2), post("a1", "a", 1, 1)])).len(), 1);
    // The sequence ascends, but it was given in the wrong order.
    assert_eq!(inversions(&all(vec![post("a1", "a", 1, 2), post("a2", "a", 2, 1)])).len(), 1);
}

#[test]
fn finds_holes_losses_and_changed_repeats() {
    let posts = all(vec![post("a1", "a", 1, 1), post("a3", "a", 3, 3), post("a1", "a", 1, 4)]);
    assert_eq!(holes(&posts), ["/hooks/a a: sequence 1 is followed by 3"]);
    assert_eq!(missing(&posts, 1..=3), [2]);
    assert_eq!(altered_repeats(&posts).len(), 1);
}

#[test]
fn counts_only_what_was_accepted_and_believed() {
    let refused = Post { behaviour: Behaviour::status(500), ..post("a1", "a", 1, 1) };
    let forged = Post { verdict: Err(Distrust::Mismatch).into(), ..post("a2", "a", 2, 2) };
    let posts = all(vec![refused, forged]);
    assert_eq!(missing(&posts, 1..=2), [1, 2]);
    assert_eq!(distrusted(&posts), ["post 2: no signature matches"]);
}

#[test]
fn finds_one_event_under_two_ids() {
    let mut other = post("a1", "a", 1, 1);
    other.headers = [("webhook-id".into(), "other".into())].into();
    assert_eq!(doubled_events(&all(vec![post("a1", "a", 1, 1), other])).len(), 1);
}
