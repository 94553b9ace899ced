//! Verdicts by what is kept.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use time::macros::datetime;
use uuid::Uuid;

use crate::domain::explain::*;
use crate::domain::ids::{AgentId, DeliveryId, SourceId};
use crate::domain::webhook::state::WebhookState;

const T: OffsetDateTime = datetime!(2026-11-23 09:30:00 UTC);

fn at(seconds: i64) -> OffsetDateTime {
    T + time::Duration::seconds(seconds)
}

fn written(time: OffsetDateTime) -> String {
    format!("+{}", (time - T).whole_seconds())
}

fn facts() -> Facts {
    Facts {
        event: EventFacts {
            kind: EventKind::PresenceUpdated,
            received_at: T,
            committed_at: Some(T),
            source_id: Some(SourceId(Uuid::nil())),
            agent_id: Some(AgentId("ann".to_owned())),
            external_id: Some("crm-1".to_owned()),
            topic: Some("t".to_owned()),
            presence: Some("AVAILABLE".to_owned()),
            previous: Some("AWAY".to_owned()),
            queues: vec!["q-1".to_owned()],
            routing_status: Some("IDLE".to_owned()),
            erased_at: None,
        },
        webhook: WebhookFacts {
            created_at: at(-60),
            deleted_at: None,
            state: WebhookState::Active,
            events: vec!["presence.updated".to_owned()],
            agents: Vec::new(),
            topics: Vec::new(),
            presences: Vec::new(),
            sources: Vec::new(),
            queues: Vec::new(),
            routing_statuses: Vec::new(),
            transitions: Vec::new(),
            hold_until: None,
            last_outcome: None,
            last_reason: None,
            limits: false,
        },
        open: None,
        of_delivery: Vec::new(),
        of_webhook: Vec::new(),
    }
}

fn entry(seconds: i64, kind: &str) -> EntryFacts {
    EntryFacts {
        at: at(seconds),
        kind: kind.to_owned(),
        attempt: None,
        status: None,
        outcome: None,
        duration_ms: None,
        end_state: None,
        principal: None,
        data: json!({}),
    }
}

fn open(state: &str) -> OpenFacts {
    OpenFacts {
        state: state.to_owned(),
        created_at: T,
        due_at: Some(at(5)),
        not_before: None,
        attempt: 0,
        last_status: None,
        last_outcome: None,
        ahead: None,
    }
}

fn verdict(facts: &Facts) -> (Verdict, String) {
    let told = explain(facts, at(1), written);
    (told.verdict, told.reason)
}

#[test]
fn an_open_delivery_tells_what_it_waits_for() {
    let of = |state: &str, change: fn(&mut Facts)| {
        let mut facts = Facts { open: Some(open(state)), ..facts() };
        change(&mut facts);
        verdict(&facts)
    };
    assert_eq!(of("sending", |_| {}).0, Verdict::Sending);
    assert_eq!(of("paused", |_| {}).0, Verdict::Paused);
    let ahead = of("blocked", |facts| {
        facts.open.as_mut().unwrap().ahead = Some(DeliveryId(Uuid::nil()));
    });
    assert_eq!(ahead.0, Verdict::Blocked);
    assert!(ahead.1.contains("00000000-0000"), "{}", ahead.1);
    let retried = of("waiting", |facts| {
        let open = facts.open.as_mut().unwrap();
        (open.attempt, open.last_outcome, open.last_status) = (2, Some("http_5xx".to_owned()), Some(503));
    });
    assert_eq!(retried.0, Verdict::Waiting);
    assert_eq!(retried.1, "Attempt 2 failed (http_5xx, status 503); it is tried again at +5.");
    let no_tls = of("waiting", |facts| {
        let open = facts.open.as_mut().unwrap();
        (open.attempt, open.last_outcome) = (2, Some("tls".to_owned()));
        let mut failed = entry(1, "DELIVERY_ATTEMPT");
        failed.data = json!({"reason": "its certificate has expired"});
        facts.of_delivery.push(failed);
    });
    assert_eq!(no_tls.1, "Attempt 2 failed (tls: its certificate has expired); it is tried again at +5.");
    let held = of("waiting", |facts| facts.webhook.hold_until = Some(at(30)));
    assert_eq!(held.0, Verdict::Held);
    assert!(held.1.contains("+30"), "{}", held.1);
    let over = of("waiting", |facts| facts.webhook.hold_until = Some(at(0)));
    assert_eq!(over.0, Verdict::Waiting);
    let dwells = of("waiting", |facts| facts.open.as_mut().unwrap().not_before = Some(at(3)));
    assert!(dwells.1.contains("must last until +3"), "{}", dwells.1);
}

#[test]
fn a_token_server_that_refuses_is_no_receiver_that_fails() {
    let refusal = "the token endpoint answered 401: invalid_client";
    let mut facts = facts();
    facts.open = Some(open("waiting"));
    let open = facts.open.as_mut().unwrap();
    (open.attempt, open.last_outcome) = (2, Some("token".to_owned()));
    let mut failed = entry(1, "DELIVERY_ATTEMPT");
    failed.data = json!({"reason": refusal});
    facts.of_delivery.push(failed);
    assert_eq!(
        verdict(&facts).1,
        format!("Attempt 2 got no access token, so nothing was sent ({refusal}); it is tried again at +5.")
    );
    facts.of_delivery.clear();
    facts.open = Some(OpenFacts { attempt: 0, last_outcome: None, ..facts.open.unwrap() });
    (facts.webhook.hold_until, facts.webhook.last_outcome) = (Some(at(30)), Some("token".to_owned()));
    facts.webhook.last_reason = Some(refusal.to_owned());
    assert_eq!(
        verdict(&facts),
        (
            Verdict::Held,
            format!("Its token server gives no access token ({refusal}): nothing is sent before +30.")
        )
    );
}

