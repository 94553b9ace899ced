//! Before every answer: faults, tokens, the rate limit; and the routes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::to_bytes;
use axum::extract::{FromRequestParts, Request, State as Extract, WebSocketUpgrade};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::answers::{Answer, Caller, Refused, json_answer, refuse};
use super::deeds::{ClientState, Deed, Place};
use super::options::RateHeaders;
use super::order::Order;
use super::state::{Shared, State, Token};
use super::verbs::obey;
use super::{channels, directory, socket};

/// Longest body that is read; the platform takes 512,000 bytes.
const BODY_MAX: usize = 512_000;

/// Answers every request.
pub(super) async fn answer(Extract(shared): Extract<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path().starts_with("/_sim/") {
        return control(&shared, request).await;
    }
    let mut response = match route(&shared, request).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    };
    let status = response.status().as_u16();
    shared.change(|state| *state.tally.statuses.entry(status).or_default() += 1);
    if let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string()) {
        response.headers_mut().insert(HeaderName::from_static("inin-correlation-id"), id);
    }
    response
}

fn place(method: &Method, segments: &[&str]) -> Place {
    match segments {
        ["oauth", "token"] => Place::Login,
        ["channels", _] => Place::Upgrade,
        ["api", "v2", "tokens", "me"] => Place::TokensMe,
        ["api", "v2", "notifications", "channels"] if *method == Method::POST => Place::CreateChannel,
        ["api", "v2", "notifications", "channels"] => Place::ListChannels,
        ["api", "v2", "notifications", "channels", _] => Place::HeadChannel,
        ["api", "v2", "notifications", "channels", _, "subscriptions"] if *method == Method::PUT => {
            Place::PutSubscriptions
        }
        ["api", "v2", "notifications", "channels", _, "subscriptions"] => Place::Subscriptions,
        ["api", "v2", "users", "presences", "purecloud", "bulk"] => Place::BulkPresence,
        ["api", "v2", "users", ..] => Place::Users,
        ["api", "v2", "routing", "queues", _, "members"] => Place::QueueMembers,
        ["api", "v2", "groups", _, "members"] => Place::GroupMembers,
        ["api", "v2", "presence", "definitions"] => Place::Definitions,
        _ => Place::Other,
    }
}

async fn route(shared: &Arc<Shared>, request: Request) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| {
            form_urlencoded::parse(format!("x={segment}").as_bytes())
                .next()
                .map_or_else(String::new, |(_, v)| v.into_owned())
        })
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let place = place(&method, &segments);
    if let Some(answer) = arrive(shared, place).await? {
        return Ok(answer);
    }
    match (place, segments.as_slice()) {
        (Place::Login, _) => login(shared, request).await,
        (Place::Upgrade, [_, id]) => upgrade(shared, id, request).await,
        (_, segments) => {
            let caller = identify(shared, &request)?;
            let body = to_bytes(request.into_body(), BODY_MAX).await;
            let body = body.map_err(|_| refuse(StatusCode::PAYLOAD_TOO_LARGE, "request.too.large"))?;
            api(shared, &caller, &method, segments, &body)
        }
    }
}

fn api(shared: &Arc<Shared>, caller: &Caller, method: &Method, segments: &[&str], body: &[u8]) -> Answer {
    let get = *method == Method::GET;
    match segments {
        ["api", "v2", "tokens", "me"] => Ok(json_answer(
            StatusCode::OK,
            &json!({
                "organization": {"id": "sim-organization", "name": "Simulated"},
                "OAuthClient": {"id": caller.client, "name": caller.client, "organization": {"id": "sim-organization"}},
            }),
        )),
        ["api", "v2", "notifications", "channels"] if *method == Method::POST => {
            channels::create(shared, caller)
        }
        ["api", "v2", "notifications", "channels"] if get => {
            let whole_client = caller.query("includechannels") == Some("oauthclient");
            let entities: Vec<Value> = shared.read(|state| {
                let own = state.channels.iter().filter(|one| one.client == caller.client);
                own.filter(|one| whole_client || one.token == caller.token)
                    .map(|one| if one.token == caller.token { json!({"id": one.id}) } else { json!({}) })
                    .collect()
            });
            Ok(json_answer(StatusCode::OK, &json!({"entities": entities, "total": entities.len()})))
        }
        ["api", "v2", "notifications", "channels", id] => {
            channels::of_channel(shared, caller, method, id, false, body)
        }
        ["api", "v2", "notifications", "channels", id, "subscriptions"] => {
            channels::of_channel(shared, caller, method, id, true, body)
        }
        ["api", "v2", "users", "me"] => Err(refuse(StatusCode::BAD_REQUEST, "not.a.user")),
        ["api", "v2", "users"] if get => directory::users(shared, caller),
        ["api", "v2", "users", "presences", "purecloud", "bulk"] if get => directory::bulk(shared, caller),
        ["api", "v2", "routing", "queues", id, "members"] if get => {
            directory::members(shared, caller, id, true)
        }
        ["api", "v2", "groups", id, "members"] if get => directory::members(shared, caller, id, false),
        ["api", "v2", "presence", "definitions"] if get => {
            Ok(json_answer(StatusCode::OK, &shared.read(directory::definitions)))
        }
        _ => Err(refuse(StatusCode::NOT_FOUND, "not.found")),
    }
}

