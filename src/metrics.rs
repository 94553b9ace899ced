//! Floor 1: counters and gauges under Prometheus names. Actors count, `/metrics` writes them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of an ended or tried delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// Outcome class or end state.
    pub outcome: &'static str,
}

/// Why something upstream happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// A short word from a closed set.
    pub reason: &'static str,
}

/// All metrics of the process. Clones share the same figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Presence updates stored.
    pub events: Counter,
    /// Frames that were no presence update, by reason.
    pub frames_rejected: Family<ReasonLabels, Counter>,
    /// Pushed states that told nothing new, by reason.
    pub states_dropped: Family<ReasonLabels, Counter>,
    /// States read by REST after a monitoring gap that differed from what was known.
    pub resync_differences: Counter,
    /// Resyncs, by outcome.
    pub resyncs: Family<OutcomeLabels, Counter>,
    /// REST calls upstream, by outcome class.
    pub upstream_calls: Family<OutcomeLabels, Counter>,
    /// Agents whose topic upstream rejects.
    pub topics_rejected: Gauge<i64, AtomicI64>,
    /// Agents that stay unwatched because a client's channels are full.
    pub agents_over_limit: Gauge<i64, AtomicI64>,
    /// Sources without a live connection for too long.
    pub sources_stale: Gauge<i64, AtomicI64>,
    /// Deliveries made, one per event and matching webhook.
    pub deliveries: Counter,
    /// POSTs tried, by outcome class.
    pub attempts: Family<OutcomeLabels, Counter>,
    /// Deliveries ended, by end state.
    pub deliveries_ended: Family<OutcomeLabels, Counter>,
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
    pub upstream_reconnects: Family<ReasonLabels, Counter>,
    /// Round trips of upstream pings, in seconds.
    pub upstream_ping_seconds: Histogram,
    /// Tokens asked for, by outcome.
    pub token_requests: Family<OutcomeLabels, Counter>,
    /// Open deliveries, read from the database now and then.
    pub backlog: Gauge<i64, AtomicI64>,
    /// Age of the oldest open delivery in seconds, read from the database now and then.
    pub oldest_pending_seconds: Gauge<f64, AtomicU64>,
    /// Steps of the last maintenance (day partitions, retention) that must be tried again.
    pub maintenance_left: Gauge<i64, AtomicI64>,
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
    /// Actors that died and were replaced, by actor.
    pub actors_restarted: Family<ReasonLabels, Counter>,
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
        let mut metrics = Self {
            registry: Arc::default(),
            events: Counter::default(),
            frames_rejected: Family::default(),
            states_dropped: Family::default(),
            resync_differences: Counter::default(),
            resyncs: Family::default(),
            upstream_calls: Family::default(),
            topics_rejected: Gauge::default(),
            agents_over_limit: Gauge::default(),
            sources_stale: Gauge::default(),
            deliveries: Counter::default(),
            attempts: Family::default(),
            deliveries_ended: Family::default(),
            leases_returned: Counter::default(),
            attempt_seconds: Histogram::new(buckets()),
            claim_seconds: Histogram::new(buckets()),
            event_to_delivery_seconds: Histogram::new(buckets()),
            in_flight: Gauge::default(),
            upstream_connected: Gauge::default(),
            upstream_reconnects: Family::default(),
            upstream_ping_seconds: Histogram::new(buckets()),
            token_requests: Family::default(),
            backlog: Gauge::default(),
            oldest_pending_seconds: Gauge::default(),
            maintenance_left: Gauge::default(),
            audit_seals: Counter::default(),
            audit_rows_sealed: Counter::default(),
            audit_seal_failures: Counter::default(),
            audit_unsealed: Gauge::default(),
            audit_pushed: Counter::default(),
            audit_push_failures: Counter::default(),
            quarantine_withheld: Counter::default(),
            api_connections_refused: Counter::default(),
            actors_restarted: Family::default(),
        };
        metrics.register_events(&mut registry);
        metrics.register_upstream(&mut registry);
        metrics.register_deliveries(&mut registry);
        metrics.register_audit(&mut registry);
        metrics.register_process(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// Presence as it comes in.
    fn register_events(&self, registry: &mut Registry) {
        registry.register("events_received", "Presence updates stored", self.events.clone());
        registry.register(
            "frames_rejected",
            "Frames that were no presence update",
            self.frames_rejected.clone(),
        );
        registry.register(
            "states_dropped",
            "Pushed states that told nothing new",
            self.states_dropped.clone(),
        );
        registry.register(
            "resync_differences",
            "States read after a monitoring gap that differed from what was known",
            self.resync_differences.clone(),
        );
        registry.register("resyncs", "Readings of the present states", self.resyncs.clone());
        registry.register(
            "quarantine_withheld",
            "Malformed frames that were counted and not kept",
            self.quarantine_withheld.clone(),
        );
    }

    /// Connections and calls to Genesys.
    fn register_upstream(&self, registry: &mut Registry) {
        registry.register("upstream_calls", "REST calls upstream", self.upstream_calls.clone());
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
        registry.register("upstream_reconnects", "Reconnects planned", self.upstream_reconnects.clone());
        registry.register(
            "upstream_ping_seconds",
            "Round trips of upstream pings",
            self.upstream_ping_seconds.clone(),
        );
        registry.register("token_requests", "Tokens asked for", self.token_requests.clone());
    }

    /// POSTs to receivers.
    fn register_deliveries(&self, registry: &mut Registry) {
        registry.register("deliveries_created", "Deliveries made", self.deliveries.clone());
        registry.register("delivery_attempts", "POSTs tried", self.attempts.clone());
        registry.register("deliveries", "Deliveries ended", self.deliveries_ended.clone());
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
        registry.register("backlog_deliveries", "Open deliveries", self.backlog.clone());
        registry.register(
            "oldest_pending_seconds",
            "Age of the oldest open delivery",
            self.oldest_pending_seconds.clone(),
        );
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
            "actors_restarted",
            "Actors that died and were replaced",
            self.actors_restarted.clone(),
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
    }

    /// The figures in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
