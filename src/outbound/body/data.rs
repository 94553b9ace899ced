//! What a receiver is told of an event: the `data` of its body, up to what depends on the delivery. Pure.

use serde::Serialize;

use crate::clock::rfc3339;
use crate::domain::ids::{ConnectionId, EventId, GapId, WebhookId};
use crate::domain::presence::event_data::{Agent, EventData, ShownFrame, SourceName};
use crate::domain::presence::notices::{GapNotice, NoticedGap, SourceNotice, WebhookNotice};
use crate::domain::presence::{Detail, Event, EventKind};

/// Room for all of an event but its frame; more is taken where it is needed.
const ROOM: usize = 1024;

#[derive(Serialize)]
struct TestData {
    event_id: EventId,
    received_at: String,
    committed_at: Option<String>,
}

#[derive(Serialize)]
struct SourceData<'a> {
    event_id: EventId,
    source: Option<SourceName<'a>>,
    since: Option<String>,
    until: Option<String>,
    gap_count: u32,
    gaps: Vec<SourceGap<'a>>,
    received_at: String,
    committed_at: Option<String>,
}

#[derive(Serialize)]
struct SourceGap<'a> {
    id: GapId,
    connection_id: ConnectionId,
    cause: &'a str,
    from: String,
    to: Option<String>,
    agents: u32,
}

#[derive(Serialize)]
struct GapData<'a> {
    event_id: EventId,
    source: Option<SourceName<'a>>,
    agent: Option<Agent<'a>>,
    gap: Option<Gap<'a>>,
    received_at: String,
    committed_at: Option<String>,
}

#[derive(Serialize)]
struct Gap<'a> {
    id: GapId,
    connection_id: ConnectionId,
    cause: &'a str,
    from: String,
    to: String,
}

#[derive(Serialize)]
struct WebhookData<'a> {
    event_id: EventId,
    webhook: Option<Webhook<'a>>,
    reason: Option<&'a str>,
    /// Left out, and not null, where there is none: a notice from before it was known is repeated as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    failing_since: Option<String>,
    failures: u32,
    received_at: String,
    committed_at: Option<String>,
}

#[derive(Serialize)]
struct Webhook<'a> {
    id: WebhookId,
    description: &'a str,
}

#[derive(Serialize)]
struct FailoverData {
    event_id: EventId,
    timeline: Option<u32>,
    restored: u64,
    not_restorable: u64,
    lost_since: Option<String>,
    received_at: String,
    committed_at: Option<String>,
}

/// The event's part of `data`, as JSON without its closing brace.
pub fn open_data(event: &Event) -> Vec<u8> {
    let mut written = Vec::with_capacity(event.raw.len() + ROOM);
    let result = match event.kind {
        EventKind::PresenceUpdated | EventKind::PresenceSnapshot => write_presence(&mut written, event),
        EventKind::WebhookTest => serde_json::to_writer(
            &mut written,
            &TestData {
                event_id: event.event_id,
                received_at: rfc3339(event.received_at),
                committed_at: event.committed_at.map(rfc3339),
            },
        ),
        EventKind::SourceStale | EventKind::SourceRecovered => {
            serde_json::to_writer(&mut written, &source_data(event))
        }
        EventKind::PresenceGap => serde_json::to_writer(&mut written, &gap_data(event)),
        EventKind::WebhookFailing | EventKind::WebhookDisabled | EventKind::WebhookRecovered => {
            serde_json::to_writer(&mut written, &webhook_data(event))
        }
        EventKind::DatabaseFailedOver => serde_json::to_writer(&mut written, &failover_data(event)),
    };
    // Writing strings, numbers and checked JSON into memory cannot fail.
    debug_assert!(result.is_ok());
    written.pop();
    written
}

fn write_presence(written: &mut Vec<u8>, event: &Event) -> serde_json::Result<()> {
    serde_json::to_writer(written, &EventData::new(event, ShownFrame::of(&event.raw), rfc3339))
}

fn source_name(event: &Event) -> Option<SourceName<'_>> {
    event.source.as_ref().map(|(id, name)| SourceName { id: *id, name })
}

fn source_data(event: &Event) -> SourceData<'_> {
    let notice: Option<&SourceNotice> = match &event.detail {
        Some(Detail::Source(notice)) => Some(notice),
        _ => None,
    };
    SourceData {
        event_id: event.event_id,
        source: source_name(event),
        since: notice.map(|notice| rfc3339(notice.since)),
        until: notice.and_then(|notice| notice.until).map(rfc3339),
        gap_count: notice.map_or(0, |notice| notice.gap_count),
        gaps: notice.map(|notice| notice.gaps.iter().map(source_gap).collect()).unwrap_or_default(),
        received_at: rfc3339(event.received_at),
        committed_at: event.committed_at.map(rfc3339),
    }
}

fn source_gap(gap: &NoticedGap) -> SourceGap<'_> {
    SourceGap {
        id: gap.id,
        connection_id: gap.connection_id,
        cause: &gap.cause,
        from: rfc3339(gap.from),
        to: gap.to.map(rfc3339),
        agents: gap.agents,
    }
}

fn gap_data(event: &Event) -> GapData<'_> {
    let notice: Option<&GapNotice> = match &event.detail {
        Some(Detail::Gap(notice)) => Some(notice),
        _ => None,
    };
    GapData {
        event_id: event.event_id,
        source: source_name(event),
        agent: Agent::of(event),
        gap: notice.map(|notice| Gap {
            id: notice.id,
            connection_id: notice.connection_id,
            cause: &notice.cause,
            from: rfc3339(notice.from),
            to: rfc3339(notice.to),
        }),
        received_at: rfc3339(event.received_at),
        committed_at: event.committed_at.map(rfc3339),
    }
}

fn webhook_data(event: &Event) -> WebhookData<'_> {
    let notice: Option<&WebhookNotice> = match &event.detail {
        Some(Detail::Webhook(notice)) => Some(notice),
        _ => None,
    };
    WebhookData {
        event_id: event.event_id,
        webhook: notice.map(|notice| Webhook { id: notice.id, description: &notice.description }),
        reason: notice.and_then(|notice| notice.reason.as_deref()),
        detail: notice.and_then(|notice| notice.detail.as_deref()),
        failing_since: notice.and_then(|notice| notice.failing_since).map(rfc3339),
        failures: notice.map_or(0, |notice| notice.failures),
        received_at: rfc3339(event.received_at),
        committed_at: event.committed_at.map(rfc3339),
    }
}

fn failover_data(event: &Event) -> FailoverData {
    let notice = match &event.detail {
        Some(Detail::Failover(notice)) => Some(notice),
        _ => None,
    };
    FailoverData {
        event_id: event.event_id,
        timeline: notice.and_then(|notice| notice.timeline),
        restored: notice.map_or(0, |notice| notice.restored),
        not_restorable: notice.map_or(0, |notice| notice.not_restorable),
        lost_since: notice.and_then(|notice| notice.lost_since).map(rfc3339),
        received_at: rfc3339(event.received_at),
        committed_at: event.committed_at.map(rfc3339),
    }
}
