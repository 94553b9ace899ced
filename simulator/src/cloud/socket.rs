//! One open WebSocket of a channel, the server's side: a task that hears orders, the client and the clock.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::order::Order;
use super::state::Shared;
use crate::listen::stopped;

/// Time the client has to answer a close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Runs a socket until it ends, then takes it off its channel.
pub(super) async fn run(
    shared: Arc<Shared>,
    channel: String,
    number: u64,
    mut socket: WebSocket,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    live(&shared, &channel, &mut socket, &mut orders).await;
    shared.change(|state| {
        state.tally.sockets_ended += 1;
        let own =
            state.channels.iter_mut().find(|one| one.socket.as_ref().is_some_and(|(n, _)| *n == number));
        if let Some(own) = own {
            own.socket = None;
            if let Some(Some(Order::Event { number, .. })) = own.delayed.take() {
                state.settled(number, false);
            }
        }
        state.ghosts.retain(|(n, _)| *n != number);
        orders.close();
        while let Ok(order) = orders.try_recv() {
            if let Order::Event { number, .. } = order {
                state.settled(number, false);
            }
        }
    });
}

async fn live(
    shared: &Arc<Shared>,
    channel: &str,
    socket: &mut WebSocket,
    orders: &mut mpsc::UnboundedReceiver<Order>,
) {
    let mut stop = shared.stop.subscribe();
    let every = shared.options.heartbeat;
    let mut heartbeat = interval_at(tokio::time::Instant::now() + every, every);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut silent = false;
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            order = orders.recv() => match order {
                None | Some(Order::Drop) => return,
                Some(Order::Silence(on)) => silent = on,
                Some(Order::Event { number, frame }) => {
                    let written = !silent && socket.send(Message::Text(frame.as_ref().into())).await.is_ok();
                    shared.change(|state| state.settled(number, written));
                }
                Some(Order::Say(text)) if !silent => drop(socket.send(Message::Text(text.into())).await),
                Some(Order::Binary(bytes)) if !silent => drop(socket.send(Message::Binary(bytes.into())).await),
                Some(Order::Say(_) | Order::Binary(_)) => {}
                Some(Order::Close(code, reason)) => {
                    let frame = CloseFrame { code, reason: reason.into() };
                    let _ = socket.send(Message::Close(Some(frame))).await;
                    let _ = timeout(CLOSE_WAIT, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
                    return;
                }
            },
            _ = heartbeat.tick() => if !silent {
                let text = r#"{"topicName":"channel.metadata","eventBody":{"message":"WebSocket Heartbeat"}}"#;
                if socket.send(Message::Text(text.into())).await.is_err() {
                    return;
                }
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    if let Some(answer) = answer(shared, channel, &text)
                        && !silent
                    {
                        let _ = socket.send(Message::Text(answer.into())).await;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

/// Answer to a client's message.
fn answer(shared: &Shared, channel: &str, text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    match message.get("message").and_then(Value::as_str) {
        Some("ping") => {
            shared.change(|state| state.tally.pings += 1);
            Some(r#"{"topicName":"channel.metadata","eventBody":{"message":"pong"}}"#.to_owned())
        }
        Some(word @ ("subscribe" | "unsubscribe")) => {
            let topics: Vec<String> = message
                .get("topics")
                .and_then(Value::as_array)
                .map(|topics| topics.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default();
            let outcome = shared.change(|state| state.in_band(channel, word, &topics));
            let (result, status) = match outcome {
                Ok(()) if word == "subscribe" => ("200", "subscribed"),
                Ok(()) => ("200", "unsubscribed"),
                Err(result) => (result, "failure"),
            };
            let correlation = message.get("correlationId").cloned().unwrap_or_default();
            Some(
                serde_json::json!({"result": result, "status": status, "message": status, "correlationId": correlation})
                    .to_string(),
            )
        }
        _ => {
            shared.change(|state| {
                state.tally.surprises.push_back(format!("message {text:?}"));
                while state.tally.surprises.len() > 1_000 {
                    state.tally.surprises.pop_front();
                }
            });
            None
        }
    }
}