/// Counts a request and lets it suffer the fault that waits for it.
async fn arrive(shared: &Shared, place: Place) -> Result<Option<Response>, Refused> {
    let fault = shared.change(|state| {
        state.expire();
        *state.tally.requests.entry(place).or_default() += 1;
        let queue = state.faults.get_mut(&place)?;
        let front = queue.front_mut()?;
        let fault = front.clone();
        if front.times != u32::MAX {
            front.times = front.times.saturating_sub(1);
        }
        if front.times == 0 {
            queue.pop_front();
        }
        Some(fault)
    });
    let delay = fault.as_ref().map_or(Duration::ZERO, |fault| Duration::from_millis(fault.delay_ms));
    tokio::time::sleep(delay + shared.options.latency).await;
    let Some(fault) = fault else { return Ok(None) };
    if let Some(body) = fault.body {
        let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
        return Ok(Some(json_answer(StatusCode::OK, &body)));
    }
    let Some(status) = fault.status.and_then(|status| StatusCode::from_u16(status).ok()) else {
        return Ok(None);
    };
    let mut refused = refuse(status, fault.code.as_deref().unwrap_or("simulated.fault"));
    refused.oauth = place == Place::Login;
    refused.headers.extend(fault.retry_after.map(|value| ("retry-after", value)));
    Err(refused)
}

/// Client behind a valid token, within its rate.
fn identify(shared: &Shared, request: &Request) -> Result<Caller, Refused> {
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
    let query = request.uri().query().unwrap_or_default();
    let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    shared.change(|state| {
        let known = state.tokens.get(&token).map(|token| token.client.clone());
        let client = known.ok_or_else(|| refuse(StatusCode::UNAUTHORIZED, "bad.credentials"))?;
        count_request(shared, state, &client)?;
        match state.clients.get(&client).map(|client| client.state) {
            Some(ClientState::Active) => Ok(Caller { client, token, query }),
            Some(ClientState::IpNotAllowed) => Err(refuse(StatusCode::UNAUTHORIZED, "ip.not.authorized")),
            _ => Err(refuse(StatusCode::UNAUTHORIZED, "authentication.required")),
        }
    })
}

fn count_request(shared: &Shared, state: &mut State, client: &str) -> Result<(), Refused> {
    let (Some(limit), Some(client)) = (shared.options.rate_limit, state.clients.get_mut(client)) else {
        return Ok(());
    };
    let now = Instant::now();
    if now.duration_since(client.window.0) >= shared.options.rate_window {
        client.window = (now, 0);
    }
    client.window.1 += 1;
    if client.window.1 <= limit {
        return Ok(());
    }
    let wait = (client.window.0 + shared.options.rate_window).saturating_duration_since(now).as_secs() + 1;
    let mut refused = refuse(StatusCode::TOO_MANY_REQUESTS, "too.many.requests.retry.after");
    let headers = shared.options.rate_headers;
    if matches!(headers, RateHeaders::Both | RateHeaders::RetryAfter) {
        refused.headers.push(("retry-after", wait.to_string()));
    }
    if matches!(headers, RateHeaders::Both | RateHeaders::Reset) {
        refused.headers.push(("inin-ratelimit-reset", wait.to_string()));
    }
    refused.headers.push(("inin-ratelimit-allowed", limit.to_string()));
    refused.headers.push(("inin-ratelimit-count", client.window.1.to_string()));
    Err(refused)
}

