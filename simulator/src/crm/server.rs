//! Accepting, reading, judging and recording POSTs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::{Ended, carry_out};
use super::behaviour::Behaviour;
use super::late::Late;
use super::post::{Event, Post};
use super::record::{Desk, Hangup};
use super::request::{self, NoRequest, Request};
use super::signature::{self, Distrust, Secret, Signed};

/// Accepts connections until the CRM stops; then drops every one of them.
pub(super) async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    let mut stop = desk.stop.subscribe();
    let mut clients = JoinSet::new();
    let mut connection = 0;
    loop {
        let accepted = tokio::select! {
            _ = async { stop.wait_for(|stop| *stop).await.is_ok() } => return,
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next() => continue,
        };
        // Out of file descriptors, or a client that was gone before we looked: the next accept decides.
        let Ok((stream, _)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        connection += 1;
        clients.spawn(converse(desk.clone(), stream, connection));
    }
}

/// Serves one TCP connection, request by request.
async fn converse(desk: Arc<Desk>, mut stream: TcpStream, connection: u64) {
    // Answers are single small writes; Nagle would only delay them.
    let _ = stream.set_nodelay(true);
    let Ok(peer) = stream.peer_addr() else { return };
    let mut buffer = BytesMut::new();
    let mut posts = 0;
    loop {
        let request = match request::read(&mut stream, &mut buffer).await {
            Ok(request) => request,
            Err(NoRequest::Closed) => return,
            Err(NoRequest::Cut) => return desk.complain(format!("{peer} left in the middle of a request")),
            Err(NoRequest::Refused(status, why)) => {
                desk.complain(format!("{peer} was refused with {status}: {why}"));
                let refusal = Behaviour::status(status).header("connection", "close");
                carry_out(&refusal, &Bytes::new(), &mut stream).await;
                return;
            }
        };
        let keep_alive = request.keep_alive;
        if let Some(allowed) = handshake(&desk, &request) {
            match carry_out(&allowed, &request.body, &mut stream).await {
                Ended::Answered if keep_alive => continue,
                _ => return,
            }
        }
        if request.method != "POST" {
            desk.complain(format!("{peer} sent {} {}", request.method, request.target));
            let refusal = Behaviour::status(405).header("allow", "POST");
            carry_out(&refusal, &request.body, &mut stream).await;
            return;
        }
        let (arrived, arrived_at) = (Instant::now(), OffsetDateTime::now_utc());
        let Request { target, headers, body, .. } = request;
        let headers: Arc<[(String, String)]> = headers.into();
        let secrets = desk.secrets(target.split('?').next().unwrap_or_default());
        let evidence = (headers.clone(), body.clone(), desk.tolerance);
        let verdict = Late::new(move || {
            let (headers, body, tolerance) = &evidence;
            judge(headers, body, &secrets, arrived_at, *tolerance)
        });
        let to_read = body.clone();
        let event = Late::new(move || Event::read(&to_read));
        let (number, behaviour) = (0, Behaviour::default());
        let post = Post {
            number,
            target,
            headers,
            body,
            arrived,
            arrived_at,
            verdict,
            behaviour,
            connection,
            peer,
            event,
        };
        posts += 1;
        let post = desk.record(post, posts);
        if let Some(observer) = &desk.observer {
            observer.arrived(&post);
        }
        let repeated = match post.behaviour {
            Behaviour::EchoRequest { .. } => page(&post),
            _ => post.body.clone(),
        };
        let ended = carry_out(&post.behaviour, &repeated, &mut stream).await;
        if let (Ended::Answered, Some(observer)) = (&ended, &desk.observer) {
            observer.answered(&post);
        }
        match ended {
            Ended::Answered if keep_alive => {}
            Ended::Answered | Ended::Over => return,
            Ended::HungUp(sent) => {
                return desk.hung_up(Hangup { post: post.number, after: arrived.elapsed(), sent });
            }
        }
    }
}

/// The answer to the handshake of CloudEvents' web hooks, if it is one and somebody is allowed to POST here.
fn handshake(desk: &Desk, request: &Request) -> Option<Behaviour> {
    let origin = request.headers.iter().find(|(name, _)| name == "webhook-request-origin");
    let (_, origin) = origin.filter(|_| request.method == "OPTIONS")?;
    let (allowed, rate) = desk.shake(origin)?;
    let answer = Behaviour::status(200).header("webhook-allowed-origin", &allowed);
    Some(match rate {
        Some(rate) => answer.header("webhook-allowed-rate", &rate.to_string()),
        None => answer,
    })
}

/// Checks the three headers and the signature.
fn judge(
    headers: &[(String, String)],
    body: &Bytes,
    secrets: &[Secret],
    at: OffsetDateTime,
    tolerance: Duration,
) -> Result<(), Distrust> {
    let once = |wanted: &'static str| {
        let mut values = headers.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        values.next().filter(|_| values.next().is_none()).ok_or(Distrust::Header(wanted))
    };
    let signed = Signed {
        id: once("webhook-id")?,
        timestamp: once("webhook-timestamp")?,
        signatures: once("webhook-signature")?,
        body,
    };
    signature::verify(signed, secrets, at.unix_timestamp(), tolerance)
}

/// The request as an error page shows it that was written to find faults.
fn page(post: &Post) -> Bytes {
    let headers: String = post.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    let text = [headers.as_bytes(), b"\n", &post.body].concat();
    [text.as_slice(), b"\n", BASE64.encode(&text).as_bytes()].concat().into()
}
