//! REST half of the protocol `realtime`: token, own user, and the upstream connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::answers::Refusal;
use super::faults::{Route, Tamper};
use super::options::TOPICS;
use super::world::{Connection, Order, Shared, Token};

type Answer = Result<Json<Value>, Refusal>;

/// Counts a request, remembers its `Authorization`, and lets it suffer the fault that waits for it.
///
/// First thing on every route: a fault that came after the checks would never hit a request that fails them,
/// and "the next three requests are refused" would not mean the next three.
pub(super) async fn arrive(shared: &Shared, route: Route, headers: &HeaderMap) -> Result<(), Refusal> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let fault = shared.change(|world| {
        *world.tally.requests.entry(route).or_default() += 1;
        if let Some(authorization) = authorization {
            world.tally.last_authorization = Some(authorization.to_owned());
        }
        world.faults.take(route)
    });
    let Some(fault) = fault else { return Ok(()) };
    if fault.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
    }
    match fault.status.map(StatusCode::from_u16) {
        Some(Ok(status)) => {
            let refusal = Refusal::asked_for(status, fault.retry_after, fault.body);
            Err(if route == Route::Token { refusal.into_oauth() } else { refusal })
        }
        Some(Err(_)) | None => Ok(()),
    }
}

/// `POST /api/v2/oauth/token`
pub(super) async fn token(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Answer {
    arrive(&shared, Route::Token, &headers).await?;
    if !has_type(&headers, "application/x-www-form-urlencoded") {
        return Err(Refusal::oauth(StatusCode::BAD_REQUEST, "invalid_request", "send a form"));
    }
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    match field("grant_type") {
        Some("client_credentials") => {}
        Some(_) => {
            let why = "only client_credentials is supported";
            return Err(Refusal::oauth(StatusCode::BAD_REQUEST, "unsupported_grant_type", why));
        }
        None => {
            return Err(Refusal::oauth(StatusCode::BAD_REQUEST, "invalid_request", "grant_type is missing"));
        }
    }
    let basic = basic(&headers);
    let presented = match (&basic, field("client_id"), field("client_secret")) {
        (Some((id, secret)), _, _) => Some((id.as_str(), secret.as_str())),
        (None, Some(id), Some(secret)) => Some((id, secret)),
        (None, _, _) => None,
    };
    let issued = shared.change(|world| {
        let (id, _) = presented
            .filter(|(id, secret)| world.clients.get(*id).is_some_and(|client| client.secret == *secret))?;
        let access_token = format!("sim-{}", Uuid::new_v4().simple());
        let lifetime = world.token_lifetime;
        let token = Token { client: id.to_owned(), expires: Instant::now() + lifetime };
        // Expired tokens answer 401 whether they are remembered or not.
        world.tokens.retain(|_, token| token.expires > Instant::now());
        world.tokens.insert(access_token.clone(), token);
        world.tally.tokens_issued += 1;
        Some((access_token, lifetime.as_secs(), world.faults.take_tamper(Route::Token)))
    });
    let Some((access_token, expires_in, tamper)) = issued else {
        return Err(Refusal::oauth(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "client authentication failed",
        ));
    };
    let mut answer = Map::new();
    answer.insert("access_token".into(), access_token.into());
    answer.insert("token_type".into(), "bearer".into());
    answer.insert("expires_in".into(), expires_in.into());
    match tamper {
        Some(Tamper::NoAccessToken) => drop(answer.remove("access_token")),
        Some(Tamper::NoExpiresIn) => drop(answer.remove("expires_in")),
        Some(Tamper::ExpiresIn(seconds)) => drop(answer.insert("expires_in".into(), seconds.into())),
        _ => {}
    }
    Ok(Json(answer.into()))
}

/// `GET /api/v2/users/me`
pub(super) async fn users_me(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Answer {
    arrive(&shared, Route::UsersMe, &headers).await?;
    let client = authorize(&shared, &headers)?;
    let id = format!("user-of-{client}");
    match shared.change(|world| world.faults.take_tamper(Route::UsersMe)) {
        Some(_) => Ok(Json(json!({"name": client}))),
        None => Ok(Json(json!({"id": id, "name": client}))),
    }
}

/// `POST /api/v2/realtime/connections`
pub(super) async fn create_connection(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    arrive(&shared, Route::CreateConnection, &headers).await?;
    let client = authorize(&shared, &headers)?;
    if !has_type(&headers, "application/json") {
        return Err(Refusal::media_type());
    }
    let wanted = Wanted::read(&body)?;
    wanted.judge(&shared)?;
    let id = Uuid::new_v4().to_string();
    let key = Uuid::new_v4().simple().to_string();
    let ws_url = format!("{}/realtime/ws/{key}", shared.ws_origin);
    let tamper = shared.change(|world| {
        let held = world.connections.iter().filter(|connection| connection.client == client).count();
        if held >= shared.options.connection_limit {
            let limit = shared.options.connection_limit;
            return Err(Refusal::conflict(format!(
                "The limit of {limit} concurrent connections is reached."
            )));
        }
        world.connections.push(Connection {
            id: id.clone(),
            client,
            user: wanted.user,
            topics: wanted.topics,
            heartbeat: Duration::from_millis(wanted.heartbeat_ms),
            heartbeat_ms: wanted.heartbeat_ms,
            key,
            created_at: OffsetDateTime::now_utc(),
            sockets: 0,
            socket: None,
        });
        Ok(world.faults.take_tamper(Route::CreateConnection))
    })?;
    if let Some(Tamper::Late(ms)) = tamper {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    Ok(Json(match tamper {
        Some(Tamper::NoWsUrl) => json!({"connectionId": id}),
        Some(Tamper::NoConnectionId) => json!({"wsUrl": ws_url}),
        Some(Tamper::WsUrl(other)) => json!({"connectionId": id, "wsUrl": other}),
        _ => json!({"connectionId": id, "wsUrl": ws_url}),
    }))
}

/// `GET /api/v2/realtime/connections`
pub(super) async fn list_connections(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Answer {
    arrive(&shared, Route::ListConnections, &headers).await?;
    let client = authorize(&shared, &headers)?;
    let entities: Vec<_> = shared.read(|world| {
        let own = world.connections.iter().filter(|connection| connection.client == client);
        own.map(Connection::seen).collect()
    });
    Ok(Json(json!({"total": entities.len(), "entities": entities})))
}

/// `DELETE /api/v2/realtime/connections/{id}`
pub(super) async fn delete_connection(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    arrive(&shared, Route::DeleteConnection, &headers).await?;
    let client = authorize(&shared, &headers)?;
    shared.change(|world| {
        let position = world.connections.iter().position(|one| one.id == id && one.client == client);
        // Somebody else's connection is as unknown as one that never was.
        let connection = position.map(|position| world.connections.remove(position));
        let connection = connection.ok_or_else(|| Refusal::not_found("no such connection"))?;
        if let Some(socket) = connection.socket {
            let reason = "connection deleted".to_owned();
            // The task may have ended in this instant: then its socket is closed already.
            let _ = socket.send(Order::Close { code: Some(1000), reason });
        }
        Ok(StatusCode::NO_CONTENT)
    })
}

/// Client behind a valid bearer token that may read presence.
fn authorize(shared: &Shared, headers: &HeaderMap) -> Result<String, Refusal> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.split_once(' '));
    let token = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
    shared.read(|world| {
        let token = token.and_then(|token| world.tokens.get(token));
        let token = token.filter(|token| token.expires > Instant::now()).ok_or_else(Refusal::unauthorized)?;
        match world.clients.get(&token.client) {
            Some(client) if client.presence_read => Ok(token.client.clone()),
            Some(_) => Err(Refusal::forbidden()),
            None => Err(Refusal::unauthorized()),
        }
    })
}

/// Id and secret of HTTP Basic, when that is how the client authenticates.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(id, secret)| (id.to_owned(), secret.to_owned()))
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
}

/// Body of `POST connections`, read field by field so that each fault has its own message.
struct Wanted {
    user: String,
    topics: Vec<String>,
    heartbeat_ms: u64,
}

impl Wanted {
    /// Reads the shape; a wrong one is a 400.
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let body: Value =
            serde_json::from_slice(body).map_err(|_| Refusal::bad_request("the body is not JSON"))?;
        let user = body.get("userId").and_then(Value::as_str).filter(|user| !user.is_empty());
        let topics = body.get("topics").and_then(Value::as_array);
        let topics: Option<Vec<String>> =
            topics.and_then(|topics| topics.iter().map(|topic| topic.as_str().map(str::to_owned)).collect());
        let heartbeat_ms = body.get("heartbeatInterval").and_then(Value::as_u64);
        Ok(Self {
            user: user.ok_or_else(|| Refusal::bad_request("userId must be a string"))?.to_owned(),
            topics: topics.ok_or_else(|| Refusal::bad_request("topics must be a flat array of strings"))?,
            heartbeat_ms: heartbeat_ms
                .ok_or_else(|| Refusal::bad_request("heartbeatInterval must be a whole number"))?,
        })
    }

    /// Checks the values; a wrong one is a 422, an agent that does not exist a 404.
    fn judge(&self, shared: &Shared) -> Result<(), Refusal> {
        let options = &shared.options;
        if self.topics.is_empty() || self.topics.len() > options.topic_limit {
            let message = format!("between 1 and {} topics are required", options.topic_limit);
            return Err(Refusal::unprocessable(message));
        }
        if let Some(unknown) = self.topics.iter().find(|topic| !TOPICS.contains(&topic.as_str())) {
            return Err(Refusal::unprocessable(format!("unknown topic {unknown}")));
        }
        if !options.heartbeat_range_ms.contains(&self.heartbeat_ms) {
            return Err(Refusal::unprocessable("heartbeatInterval is out of range"));
        }
        if !options.agents.is_empty() && !options.agents.contains(&self.user) {
            return Err(Refusal::not_found("no such user"));
        }
        Ok(())
    }
}
