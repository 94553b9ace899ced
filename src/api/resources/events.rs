//! `/v1/events`: the feed of presence changes.

use actix_web::{HttpRequest, HttpResponse};
use futures_util::StreamExt as _;
use serde::Serialize;

use crate::api::http::event_stream;
use crate::api::http::page::{List, Place, Query, at, maybe_at, path_id};
use crate::api::http::problem::ApiError;
use crate::api::resources::agents::take_agents;
use crate::domain::ids::{EventId, SourceId};
use crate::domain::presence::Event;
use crate::domain::presence::event_data::{EventData, ShownFrame};
use crate::services;
use crate::services::caller::Caller;
use crate::services::follow::Followed;
use crate::store::views::events::{FeedFilter, FeedPlace};

type Reply = Result<HttpResponse, ApiError>;

/// Sent by readers of server-sent events that come again.
const LAST_EVENT_ID: &str = "last-event-id";

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
    if query.boolean("follow")? == Some(true) {
        return follow(&caller, &request, query).await;
    }
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

/// The feed as server-sent events, each with the cursor behind it as its id.
async fn follow(caller: &Caller, request: &HttpRequest, mut query: Query) -> Reply {
    let filter = FeedFilter {
        agents: take_agents(caller, &mut query).await?,
        source: query.id("source")?.map(SourceId),
        since: query.time("since")?,
        until: None,
    };
    query.rename("after", "cursor")?;
    let asked = query.text("cursor")?;
    query.finish()?;
    // A reader that comes again asks for the same URL, and says by the header how far it is.
    let reached = request.headers().get(LAST_EVENT_ID).filter(|id| !id.is_empty());
    let reached = reached.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let place = reached.or(asked).map(|cursor| List::Events.read_cursor(&cursor)).transpose()?;
    let after = place.and_then(|place| match place {
        Place::Number(position) => Some(position),
        Place::Id(_) | Place::Pair(..) => None,
    });
    let followed = services::follow::follow(caller, filter, after).await?;
    event_stream::answer(request, caller, followed.map(|followed| stream_event(&followed)))
}

fn stream_event(followed: &Followed) -> event_stream::Event {
    let (position, data) = match followed {
        // Serializing fails only for maps whose keys are no strings.
        Followed::Event(event) => (event.position, serde_json::to_string(&view(event)).unwrap_or_default()),
        Followed::Reached(position) => (*position, String::new()),
    };
    event_stream::Event { id: Some(List::Events.cursor(Place::Number(position))), name: None, data }
}

pub(in crate::api) async fn get(caller: Caller, request: HttpRequest) -> Reply {
    let event = caller.store.event(EventId(path_id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(view(&event)))
}
