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
        let bytes = frame(first, payload);
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
    let cases: [(&str, u8, &[u8], u16); 7] = [
        ("text that is not UTF-8", TEXT, &[0xff, 0xfe], 1007),
        ("a frame too large", TEXT, &too_large, 1009),
        ("an unknown opcode", 0x83, b"", 1002),
        ("a reserved bit", 0xc1, b"x", 1002),
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
    socket.sender().close(1000, "Client initiated shutdown");
    let (end, received) = tokio::join!(closed(&mut socket), async {
        let received = peer.receive_close().await;
        peer.send(CLOSE, &1000_u16.to_be_bytes()).await;
        received
    });
    assert_eq!(received, (1000, "Client initiated shutdown".to_owned()));
    assert_eq!((end.code, end.violation), (1000, false));
}

#[tokio::test]
async fn our_close_does_not_wait_for_a_peer_that_never_answers() {
    let (mut socket, mut peer) = pair();
    socket.sender().close(1000, "bye");
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
    let sender = socket.sender();
    let answering = async {
        for number in 0..BURST {
            assert_eq!(socket.next().await, Some(Incoming::Text("ping".to_owned())));
            assert!(sender.text("pong".to_owned()), "no room for answer {number}");
        }
        sender.close(1000, "done");
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

/// What a conversation comes to: the messages that arrived, and the code of its end if there was one.
async fn outcome(bytes: &[u8], chunk: usize) -> (Vec<Incoming>, Option<u16>) {
    let (mut socket, mut peer) = pair();
    let speaking = async {
        for part in bytes.chunks(chunk) {
            peer.0.write_all(part).await.unwrap();
            peer.0.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        peer.0.shutdown().await.unwrap();
        peer
    };
    let listening = async {
        let mut arrived = Vec::new();
        loop {
            match socket.next().await {
                Some(Incoming::Closed(end)) => return (arrived, Some(end.code)),
                Some(incoming) => arrived.push(incoming),
                None => return (arrived, None),
            }
        }
    };
    let (_peer, (arrived, code)) = tokio::join!(speaking, listening);
    (arrived, code.filter(|code| *code != 1006))
}

/// A frame as a server sends it: first byte, payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
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
    bytes
}

fn text(text: &str) -> Incoming {
    Incoming::Text(text.to_owned())
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// Name, bytes, what arrives, and the code of the end if there is one.
type Case = (String, Vec<u8>, Vec<Incoming>, Option<u16>);

/// The families of the usual conformance suite for WebSockets, as far as they concern a client that speaks no
/// extension: framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closes. Each whole and byte by
/// byte.
#[tokio::test]
async fn every_family_of_frames_is_taken_or_refused_as_the_rfc_says() {
    let mut cases: Vec<Case> = Vec::new();
    let mut case = |name: &str, frames: &[Vec<u8>], arrive: &[Incoming], code: Option<u16>| {
        cases.push((name.to_owned(), frames.concat(), arrive.to_vec(), code));
    };
    // Framing: each form of a length.
    for length in [0, 1, 125, 126, 127, 128, 1000] {
        let body = "x".repeat(length);
        case(&format!("text of {length}"), &[frame(TEXT, body.as_bytes())], &[text(&body)], None);
        let binary = Incoming::Binary(vec![0xfe; length].into());
        case(&format!("binary of {length}"), &[frame(BINARY, &vec![0xfe; length])], &[binary], None);
    }
    let padded = [&[TEXT, 127][..], &5_u64.to_be_bytes(), b"hello"].concat();
    case("a length in more bytes than it needs", &[padded], &[text("hello")], None);
    case("a negative length", &[[&[TEXT, 127][..], &u64::MAX.to_be_bytes()].concat()], &[], Some(1009));
    // Pings and pongs.
    for length in [0, 125] {
        case(&format!("ping of {length}"), &[frame(PING, &vec![0xff; length])], &[Incoming::Ping], None);
    }
    for first in [PING, PONG, CLOSE] {
        case(&format!("control {first:#x} of 126"), &[frame(first, &[b'x'; 126])], &[], Some(1002));
        case(&format!("control {first:#x} in pieces"), &[frame(first & 0x7f, b"x")], &[], Some(1002));
    }
    let pong = Incoming::Pong(Bytes::from_static(b"unasked"));
    case("pong nobody asked for", &[frame(PONG, b"unasked"), frame(TEXT, b"on")], &[pong, text("on")], None);
    case("ten pings", &vec![frame(PING, b"p"); 10], &vec![Incoming::Ping; 10], None);
    // Reserved bits, on every kind of frame, and after a good one.
    for bits in 1..=7_u8 {
        for opcode in [TEXT, BINARY, PING, PONG, CLOSE, 0x01] {
            let reserved = frame(opcode | (bits << 4), b"x");
            case(
                &format!("bits {bits} on {opcode:#x}"),
                &[frame(TEXT, b"a"), reserved],
                &[text("a")],
                Some(1002),
            );
        }
    }
    // Opcodes without a meaning.
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        for first in [0x80 | opcode, opcode] {
            case(&format!("opcode {first:#x}"), &[frame(first, b""), frame(TEXT, b"x")], &[], Some(1002));
        }
    }
    // Masked: only a client masks.
    case("masked", &[vec![TEXT, 0x81, 1, 2, 3, 4, b'x' ^ 1]], &[], Some(1002));
    // Fragmentation.
    let pieces = |parts: &[(u8, &str)]| -> Vec<Vec<u8>> {
        parts.iter().map(|(first, part)| frame(*first, part.as_bytes())).collect()
    };
    case("two pieces", &pieces(&[(0x01, "a"), (0x80, "b")]), &[text("ab")], None);
    case("empty pieces", &pieces(&[(0x01, ""), (0x00, ""), (0x80, "")]), &[text("")], None);
    let around = pieces(&[(0x01, "a"), (PING, "p"), (0x00, "b"), (PONG, "q"), (0x80, "c")]);
    let between = [Incoming::Ping, Incoming::Pong(Bytes::from_static(b"q")), text("abc")];
    case("control frames between pieces", &around, &between, None);
    for (name, parts) in [
        ("an end of nothing", &[(0x80, "x"), (TEXT, "y")][..]),
        ("a piece of nothing", &[(0x00, "x"), (TEXT, "y")]),
        ("a second beginning", &[(0x01, "a"), (0x01, "b"), (0x80, "c")]),
        ("a whole text among pieces", &[(0x01, "a"), (TEXT, "b"), (0x80, "c")]),
        ("a whole binary among pieces", &[(0x01, "a"), (BINARY, "b"), (0x80, "c")]),
        ("binary begun among pieces", &[(0x02, "a"), (0x02, "b")]),
    ] {
        case(name, &pieces(parts), &[], Some(1002));
    }
    case(
        "an end after the end",
        &pieces(&[(0x01, "a"), (0x80, "b"), (0x80, "c")]),
        &[text("ab")],
        Some(1002),
    );
    // UTF-8.
    let whole = "κόσμε 😀 \u{fffd}\u{10ffff}\u{0}";
    case("good UTF-8", &[frame(TEXT, whole.as_bytes())], &[text(whole)], None);
    let split: Vec<Vec<u8>> = whole
        .bytes()
        .enumerate()
        .map(|(at, byte)| {
            let first = if at == 0 { 0x01 } else { 0x00 };
            frame(if at == whole.len() - 1 { 0x80 } else { first }, &[byte])
        })
        .collect();
    case("characters cut in two", &split, &[text(whole)], None);
    for bad in [
        &b"\xce\xba\xe1\xbd"[..], // ends within a character
        b"\x80",                  // goes on with nothing
        b"\xc0\xaf",              // overlong
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80", // half of a surrogate pair
        b"\xed\xad\xbf\xed\xb0\x80",
        b"\xf4\x90\x80\x80", // above the last character
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xfe",
        b"ok \xff",
    ] {
        case(&format!("{bad:x?}"), &[frame(TEXT, bad)], &[], Some(1007));
        case(&format!("{bad:x?} in pieces"), &[frame(0x01, b"good "), frame(0x80, bad)], &[], Some(1007));
        let binary = Incoming::Binary(Bytes::copy_from_slice(bad));
        case(&format!("{bad:x?} as binary"), &[frame(BINARY, bad)], &[binary], None);
    }
    // Closes.
    case("close without a code", &[frame(CLOSE, b"")], &[], Some(1005));
    case("close of one byte", &[frame(CLOSE, b"\x03")], &[], Some(1002));
    case("text after a close", &[close(1000, b""), frame(TEXT, b"late")], &[], Some(1000));
    case("close among pieces", &[frame(0x01, b"a"), close(1001, b"bye")], &[], Some(1001));
    case("the longest reason", &[close(1000, &[b'x'; 123])], &[], Some(1000));
    case("a reason that is not UTF-8", &[close(1000, b"\xce\xba\xe1\xbd")], &[], Some(1002));
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 3000, 3999, 4000, 4999] {
        case(&format!("close {code}"), &[close(code, b"why")], &[], Some(code));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        case(&format!("close {code}"), &[close(code, b"why")], &[], Some(1002));
    }
    assert!(cases.len() > 150, "{} cases", cases.len());
    for (name, bytes, arrive, code) in &cases {
        for chunk in [bytes.len().max(1), 1] {
            let came = outcome(bytes, chunk).await;
            assert_eq!(came, (arrive.clone(), *code), "{name}, {chunk} bytes at a time");
        }
    }
}

#[tokio::test]
async fn empty_pieces_end_too() {
    let (mut socket, mut peer) = pair();
    peer.send(0x01, b"").await;
    for _ in 0..PIECES_MAX {
        peer.send(0x00, b"").await;
    }
    assert_eq!(closed(&mut socket).await.code, 1009);
    let (mut socket, mut peer) = pair();
    for _ in 0..PIECES_MAX {
        peer.send(0x01, b"").await;
        peer.send(0x80, b"").await;
    }
    for _ in 0..PIECES_MAX {
        assert_eq!(socket.next().await, Some(text("")), "each message has pieces of its own");
    }
}

#[tokio::test]
async fn a_peer_that_sends_as_fast_as_it_can_lets_others_have_their_turn() {
    const BURST: usize = 20_000;
    let (mut socket, mut peer) = pair();
    for _ in 0..BURST {
        peer.send(TEXT, b"{}").await;
    }
    let turns = std::cell::Cell::new(0_usize);
    let reading = async {
        for _ in 0..BURST {
            assert_eq!(socket.next().await, Some(text("{}")));
        }
        turns.get()
    };
    let other = async {
        loop {
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        turns = reading => assert!(turns >= BURST / 100, "{turns} turns during {BURST} frames"),
        () = other => {}
    }
}
