use super::*;

/// Writes a client frame: masked, with any first byte.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = header(true, Opcode::Text, u64::try_from(payload.len()).unwrap());
    head[0] = first;
    head[1] |= 0x80;
    let key = [0x12, 0x34, 0x56, 0x78];
    head.extend_from_slice(&key);
    head.extend(payload.iter().zip(key.into_iter().cycle()).map(|(byte, key)| byte ^ key));
    head
}

fn read(bytes: &[u8]) -> Result<Vec<Incoming>, Violation> {
    let mut reader = Reader::default();
    let mut all = Vec::new();
    // Byte by byte: a frame may be cut anywhere by TCP.
    for byte in bytes {
        reader.buffer().extend_from_slice(&[*byte]);
        while let Some(incoming) = reader.message()? {
            all.push(incoming);
        }
    }
    Ok(all)
}

#[test]
fn writes_the_three_length_forms() {
    assert_eq!(encode(Opcode::Text, b"hi"), [0x81, 2, b'h', b'i']);
    assert_eq!(header(true, Opcode::Binary, 125), [0x82, 125]);
    assert_eq!(header(true, Opcode::Binary, 126), [0x82, 126, 0, 126]);
    assert_eq!(header(true, Opcode::Binary, 65_535), [0x82, 126, 0xFF, 0xFF]);
    assert_eq!(header(true, Opcode::Binary, 65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(header(false, Opcode::Continuation, 1 << 40), [0, 127, 0, 0, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn reads_the_masked_hello_of_the_rfc() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(read(&hello), Ok(vec![Incoming::Text("Hello".into())]));
}

#[test]
fn reads_every_length_form_byte_by_byte() {
    for length in [0, 1, 125, 126, 65_536] {
        let text = "x".repeat(length);
        assert_eq!(read(&masked(0x81, text.as_bytes())), Ok(vec![Incoming::Text(text)]));
    }
}

#[test]
fn joins_fragments_around_a_control_frame() {
    let bytes = [masked(0x01, b"one "), masked(0x89, b"p"), masked(0x80, b"two")].concat();
    assert_eq!(read(&bytes), Ok(vec![Incoming::Ping("p".into()), Incoming::Text("one two".into())]));
}

#[test]
fn names_each_broken_rule() {
    assert_eq!(read(&encode(Opcode::Text, b"{}")), Err(Violation::Unmasked));
    assert_eq!(read(&masked(0xC1, b"")), Err(Violation::ReservedBits));
    assert_eq!(read(&masked(0x83, b"")), Err(Violation::UnknownOpcode));
    assert_eq!(read(&masked(0x09, b"")), Err(Violation::FragmentedControl));
    assert_eq!(read(&masked(0x89, &[0; 126])), Err(Violation::LongControl));
    assert_eq!(read(&masked(0x80, b"x")), Err(Violation::StrayContinuation));
    assert_eq!(read(&[masked(0x01, b"a"), masked(0x81, b"b")].concat()), Err(Violation::MissingContinuation));
    assert_eq!(read(&masked(0x81, &[0; 65_537])), Err(Violation::TooLong));
    assert_eq!(
        read(&[masked(0x01, &[0; 60_000]), masked(0x80, &[0; 60_000])].concat()),
        Err(Violation::TooLong)
    );
    assert_eq!(read(&masked(0x81, &[0xFF])), Err(Violation::InvalidUtf8));
    assert_eq!(read(&masked(0x88, &[3])), Err(Violation::InvalidClose));
    assert_eq!(read(&masked(0x88, &1006_u16.to_be_bytes())), Err(Violation::InvalidClose));
}

#[test]
fn reads_closes_with_and_without_a_code() {
    assert_eq!(read(&masked(0x88, b"")), Ok(vec![Incoming::Close { code: None, reason: String::new() }]));
    let body = [&1000_u16.to_be_bytes()[..], b"Client initiated shutdown"].concat();
    assert_eq!(
        read(&masked(0x88, &body)),
        Ok(vec![Incoming::Close { code: Some(1000), reason: "Client initiated shutdown".into() }])
    );
}

#[test]
fn cuts_a_long_close_reason_at_a_character() {
    let frame = encode_close(Some(1000), &"é".repeat(100));
    assert_eq!(frame[1], 124);
    assert_eq!(encode_close(None, "ignored"), [0x88, 0]);
}