#[test]
fn an_ended_delivery_tells_how_it_ended_last() {
    let mut facts = facts();
    let mut dead = entry(10, "DELIVERY_ATTEMPT");
    (dead.attempt, dead.outcome) = (Some(11), Some("timeout".to_owned()));
    dead.end_state = Some("dead".to_owned());
    facts.of_delivery.push(dead);
    assert_eq!(verdict(&facts).0, Verdict::Dead);
    let mut delivered = entry(20, "DELIVERY_ATTEMPT");
    (delivered.attempt, delivered.status) = (Some(1), Some(204));
    delivered.end_state = Some("delivered".to_owned());
    facts.of_delivery.push(entry(15, "DELIVERY_RETRIED"));
    facts.of_delivery.push(delivered);
    assert_eq!(
        verdict(&facts),
        (Verdict::Delivered, "The receiver took it at +20, with attempt 1, status 204.".to_owned())
    );
    let told = explain(&facts, at(60), written);
    let whats: Vec<_> = told.steps.iter().map(|step| step.what).collect();
    assert_eq!(whats, ["received", "stored", "attempt", "retried", "attempt"]);
    let mut superseded = entry(30, "DELIVERY_ENDED");
    superseded.end_state = Some("superseded".to_owned());
    superseded.data = json!({"superseded_by": "019a"});
    facts.of_delivery = vec![superseded];
    assert!(verdict(&facts).1.ends_with("delivery 019a."));
    for (end, expected) in
        [("expired", Verdict::Expired), ("webhook_gone", Verdict::WebhookGone), ("odd", Verdict::Unknown)]
    {
        let mut ended = entry(30, "DELIVERY_ENDED");
        ended.end_state = Some(end.to_owned());
        facts.of_delivery = vec![ended];
        assert_eq!(verdict(&facts).0, expected);
    }
}

#[test]
fn what_was_never_planned_tells_why() {
    let of = |change: fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        verdict(&facts)
    };
    assert_eq!(of(|facts| facts.webhook.created_at = at(1)).0, Verdict::NotRegisteredThen);
    assert_eq!(of(|facts| facts.webhook.deleted_at = Some(at(-1))).0, Verdict::WebhookGone);
    assert_eq!(of(|facts| facts.event.kind = EventKind::WebhookTest).0, Verdict::NotMatched);
    let other = of(|facts| {
        facts.webhook.agents = vec!["bob".to_owned()];
        facts.webhook.presences = vec!["AWAY".to_owned()];
    });
    assert_eq!(other, (Verdict::NotMatched, "The event does not pass agents, presences.".to_owned()));
    let changed = of(|facts| {
        let mut updated = entry(5, "WEBHOOK_UPDATED");
        updated.data = json!({"fields": ["description", "agents"]});
        facts.of_webhook.push(updated);
    });
    assert_eq!(changed.0, Verdict::NotMatched);
    assert!(changed.1.contains("changed at +5"), "{}", changed.1);
    assert_eq!(of(|_| {}).0, Verdict::Unknown);
    assert_eq!(of(|facts| facts.webhook.state = WebhookState::Disabled).0, Verdict::WebhookDisabled);
    let was_out = of(|facts| facts.of_webhook.push(entry(5, "WEBHOOK_ENABLED")));
    assert_eq!(was_out.0, Verdict::WebhookDisabled);
    let out_since = of(|facts| {
        facts.of_webhook.push(entry(5, "WEBHOOK_DISABLED"));
        facts.webhook.state = WebhookState::Disabled;
    });
    assert_eq!(out_since.0, Verdict::Unknown);
}

#[test]
fn a_filter_counts_where_the_event_has_what_it_asks_about() {
    let mut facts = facts();
    let passes = |facts: &Facts| matches(&facts.event, &facts.webhook).iter().all(|m| m.matches);
    assert!(passes(&facts));
    facts.webhook.agents = vec!["crm-1".to_owned()];
    assert!(passes(&facts), "the CRM's own id counts");
    facts.webhook.topics = vec!["other".to_owned()];
    assert!(!passes(&facts));
    facts.webhook.events = vec!["presence.gap".to_owned(), "source.stale".to_owned()];
    facts.event.kind = EventKind::PresenceGap;
    assert!(passes(&facts), "a gap has no topic");
    facts.event.agent_id = Some(AgentId("bob".to_owned()));
    facts.event.external_id = None;
    assert!(!passes(&facts));
    facts.event.kind = EventKind::SourceStale;
    assert!(passes(&facts), "a source has no agent");
    facts.webhook.sources = vec![SourceId(Uuid::max())];
    assert!(!passes(&facts));
    facts.event.kind = EventKind::PresenceUpdated;
    facts.webhook.events = vec!["presence.updated".to_owned()];
    facts.webhook.presences = vec!["AVAILABLE".to_owned()];
    facts.event.presence = None;
    let told = matches(&facts.event, &facts.webhook);
    let failing: Vec<_> = told.iter().filter(|m| !m.matches).map(|m| m.filter).collect();
    assert_eq!(failing, ["agents", "topics", "presences", "sources"]);
}
