//! WebSocket handshake, by hand, checked by RFC 6455 section 4.2.1.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::answers::Refusal;
use super::faults::Route;
use super::snapshot::OpenSeen;
use super::socket::{self, Identity};
use super::world::Shared;

/// Constant of RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `GET /realtime/ws/{key}`
pub(super) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Path(key): Path<String>,
    mut request: Request,
) -> Result<Response, Refusal> {
    super::rest::arrive(&shared, Route::Upgrade, request.headers()).await?;
    let accept = judge(&request).map_err(Refusal::bad_request)?;

    // The channel for orders is there before the 101 leaves: a change made from now on waits for the socket
    // instead of being written down as unwatched while the client already believes that it listens.
    let (sender, mut orders) = mpsc::unbounded_channel();
    let identity = shared.change(|world| {
        let single_use = shared.options.single_use_ws_url;
        let connection = world.connections.iter_mut().find(|connection| connection.key == key);
        let connection = connection.ok_or_else(|| Refusal::not_found("no such connection"))?;
        if connection.socket.is_some() {
            return Err(Refusal::conflict("the connection already has a socket"));
        }
        if single_use && connection.sockets > 0 {
            return Err(Refusal::gone("the connection was used before"));
        }
        connection.socket = Some(sender);
        connection.sockets += 1;
        let identity = Identity {
            connection_id: connection.id.clone(),
            user_id: connection.user.clone(),
            heartbeat: connection.heartbeat,
        };
        world.tally.open(OpenSeen {
            connection_id: identity.connection_id.clone(),
            user_id: identity.user_id.clone(),
            at: Instant::now(),
        });
        Ok(identity)
    })?;

    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let parts = match upgrading.await {
            Ok(upgraded) => upgraded.downcast::<TokioIo<TcpStream>>().ok(),
            Err(_) => None,
        };
        match parts {
            Some(parts) => socket::run(shared, identity, parts.io.into_inner(), parts.read_buf, orders).await,
            None => shared.change(|world| socket::end(world, &identity.connection_id, &mut orders)),
        }
    });

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    match HeaderValue::from_str(&accept) {
        Ok(accept) => headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept),
        // Base64 is always a legal header value.
        Err(_) => return Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
    };
    Ok(response)
}

/// Checks the handshake and computes its `Sec-WebSocket-Accept`, or says which rule it breaks.
fn judge(request: &Request) -> Result<String, &'static str> {
    let headers = request.headers();
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err("a WebSocket handshake is a GET of HTTP/1.1");
    }
    if !lists(headers, &header::CONNECTION, "upgrade") || !lists(headers, &header::UPGRADE, "websocket") {
        return Err("Connection: Upgrade and Upgrade: websocket are required");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err("Sec-WebSocket-Version must be 13");
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if STANDARD.decode(key).map(|nonce| nonce.len()) != Ok(16) {
        return Err("Sec-WebSocket-Key must be 16 bytes in base64");
    }
    Ok(accept(key))
}

fn accept(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// Whether a header that is a list of tokens holds one, whatever its case.
fn lists(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    #[test]
    fn computes_the_accept_of_the_rfc() {
        assert_eq!(super::accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
