//! `/v1/overview`: how everything stands, at a glance.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::page::{Query, at, maybe_at};
use crate::api::http::problem::ApiError;
use crate::services::caller::Caller;
use crate::services::overview::{self, AuditChain, Bridge, Overview};
use crate::store::sources::Source;
use crate::store::views::overview::SourceCoverage;

fn view(overview: &Overview) -> Value {
    json!({
        "at": at(overview.at),
        "verdict": overview.verdict().map_or("ok", |weight| weight.as_str()),
        "problems": overview.problems.iter().map(|problem| json!({
            "kind": problem.kind.as_str(),
            "weight": problem.kind.weight().as_str(),
            "detail": problem.what,
            "number": problem.number,
        })).collect::<Vec<_>>(),
        "sources": overview.sources.iter().map(|(source, coverage)| of_source(source, coverage.as_ref())).collect::<Vec<_>>(),
        "agents": {"wanted": overview.agents_wanted(), "covered": overview.agents_covered()},
        "gaps": {"open": overview.gaps.number, "since": maybe_at(overview.gaps.since)},
        "backlog": overview.backlogs.as_ref().map(|(counted_at, backlogs)| json!({
            "counted_at": at(*counted_at),
            "open": overview.open_deliveries(None),
            "oldest_pending": maybe_at(overview.oldest_pending()),
            "webhooks": backlogs.iter().map(|backlog| json!({
                "state": backlog.webhook_state,
                "webhooks": backlog.webhooks,
                "open": backlog.open,
                "oldest": maybe_at(backlog.oldest),
            })).collect::<Vec<_>>(),
        })),
        "bridge": overview.bridge.as_ref().map(of_bridge),
    })
}

fn of_source(source: &Source, coverage: Option<&SourceCoverage>) -> Value {
    json!({
        "id": source.source_id,
        "name": source.name,
        "state": if source.health.stale_since.is_some() { "stale" } else { "ok" },
        "connections": source.health.connections,
        "connections_open": source.health.connections_open,
        "opened_at": maybe_at(coverage.and_then(|coverage| coverage.opened_at)),
        "proven_at": maybe_at(coverage.and_then(|coverage| coverage.proven_at)),
        "agents_wanted": source.health.agents_wanted,
        "agents_covered": coverage.map_or(0, |coverage| coverage.agents),
    })
}

fn of_bridge(bridge: &Bridge) -> Value {
    json!({
        "minutes": bridge.minutes.iter().map(|minute| json!({
            "changes": minute.changes,
            "deliveries": minute.deliveries,
        })).collect::<Vec<_>>(),
        "processes": bridge.processes.iter().map(|process| json!({
            "id": process.process_id,
            "alive_until": at(process.alive_until),
            "is_this": process.is_this,
        })).collect::<Vec<_>>(),
        "audit": bridge.audit.as_ref().map(|AuditChain { last_seal, problem }| json!({
            "seal": last_seal.map(|seal| seal.head.seal_id),
            "sealed_at": last_seal.map(|seal| at(seal.sealed_at)),
            "problem": problem,
        })),
    })
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Query::read(&request)?.finish()?;
    Ok(HttpResponse::Ok().json(view(&overview::read(&caller).await?)))
}
