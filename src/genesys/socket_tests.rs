//! The socket against a peer that speaks raw bytes, and its rules without one.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A socket whose handshake is done, and its peer as raw bytes.
fn pair() -> (Socket, Peer) {
    let (ours, theirs) = duplex(1 << 20);
    let boxed: BoxedSocket = Box::new(ours);
    (Socket::new(Framed::new(boxed, Codec::new().client_mode())), Peer(theirs))
}

struct Peer(DuplexStream);

impl Peer {
    /// Sends a frame as a server does: unmasked.
    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut bytes = vec![first];
        match u16::try_from(payload.len()) {
            Ok(length) if length < 126 => bytes.push(u8::try_from(length).unwrap()),
            Ok(length) => {
                bytes.push(126);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                bytes.push(127);
                bytes.extend_from_slice(&u64::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        bytes.extend_from_slice(payload);
        self.0.write_all(&bytes).await.unwrap();
    }

    /// Reads a frame as a client must send it: masked.
    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 6];
        self.0.read_exact(&mut head).await.unwrap();
        assert_eq!(head[1] & 0x80, 0x80, "a client masks");
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        self.0.read_exact(&mut payload).await.unwrap();
        for (byte, mask) in payload.iter_mut().zip(head[2..].iter().cycle()) {
            *byte ^= mask;
        }
        (head[0], payload)
    }

    async fn receive_close(&mut self) -> (u16, String) {
        let (first, payload) = self.receive().await;
        assert_eq!(first, CLOSE);
        let code = u16::from_be_bytes(payload[..2].try_into().unwrap());
        (code, String::from_utf8(payload[2..].to_vec()).unwrap())
    }
}

