//! `/v1/events`: the feed of presence changes.

use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::api::resources::agents::take_agents;
use crate::domain::ids::{EventId, SourceId};
use crate::domain::presence::Event;
use crate::domain::presence::event_data::{EventData, ShownFrame};
use crate::services::caller::Caller;
use crate::store::views::events::{FeedFilter, FeedPlace};

type Reply = Result<HttpResponse, ApiError>;

/// An event with the fields of a POST's `data`, and its place in the feed. The frame is null if it is no JSON.
#[derive(Serialize)]
struct View<'a> {
    #[serde(flatten)]
    data: EventData<'a, Option<ShownFrame<'a>>>,
    position: i64,
    erased_at: Option<String>,
}

fn view(event: &Event) -> View<'_> {
    View {
        data: EventData::new(event, ShownFrame::of_json(&event.raw), at),
        position: event.position,
        erased_at: maybe_at(event.erased_at),
    }
}

/// A page of the feed, oldest first. Unlike other lists it always has a cursor: the reader comes back with it
/// later.
#[derive(Serialize)]
struct FeedPage<'a> {
    items: Vec<View<'a>>,
    next_cursor: String,
}

pub(in crate::api) async fn list(caller: Caller, request: HttpRequest) -> Reply {
    let mut query = Query::read(&request)?;
    let filter = FeedFilter {
        agents: take_agents(&caller, &mut query).await?,
        source: query.id("source")?.map(SourceId),
        since: query.time("since")?,
        until: query.time("until")?,
    };
    let newest_first = query.word("order", &["oldest", "newest"])?.is_some_and(|order| order == "newest");
    query.rename("after", "cursor")?;
    if newest_first {
        let paging = query.paging(List::EventsNewestFirst)?;
        let place = FeedPlace::Before(paging.after_number());
        let page = caller.store.feed(&filter, place, paging.rows()).await?;
        let stopped_at = page.is_cut_off.then_some(Place::Number(page.reached));
        return Ok(paging.respond_so_far(
            page.events.iter().collect(),
            stopped_at,
            |event| Place::Number(event.position),
            |event| view(event),
        ));
    }
    let paging = query.paging(List::Events)?;
    let page = caller.store.feed(&filter, FeedPlace::After(paging.after_number()), paging.limit()).await?;
    let is_full = i64::try_from(page.events.len()).is_ok_and(|events| events >= paging.limit());
    let last = page.events.last().filter(|_| is_full).map(|event| event.position);
    Ok(HttpResponse::Ok().json(FeedPage {
        items: page.events.iter().map(view).collect(),
        next_cursor: List::Events.cursor(Place::Number(last.unwrap_or(page.reached))),
    }))
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let event = caller.store.event(EventId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&event)))
}
