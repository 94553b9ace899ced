//! `/v1/audit/verifications`: checks of the whole log that somebody asks for.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use crate::api::http::body::OptionalJsonBody;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::audit::seal::Head;
use crate::domain::ids::VerificationId;
use crate::domain::violation::Violation;
use crate::services;
use crate::services::caller::Caller;
use crate::store::audit::verifications::Verification;

type Reply = Result<HttpResponse, ApiError>;

fn view(row: &Verification) -> Value {
    json!({
        "id": row.verification_id,
        "started_at": at(row.started_at),
        "principal": row.principal,
        "state": row.state.as_str(),
        "ended_at": maybe_at(row.ended_at),
        "expected_head": row.expected_head,
        "seals_total": row.seals_total,
        "rows_total": row.rows_total,
        "seals": row.seals,
        "rows": row.rows,
        "rows_erased": row.rows_erased,
        "rows_dropped": row.rows_dropped,
        "unsealed": row.unsealed,
        "head": row.head,
        "lost_head": row.lost_head,
        "fault": row.fault,
        "failure": row.failure,
    })
}

pub(in crate::api) async fn create(caller: Caller, OptionalJsonBody(mut body): OptionalJsonBody) -> Reply {
    let head = body.text_or_null("head").flatten().map(|text| text.parse::<Head>()).transpose();
    let head = body.finish_with(head.map_err(|what| vec![Violation::new("head", what)]))?;
    let started = services::audit::start_verification(&caller, head).await?;
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/v1/audit/verifications/{}", started.verification_id)))
        .json(view(&started)))
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let paging = Query::read(&request)?.paging(List::Verifications)?;
    let before = paging.after_id().map(VerificationId);
    let rows = services::audit::verifications(&caller, before, paging.rows()).await?;
    Ok(paging.respond(rows, |row| Place::Id(row.verification_id.0), view))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    Query::read(&request)?.finish()?;
    let row = services::audit::verification(&caller, VerificationId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&row)))
}

pub(in crate::api) async fn cancel(caller: Caller, request: HttpRequest) -> Reply {
    let row = services::audit::cancel_verification(&caller, VerificationId(path_id(&request)?)).await?;
    Ok(HttpResponse::Accepted().json(view(&row)))
}