async fn closed(socket: &mut Socket) -> Closed {
    match socket.next().await {
        Some(Incoming::Closed(closed)) => closed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_arrive_whole_whatever_frames_they_came_in() {
    let (mut socket, mut peer) = pair();
    peer.send(TEXT, "grüß".as_bytes()).await;
    peer.send(BINARY, &[0, 159]).await;
    peer.send(0x01, b"pre").await;
    peer.send(PING, b"between").await;
    peer.send(0x80, b"sence").await;
    assert_eq!(socket.next().await, Some(Incoming::Text("grüß".to_owned())));
    assert_eq!(socket.next().await, Some(Incoming::Binary(Bytes::from_static(&[0, 159]))));
    assert_eq!(socket.next().await, Some(Incoming::Ping));
    assert_eq!(socket.next().await, Some(Incoming::Text("presence".to_owned())));
    assert_eq!(peer.receive().await, (PONG, b"between".to_vec()));
}

#[tokio::test]
async fn what_breaks_a_rule_ends_the_socket_with_its_code() {
    let too_large = vec![b' '; FRAME_BYTES_MAX + 1];
    let cases: [(&str, u8, &[u8], u16); 6] = [
        ("text that is not UTF-8", TEXT, &[0xff, 0xfe], 1007),
        ("a frame too large", TEXT, &too_large, 1009),
        ("an unknown opcode", 0x83, b"", 1002),
        ("a continuation of nothing", 0x80, b"x", 1002),
        ("a ping too long", PING, &[b' '; 126], 1002),
        ("a ping in pieces", 0x09, b"x", 1002),
    ];
    for (name, first, payload, code) in cases {
        let (mut socket, mut peer) = pair();
        peer.send(first, payload).await;
        let end = closed(&mut socket).await;
        assert_eq!((end.code, end.violation), (code, true), "{name}: {end:?}");
        assert_eq!(socket.next().await, None, "{name}: nothing follows the end");
        assert_eq!(peer.receive_close().await.0, code, "{name}: the peer is told");
    }
}

#[tokio::test]
async fn a_frame_that_declares_a_tebibyte_ends_the_socket_before_any_of_it_is_sent() {
    let (mut socket, mut peer) = pair();
    peer.0.write_all(&[TEXT, 127]).await.unwrap();
    peer.0.write_all(&(1_u64 << 40).to_be_bytes()).await.unwrap();
    assert_eq!(closed(&mut socket).await.code, 1009);
}

#[tokio::test]
async fn endless_pieces_end_at_the_total_limit() {
    let (mut socket, mut peer) = pair();
    peer.send(0x01, b"").await;
    let pieces = MESSAGE_BYTES_MAX / 32_768 + 1;
    for _ in 0..pieces {
        peer.send(0x00, &[b' '; 32_768]).await;
    }
    assert_eq!(closed(&mut socket).await.code, 1009);
}

#[tokio::test]
async fn a_message_of_exactly_the_limits_passes() {
    let (mut socket, mut peer) = pair();
    peer.send(TEXT, &[b' '; FRAME_BYTES_MAX]).await;
    assert!(matches!(socket.next().await, Some(Incoming::Text(text)) if text.len() == FRAME_BYTES_MAX));
}

#[tokio::test]
async fn a_close_of_the_peer_is_answered_and_told_with_code_and_reason() {
    let (mut socket, mut peer) = pair();
    peer.send(CLOSE, b"\x03\xf4restarting\x07").await;
    let end = closed(&mut socket).await;
    let expected = Closed { code: 1012, reason: "restarting".to_owned(), violation: false };
    assert_eq!(end, expected, "without control characters");
    assert_eq!(peer.receive_close().await.0, 1012);
    let (mut socket, mut peer) = pair();
    peer.send(CLOSE, b"").await;
    assert_eq!(closed(&mut socket).await.code, 1005);
}

#[tokio::test]
async fn our_close_says_code_and_reason_and_ends_when_it_is_answered() {
    let (mut socket, mut peer) = pair();
    socket.speaker().close(1000, "Client initiated shutdown");
    let (end, told) = tokio::join!(closed(&mut socket), async {
        let told = peer.receive_close().await;
        peer.send(CLOSE, &1000_u16.to_be_bytes()).await;
        told
    });
    assert_eq!(told, (1000, "Client initiated shutdown".to_owned()));
    assert_eq!((end.code, end.violation), (1000, false));
}

#[tokio::test]
async fn our_close_does_not_wait_for_a_peer_that_never_answers() {
    let (mut socket, mut peer) = pair();
    socket.speaker().close(1000, "bye");
    let begun = Instant::now();
    assert_eq!(closed(&mut socket).await.code, 1000);
    assert!(begun.elapsed() < CLOSE_WITHIN * 3);
    assert_eq!(peer.receive_close().await.0, 1000);
}

#[tokio::test]
async fn a_peer_that_vanishes_is_an_abnormal_end() {
    let (mut socket, peer) = pair();
    drop(peer);
    let end = closed(&mut socket).await;
    assert_eq!((end.code, end.violation), (1006, false));
}

#[tokio::test]
async fn a_burst_of_messages_that_each_want_an_answer_gets_them_all() {
    const BURST: usize = 5000;
    let (mut socket, mut peer) = pair();
    for _ in 0..BURST {
        peer.send(TEXT, b"ping").await;
    }
    let speaker = socket.speaker();
    let answering = async {
        for number in 0..BURST {
            assert_eq!(socket.next().await, Some(Incoming::Text("ping".to_owned())));
            assert!(speaker.text("pong".to_owned()), "no room for answer {number}");
        }
        speaker.close(1000, "done");
        while socket.next().await.is_some() {}
    };
    let reading = async {
        for _ in 0..BURST {
            assert_eq!(peer.receive().await, (TEXT, b"pong".to_vec()));
        }
        peer.receive_close().await;
        peer.send(CLOSE, &1000_u16.to_be_bytes()).await;
    };
    tokio::join!(answering, reading);
}

#[test]
fn a_length_is_read_from_the_header_alone() {
    let mut header = BytesMut::from(&[TEXT, 127][..]);
    header.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    assert_eq!(declared_length(&header), Some(1 << 40));
    let refused = CappedCodec(Codec::new().client_mode()).decode(&mut header);
    assert!(matches!(refused, Err(ProtocolError::Overflow)), "{refused:?}");
    assert_eq!(declared_length(&[TEXT, 126, 1]), None);
    assert_eq!(declared_length(&[TEXT, 5]), Some(5));
}
