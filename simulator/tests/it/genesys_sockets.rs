//! Sockets of the simulated Genesys Cloud, driven by an independent WebSocket client.

use crate::client::{Client, SECOND};
use genesys_simulator::genesys::{Fate, Junk, Target};
use genesys_simulator::http::Api;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn writes_changes_in_order_and_keeps_the_truth_about_each() {
    let genesys = crate::client::genesys().await;
    let client = Client::new(&genesys).await;
    let unwatched = genesys.set_presence("a", "AVAILABLE").await;
    assert_eq!((unwatched.number, unwatched.fate), (1, Fate::Unwatched));

    let mut socket = client.open("a", 60_000).await;
    let change = genesys.set_presence("a", "ON_QUEUE").await;
    assert_eq!((change.number, change.fate), (2, Fate::Written));
    assert_eq!((change.old.as_deref(), change.new.as_str()), (Some("AVAILABLE"), "ON_QUEUE"));
    for number in 3..50 {
        assert_eq!(genesys.push_presence("a", if number % 2 == 0 { "BUSY" } else { "AWAY" }), number);
    }
    for number in 2..50 {
        let frame = socket.json().await;
        assert_eq!(
            (&frame["type"], &frame["userId"], &frame["n"]),
            (&json!("update"), &json!("a"), &json!(number))
        );
    }
    let raw = genesys.set_presence_raw("a", "MEAL", r#"{"odd":true,"n":$n,"timestamp":"$timestamp"}"#).await;
    assert_eq!(socket.text().await, raw.frame.as_ref());
    assert_eq!(genesys.repeat_last(Target::All), 1);
    assert_eq!(socket.text().await, raw.frame.as_ref());
    genesys.wait_until(|snapshot| snapshot.written == 49, SECOND).await.unwrap();
    assert_eq!(genesys.state_of("a").as_deref(), Some("MEAL"));

    assert_eq!(genesys.silence(Target::Agent("a".into())), 1);
    assert_eq!(genesys.set_presence("a", "BREAK").await.fate, Fate::Lost);
    assert_eq!(genesys.resume(Target::All), 1);
    assert_eq!(genesys.set_presence("a", "AVAILABLE").await.fate, Fate::Written);
    assert_eq!(socket.json().await["state"], "AVAILABLE");
}

#[tokio::test]
async fn pings_both_ways_and_closes_with_1001_when_no_pong_comes() {
    let genesys = crate::client::genesys().await;
    let client = Client::new(&genesys).await;
    let mut socket = client.open("a", 100).await;
    // Tungstenite answers the ping frames by itself; the JSON pings are ours to answer.
    for _ in 0..3 {
        assert_eq!(socket.json().await, json!({"type": "ping"}));
        socket.send(Message::text(r#"{"type":"pong"}"#)).await;
    }
    socket.send(Message::text(r#"{"type":"ping"}"#)).await;
    let mut answer = socket.json().await;
    while answer["type"] == "ping" {
        answer = socket.json().await;
    }
    assert_eq!(answer, json!({"type": "pong"}));
    let snapshot = genesys.wait_until(|snapshot| snapshot.tally.rfc_pongs >= 3, SECOND).await.unwrap();
    assert!(snapshot.tally.json_pongs >= 3 && snapshot.tally.json_pings == 1);

    assert_eq!(socket.closed().await, Some((1001, "Going Away: pong missed".into())));
    let snapshot = genesys.wait_until(|snapshot| snapshot.connected() == 0, SECOND).await.unwrap();
    assert_eq!(snapshot.tally.pongs_missed, 1);
    // The connection itself is kept until it is deleted.
    assert_eq!(snapshot.connections.len(), 1);
}

#[tokio::test]
async fn opens_one_socket_a_connection_and_hears_how_it_is_closed() {
    let genesys = crate::client::genesys().await;
    let client = Client::new(&genesys).await;
    let (id, url) = client.provision("a", 60_000).await;
    let mut socket = Client::connect(&url).await.unwrap();
    assert_eq!(Client::connect(&url).await.err(), Some(409));
    assert_eq!(Client::connect(&format!("{url}x")).await.err(), Some(404));
    socket.close(1000, "Client initiated shutdown").await;
    let snapshot = genesys.wait_until(|snapshot| snapshot.connected() == 0, SECOND).await.unwrap();
    let close = snapshot.tally.closes.back().unwrap();
    assert_eq!((close.code, close.reason.as_str()), (Some(1000), "Client initiated shutdown"));

    let mut socket = Client::connect(&url).await.unwrap();
    assert_eq!(client.api.delete(&format!("/api/v2/realtime/connections/{id}")).await.unwrap().status, 204);
    assert_eq!(socket.closed().await, Some((1000, "connection deleted".into())));
}

#[tokio::test]
async fn ends_sockets_in_every_way() {
    let genesys = crate::client::genesys().await;
    let client = Client::new(&genesys).await;
    let mut socket = client.open("a", 60_000).await;
    assert_eq!(genesys.close_sockets(Target::All, 1012, "restart"), 1);
    assert_eq!(socket.closed().await, Some((1012, "restart".into())));

    let mut socket = client.open("b", 60_000).await;
    assert_eq!(genesys.drop_sockets(Target::Agent("b".into())), 1);
    assert_eq!(socket.closed().await, None);
    let mut socket = client.open("c", 60_000).await;
    assert_eq!(genesys.reset_sockets(Target::All), 1);
    assert_eq!(socket.closed().await, None);
    genesys.wait_until(|snapshot| snapshot.tally.sockets_ended == 3, SECOND).await.unwrap();
    assert_eq!(genesys.forget_connections(Target::All), 3);

    let mut socket = client.open("d", 60_000).await;
    genesys.stop().await;
    assert_eq!(socket.closed().await, None);
    assert!(Api::new(&genesys.api_url()).get("/api/v2/users/me").await.is_err());
}

#[tokio::test]
async fn sends_every_kind_of_junk() {
    let genesys = crate::client::genesys().await;
    let client = Client::new(&genesys).await;
    let mut socket = client.open("a", 60_000).await;
    for (junk, wanted) in [
        (Junk::NotJson, "this is not JSON"),
        (Junk::EmptyObject, "{}"),
        (Junk::Array, "[]"),
        (Junk::Long(100_000), ""),
        (Junk::HugeNumber, ""),
        (Junk::NulEscape, ""),
    ] {
        genesys.send_junk(Target::All, junk.clone());
        let text = socket.text().await;
        assert!(wanted.is_empty() || text == wanted, "{junk:?} {text}");
        if junk == Junk::Long(100_000) {
            assert_eq!(text.len(), 100_000);
        }
    }
    genesys.send_junk(Target::All, Junk::Pings(1_000));
    genesys.send_text(Target::All, r#"{"after":"pings"}"#);
    assert_eq!(socket.json().await["after"], "pings");
    // The client writes its answers while it waits for more.
    let waiting = tokio::spawn(async move { socket.closed().await });
    let answered = genesys.wait_until(|snapshot| snapshot.tally.other_pongs > 0, SECOND).await;
    assert!(answered.is_ok());
    waiting.abort();
    // Each of these breaks a rule that the client knows, so that it gives up.
    for junk in [
        Junk::InvalidUtf8,
        Junk::OversizedHeader,
        Junk::Masked,
        Junk::ReservedBit,
        Junk::UnknownOpcode,
        Junk::IllegalClose,
        Junk::Fragments(200_000),
    ] {
        genesys.forget_connections(Target::All);
        let mut socket = client.open("a", 60_000).await;
        genesys.send_junk(Target::All, junk.clone());
        assert!(socket.broken().await, "{junk:?}");
    }
}
