//! Floor 1: counters and gauges under Prometheus names. Actors count, `/metrics` writes them out.
//!
//! No name may end in a suffix that OpenMetrics gives to samples (`_total`, `_created`, `_count`, `_sum`,
//! `_bucket`, `_info`): it would clash with the samples of another metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::domain::delivery::outcome::{EndState, Outcome};
use crate::domain::presence::connection::{GapCause, MalformedReason};
use crate::domain::webhook::state::WebhookState;

pub mod by_label;
mod exposition;

use by_label::{CounterBy, GaugeBy, WebhookBacklogs};
pub use exposition::TextFormat;

/// Label `webhook_state` of a webhook that is active and has been noticed as failing.
pub const FAILING: &str = "failing";
/// Label `webhook_state` of deliveries whose webhook was removed and that have not ended yet.
pub const REMOVED: &str = "removed";
/// Reason of a rejected frame: the database refused its content.
pub const NOT_STORABLE: &str = "not_storable";
/// Parts of the process that are started again when they die.
const PARTS: &[&str] = &[
    "connection",
    "token",
    "dispatcher",
    "primary",
    "sealer",
    "audit_push",
    "erasures",
    "sweep",
    "throughput",
    "incarnations",
    "embedded_postgres",
];
/// Outcomes of a call upstream; `genesys/protocol.rs` says which of them an error is.
const UPSTREAM_CALLS: &[&str] =
    &["ok", "http_3xx", "http_4xx", "http_5xx", "rate_limited", "timeout", "disconnected", "bad_answer"];

