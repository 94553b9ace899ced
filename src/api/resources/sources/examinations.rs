//! `/v1/sources/examinations`: settings of a source tried out step by step, before or after it is added.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::take_settings;
use crate::api::http::body::JsonBody;
use crate::api::http::page::{at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::domain::ids::{ExaminationId, SourceId};
use crate::domain::presence::examination::{Finding, Step};
use crate::domain::secret::Secret;
use crate::examinations::Examination;
use crate::services;
use crate::services::caller::Caller;

type Reply = Result<HttpResponse, ApiError>;

fn view(examination: &Examination) -> Value {
    let (steps, ended_at) = examination.so_far();
    json!({
        "id": examination.id,
        "source_id": examination.draft.source.map(|(id, _)| id),
        "state": if ended_at.is_some() { "ended" } else { "running" },
        "works": examination.works(),
        "started_at": at(examination.started_at),
        "ended_at": maybe_at(ended_at),
        "steps": steps.iter().map(step).collect::<Vec<_>>(),
    })
}

fn step(step: &Step) -> Value {
    let (finding, what, remedy) = match &step.finding {
        Finding::Good(what) => ("good", what, None),
        Finding::Warning(trouble) => ("warning", &trouble.what, Some(trouble.remedy)),
        Finding::Bad(trouble) => ("bad", &trouble.what, Some(trouble.remedy)),
    };
    json!({"step": step.name, "finding": finding, "what": what, "remedy": remedy})
}

pub(in crate::api) async fn create(caller: Caller, mut body: JsonBody) -> Reply {
    let source = body.id("source_id").map(SourceId);
    if source.is_none() {
        body.must_be_given(&["name", "client_id", "client_secret"]);
    }
    let client_secret = body.text("client_secret").map(Secret::new);
    let (source, present) = match source {
        None => (None, None),
        Some(id) => {
            let (source, present) =
                services::sources::examinations::begin_of(&caller, id, client_secret.clone()).await?;
            (Some(source), Some(present))
        }
    };
    let settings = take_settings(&caller, body, client_secret, present)?;
    let begun = services::sources::examinations::begin(&caller, settings, source.as_ref()).await?;
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, format!("/v1/sources/examinations/{}", begun.id)))
        .json(view(&begun)))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let found = services::sources::examinations::find(&caller, ExaminationId(path_id(&request)?))?;
    Ok(HttpResponse::Ok().json(view(&found)))
}