/// `POST /oauth/token`
async fn login(shared: &Arc<Shared>, request: Request) -> Answer {
    let oauth = |status, code: &str| Refused { oauth: true, ..refuse(status, code) };
    let basic = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(
        |value| {
            let decoded = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
            let (id, secret) = String::from_utf8(decoded)
                .ok()?
                .split_once(':')
                .map(|(i, s)| (i.to_owned(), s.to_owned()))?;
            Some((id, secret))
        },
    );
    let body = to_bytes(request.into_body(), BODY_MAX).await.unwrap_or_default();
    let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    if field("grant_type").as_deref() != Some("client_credentials") {
        return Err(oauth(StatusCode::BAD_REQUEST, "unsupported_grant_type"));
    }
    let given = basic.or_else(|| Some((field("client_id")?, field("client_secret")?)));
    shared.change(|state| {
        let known = given.and_then(|(id, secret)| {
            let client = state.clients.get(&id)?;
            (client.secret == secret).then_some((id, client.state))
        });
        let Some((id, client)) = known else {
            return Err(oauth(StatusCode::UNAUTHORIZED, "invalid_client"));
        };
        if client == ClientState::Disabled {
            return Err(oauth(StatusCode::BAD_REQUEST, "invalid_client"));
        }
        let (token, lifetime) = (format!("cloud-{}", Uuid::new_v4().simple()), state.token_lifetime);
        let expires = state.now() + lifetime;
        state.tokens.insert(token.clone(), Token { client: id, expires });
        state.tally.tokens_issued += 1;
        let answer = json!({"access_token": token, "token_type": "bearer", "expires_in": lifetime.as_secs()});
        Ok(json_answer(StatusCode::OK, &answer))
    })
}

/// `GET /channels/{id}`, whose address is the capability.
async fn upgrade(shared: &Arc<Shared>, id: &str, request: Request) -> Answer {
    let gone = StatusCode::from_u16(shared.options.gone_status).unwrap_or(StatusCode::NOT_FOUND);
    if !shared.read(|state| state.channels.iter().any(|one| one.id == id)) {
        return Err(refuse(gone, "not.found"));
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|_| refuse(StatusCode::BAD_REQUEST, "bad.request"))?;
    // The channel for orders is there before the 101 leaves: a change made from now on waits for the socket.
    let (sender, orders) = mpsc::unbounded_channel();
    let number = shared.change(|state| {
        state.uses += 1;
        let number = state.uses;
        let channel = state.channels.iter_mut().find(|one| one.id == id)?;
        // A second socket makes the platform drop the first.
        if let Some((_, former)) = channel.socket.replace((number, sender)) {
            let _ = former.send(Order::Drop);
        }
        channel.sockets += 1;
        channel.used = number;
        state.opens.push_back((Instant::now(), channel.topics.keys().cloned().collect()));
        while state.opens.len() > 1_000 {
            state.opens.pop_front();
        }
        state.tally.sockets_opened += 1;
        Some(number)
    });
    let number = number.ok_or_else(|| refuse(gone, "not.found"))?;
    let (shared, channel) = (shared.clone(), id.to_owned());
    Ok(upgrade.on_upgrade(move |socket| socket::run(shared, channel, number, socket, orders)))
}

/// Verbs over REST: `POST /_sim/verbs`, `GET /_sim/snapshot`, `GET /_sim/people`, `GET /_sim/ledger`.
async fn control(shared: &Arc<Shared>, request: Request) -> Response {
    let answer = match (request.method().as_str(), request.uri().path()) {
        ("POST", "/_sim/verbs") => {
            let body = to_bytes(request.into_body(), usize::MAX).await.unwrap_or_default();
            let deeds = serde_json::from_slice::<Vec<Deed>>(&body)
                .or_else(|_| serde_json::from_slice::<Deed>(&body).map(|deed| vec![deed]));
            match deeds {
                Ok(deeds) => {
                    let touched: Vec<u64> = deeds.into_iter().map(|deed| obey(shared, deed)).collect();
                    json!({"touched": touched})
                }
                Err(error) => {
                    return json_answer(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()}));
                }
            }
        }
        (_, "/_sim/snapshot") => serde_json::to_value(shared.read(State::snapshot)).unwrap_or_default(),
        (_, "/_sim/people") => shared
            .read(|state| serde_json::to_value(state.people.values().collect::<Vec<_>>()))
            .unwrap_or_default(),
        (_, "/_sim/ledger") => shared
            .read(|state| serde_json::to_value(state.ledger.iter().collect::<Vec<_>>()))
            .unwrap_or_default(),
        _ => return json_answer(StatusCode::NOT_FOUND, &json!({"error": "no such resource"})),
    };
    json_answer(StatusCode::OK, &answer)
}
