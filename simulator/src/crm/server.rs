//! Accepting, reading, judging and recording POSTs.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::{Ended, carry_out};
use super::behaviour::Behaviour;
use super::post::{Event, Post};
use super::record::{Desk, Hangup};
use super::request::{self, NoRequest, Request};
use super::signature::{self, Distrust, Signed};

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
    loop {
        let request = match request::read(&mut stream, &mut buffer).await {
            Ok(request) => request,
            Err(NoRequest::Closed) => return,
            Err(NoRequest::Cut) => return desk.complain(format!("{peer} left in the middle of a request")),
            Err(NoRequest::Refused(status, why)) => {
                desk.complain(format!("{peer} was refused with {status}: {why}"));
                carry_out(&Behaviour::status(status).header("connection", "close"), &mut stream).await;
                return;
            }
        };
        if request.method != "POST" {
            desk.complain(format!("{peer} sent {} {}", request.method, request.target));
            carry_out(&Behaviour::status(405).header("allow", "POST"), &mut stream).await;
            return;
        }
        let keep_alive = request.keep_alive;
        let (arrived, arrived_at) = (Instant::now(), OffsetDateTime::now_utc());
        let verdict = judge(&desk, &request, arrived_at);
        let event = Event::read(&request.body);
        let Request { target, headers, body, .. } = request;
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
        let post = desk.record(post);
        match carry_out(&post.behaviour, &mut stream).await {
            Ended::Answered if keep_alive => {}
            Ended::Answered | Ended::Over => return,
            Ended::HungUp(sent) => {
                return desk.hung_up(Hangup { post: post.number, after: arrived.elapsed(), sent });
            }
        }
    }
}

/// Checks the three headers and the signature.
fn judge(desk: &Desk, request: &Request, at: OffsetDateTime) -> Result<(), Distrust> {
    let once = |wanted: &'static str| {
        let mut values =
            request.headers.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        values.next().filter(|_| values.next().is_none()).ok_or(Distrust::Header(wanted))
    };
    let signed = Signed {
        id: once("webhook-id")?,
        timestamp: once("webhook-timestamp")?,
        signatures: once("webhook-signature")?,
        body: &request.body,
    };
    let path = request.target.split('?').next().unwrap_or_default();
    signature::verify(signed, &desk.secrets(path), at.unix_timestamp(), desk.tolerance)
}