/// All metrics of the process. Clones share the same figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Presence updates stored.
    pub events: Counter,
    /// Presence updates that wait to be stored.
    pub changes_waiting: Gauge<i64, AtomicI64>,
    /// Frames that were no presence update, by reason.
    pub frames_rejected: CounterBy,
    /// Pushed states that told nothing new, by reason.
    pub states_dropped: CounterBy,
    /// Times of upstream's that did not count, by reason.
    pub times_rejected: CounterBy,
    /// States read by REST after a monitoring gap that differed from what was known.
    pub resync_differences: Counter,
    /// Resyncs, by outcome.
    pub resyncs: CounterBy,
    /// REST calls upstream, by outcome class.
    pub upstream_calls: CounterBy,
    /// Agents whose topic upstream rejects.
    pub topics_rejected: Gauge<i64, AtomicI64>,
    /// Agents that stay unwatched because a client's channels are full.
    pub agents_over_limit: Gauge<i64, AtomicI64>,
    /// Sources without a live connection for too long.
    pub sources_stale: Gauge<i64, AtomicI64>,
    /// Deliveries made, one per event and matching webhook.
    pub deliveries: Counter,
    /// POSTs tried, by outcome class.
    pub attempts: CounterBy,
    /// Deliveries ended, by end state.
    pub deliveries_ended: CounterBy,
    /// Deliveries that a dispatcher held without having been told of them, and gave back.
    pub leases_returned: Counter,
    /// Seconds from sending a POST to its verdict.
    pub attempt_seconds: Histogram,
    /// Seconds from a frame's arrival to the end of the first successful POST.
    pub event_to_delivery_seconds: Histogram,
    /// Seconds that a claim took in the database.
    pub claim_seconds: Histogram,
    /// POSTs under way.
    pub in_flight: Gauge<i64, AtomicI64>,
    /// Sockets open upstream.
    pub upstream_connected: Gauge<i64, AtomicI64>,
    /// Reconnects planned, by reason.
    pub upstream_reconnects: CounterBy,
    /// Round trips of upstream pings, in seconds.
    pub upstream_ping_seconds: Histogram,
    /// Tokens asked for, by outcome.
    pub token_requests: CounterBy,
    /// Webhooks by state, read from the database now and then, like the next three.
    pub webhooks: GaugeBy<i64, AtomicI64>,
    /// Open deliveries by the state of their webhook.
    pub backlog: GaugeBy<i64, AtomicI64>,
    /// Age of the oldest of them in seconds.
    pub oldest_pending_seconds: GaugeBy<f64, AtomicU64>,
    /// Backlogs of single webhooks, as many as the operator wants to see.
    pub webhook_backlogs: WebhookBacklogs,
    /// Steps of the last maintenance (day partitions, retention) that must be tried again.
    pub maintenance_left: Gauge<i64, AtomicI64>,
    /// Times that the database was found in a new incarnation.
    pub database_failovers: Counter,
    /// Events that a failover had lost, and that were stored again.
    pub events_restored: Counter,
    /// Events that could not be.
    pub events_not_restorable: Counter,
    /// Seals made over the audit log.
    pub audit_seals: Counter,
    /// Rows of the audit log in them.
    pub audit_rows_sealed: Counter,
    /// Times that the audit log could not be sealed though the database answered.
    pub audit_seal_failures: Counter,
    /// Rows of the audit log that no seal covers yet, at most.
    pub audit_unsealed: Gauge<i64, AtomicI64>,
    /// Audit entries pushed to the syslog receiver.
    pub audit_pushed: Counter,
    /// Times that they could not be.
    pub audit_push_failures: Counter,
    /// Malformed content from upstream that was counted and not kept, because there was too much of it.
    pub quarantine_withheld: Counter,
    /// Connections to the REST API that were closed because their address had its share.
    pub api_connections_refused: Counter,
    /// Event streams that callers have open.
    pub event_streams_open: Gauge<i64, AtomicI64>,
    /// Event streams that were refused because as many were open as may be.
    pub event_streams_refused: Counter,
    /// Actors that died and were replaced, by actor.
    pub actors_restarted: CounterBy,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All figures at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("presence_bridge");
        let buckets = || exponential_buckets(0.0005, 2.0, 16);
        let by = CounterBy::new;
        let malformed = [MalformedReason::WORDS, &[NOT_STORABLE]].concat();
        let states = [WebhookState::WORDS, &[FAILING]].concat();
        let backlog_states = [states.as_slice(), &[REMOVED]].concat();
        let mut metrics = Self {
            registry: Arc::default(),
            events: Counter::default(),
            frames_rejected: by("reason", &malformed),
            states_dropped: by("reason", &["stale", "duplicate", "handover"]),
            times_rejected: by("reason", &["ahead", "unreadable"]),
            resync_differences: Counter::default(),
            resyncs: by("outcome", &["ok", "failed"]),
            upstream_calls: by("outcome", UPSTREAM_CALLS),
            topics_rejected: Gauge::default(),
            agents_over_limit: Gauge::default(),
            changes_waiting: Gauge::default(),
            sources_stale: Gauge::default(),
            deliveries: Counter::default(),
            attempts: by("outcome", Outcome::CLASSES),
            deliveries_ended: by("outcome", &EndState::ALL.map(EndState::as_str)),
            leases_returned: Counter::default(),
            attempt_seconds: Histogram::new(buckets()),
            claim_seconds: Histogram::new(buckets()),
            event_to_delivery_seconds: Histogram::new(buckets()),
            in_flight: Gauge::default(),
            upstream_connected: Gauge::default(),
            upstream_reconnects: by("reason", GapCause::WORDS),
            upstream_ping_seconds: Histogram::new(buckets()),
            token_requests: by("outcome", &["ok", "failed"]),
            webhooks: GaugeBy::new("webhook_state", &states),
            backlog: GaugeBy::new("webhook_state", &backlog_states),
            oldest_pending_seconds: GaugeBy::new("webhook_state", &backlog_states),
            webhook_backlogs: WebhookBacklogs::default(),
            maintenance_left: Gauge::default(),
            audit_seals: Counter::default(),
            audit_rows_sealed: Counter::default(),
            database_failovers: Counter::default(),
            events_restored: Counter::default(),
            events_not_restorable: Counter::default(),
            audit_seal_failures: Counter::default(),
            audit_unsealed: Gauge::default(),
            audit_pushed: Counter::default(),
            audit_push_failures: Counter::default(),
            quarantine_withheld: Counter::default(),
            api_connections_refused: Counter::default(),
            event_streams_open: Gauge::default(),
            event_streams_refused: Counter::default(),
            actors_restarted: by("reason", PARTS),
        };
        metrics.register_events(&mut registry);
        metrics.register_upstream(&mut registry);
        metrics.register_deliveries(&mut registry);
        metrics.register_audit(&mut registry);
        metrics.register_process(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// Counts times of upstream's that cannot be read.
    pub fn count_unreadable_times(&self, times: usize) {
        self.times_rejected.of("unreadable").inc_by(u64::try_from(times).unwrap_or(u64::MAX));
    }

    /// Counts times of upstream's that are too far ahead of our clock.
    pub fn count_times_ahead(&self, times: u64) {
        self.times_rejected.of("ahead").inc_by(times);
    }

    /// Presence as it comes in.
    fn register_events(&self, registry: &mut Registry) {
        registry.register("events_received", "Presence updates stored", self.events.clone());
        registry.register(
            "changes_waiting",
            "Presence updates that wait to be stored",
            self.changes_waiting.clone(),
        );
        registry.register(
            "frames_rejected",
            "Frames that were no presence update",
            self.frames_rejected.family(),
        );
        registry.register(
            "states_dropped",
            "Pushed states that told nothing new",
            self.states_dropped.family(),
        );
        registry.register(
            "times_rejected",
            "Times of the platform's that did not count",
            self.times_rejected.family(),
        );
        registry.register(
            "resync_differences",
            "States read after a monitoring gap that differed from what was known",
            self.resync_differences.clone(),
        );
        registry.register("resyncs", "Readings of the present states", self.resyncs.family());
        registry.register(
            "quarantine_withheld",
            "Malformed frames that were counted and not kept",
            self.quarantine_withheld.clone(),
        );
    }

    /// Connections and calls to Genesys.
    fn register_upstream(&self, registry: &mut Registry) {
        registry.register("upstream_calls", "REST calls upstream", self.upstream_calls.family());
        registry.register(
            "topics_rejected",
            "Agents whose topic upstream rejects",
            self.topics_rejected.clone(),
        );
        registry.register(
            "agents_over_limit",
            "Agents unwatched because a client's channels are full",
            self.agents_over_limit.clone(),
        );
        registry.register(
            "sources_stale",
            "Sources without a live connection for too long",
            self.sources_stale.clone(),
        );
        registry.register("upstream_connected", "Sockets open upstream", self.upstream_connected.clone());
        registry.register("upstream_reconnects", "Reconnects planned", self.upstream_reconnects.family());
        registry.register(
            "upstream_ping_seconds",
            "Round trips of upstream pings",
            self.upstream_ping_seconds.clone(),
        );
        registry.register("token_requests", "Tokens asked for", self.token_requests.family());
    }

    /// POSTs to receivers.
    fn register_deliveries(&self, registry: &mut Registry) {
        registry.register("deliveries_opened", "Deliveries made", self.deliveries.clone());
        registry.register("delivery_attempts", "POSTs tried", self.attempts.family());
        registry.register("deliveries", "Deliveries ended", self.deliveries_ended.family());
        registry.register(
            "leases_returned",
            "Deliveries held without our knowing, and given back",
            self.leases_returned.clone(),
        );
        registry.register(
            "delivery_attempt_duration_seconds",
            "Duration of a POST",
            self.attempt_seconds.clone(),
        );
        registry.register(
            "claim_seconds",
            "Time that a claim of due deliveries took in the database",
            self.claim_seconds.clone(),
        );
        registry.register(
            "event_to_delivery_seconds",
            "From a frame's arrival to the end of the successful POST",
            self.event_to_delivery_seconds.clone(),
        );
        registry.register("deliveries_in_flight", "POSTs under way", self.in_flight.clone());
        registry.register("webhooks", "Webhooks", self.webhooks.family());
        registry.register("backlog_deliveries", "Open deliveries", self.backlog.family());
        registry.register(
            "oldest_pending_seconds",
            "Age of the oldest open delivery",
            self.oldest_pending_seconds.family(),
        );
        self.webhook_backlogs.register(registry);
    }

    /// The audit log.
    fn register_audit(&self, registry: &mut Registry) {
        registry.register("audit_seals", "Seals made over the audit log", self.audit_seals.clone());
        registry.register("audit_rows_sealed", "Audit entries sealed", self.audit_rows_sealed.clone());
        registry.register(
            "audit_seal_failures",
            "Times that the audit log could not be sealed",
            self.audit_seal_failures.clone(),
        );
        registry.register(
            "audit_unsealed_entries",
            "Audit entries that no seal covers yet, at most",
            self.audit_unsealed.clone(),
        );
        registry.register("audit_pushed", "Audit entries pushed to syslog", self.audit_pushed.clone());
        registry.register(
            "audit_push_failures",
            "Times that the audit log could not be pushed to syslog",
            self.audit_push_failures.clone(),
        );
    }

    /// The process itself.
    fn register_process(&self, registry: &mut Registry) {
        registry.register(
            "database_failovers",
            "Times that the database was found to have failed over, or to be restored",
            self.database_failovers.clone(),
        );
        registry.register(
            "events_restored",
            "Events that a failover of the database had lost, stored again",
            self.events_restored.clone(),
        );
        registry.register(
            "events_not_restorable",
            "Events that a failover of the database had lost, and that could not be stored again",
            self.events_not_restorable.clone(),
        );
        registry.register(
            "actors_restarted",
            "Actors that died and were replaced",
            self.actors_restarted.family(),
        );
        registry.register(
            "sweep_left",
            "Steps of the last look after day partitions and retention that are tried again",
            self.maintenance_left.clone(),
        );
        registry.register(
            "api_connections_refused",
            "Connections of callers whose address had its share",
            self.api_connections_refused.clone(),
        );
        registry.register("event_streams_open", "Event streams open", self.event_streams_open.clone());
        registry.register(
            "event_streams_refused",
            "Event streams refused because too many were open",
            self.event_streams_refused.clone(),
        );
    }

    /// The figures in a text format.
    #[must_use]
    pub fn encode(&self, format: TextFormat) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut page, &self.registry);
        match format {
            TextFormat::OpenMetrics => page,
            TextFormat::Prometheus => exposition::to_prometheus(&page),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_in_a_suffix_of_samples() {
        let page = Metrics::new().encode(TextFormat::OpenMetrics);
        let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        for name in names {
            for suffix in ["_total", "_created", "_count", "_sum", "_bucket", "_info", "_gcount", "_gsum"] {
                assert!(!name.ends_with(suffix), "{name}");
            }
        }
    }

    #[test]
    fn every_series_is_there_before_anything_has_happened() {
        let page = Metrics::new().encode(TextFormat::Prometheus);
        for series in [
            "presence_bridge_deliveries_total{outcome=\"dead\"} 0",
            "presence_bridge_delivery_attempts_total{outcome=\"http_5xx\"} 0",
            "presence_bridge_upstream_calls_total{outcome=\"rate_limited\"} 0",
            "presence_bridge_actors_restarted_total{reason=\"dispatcher\"} 0",
            "presence_bridge_webhooks{webhook_state=\"failing\"} 0",
        ] {
            assert!(page.lines().any(|line| line == series), "{series}\n{page}");
        }
    }
}
