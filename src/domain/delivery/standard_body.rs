//! The body of a POST in format `standard`, as bytes: one shape for webhooks and for `listen`.

/// Writes it from behind the opening brace to the closing one; `data` writes the value of that name. Kinds
/// and times hold nothing that JSON would escape.
pub fn write(body: &mut Vec<u8>, kind: &str, timestamp: &str, data: impl FnOnce(&mut Vec<u8>)) {
    for part in [r#""type":""#, kind, r#"","timestamp":""#, timestamp, r#"","data":"#] {
        body.extend_from_slice(part.as_bytes());
    }
    data(body);
    body.push(b'}');
}

/// Ends the value `data` with what belongs to the delivery: how many older states it replaced, and when its
/// first POST began. `body` holds the event's part without the closing brace.
pub fn end_data(body: &mut Vec<u8>, superseded: i32, sent_at: &str) {
    let superseded = superseded.to_string();
    for part in [r#","superseded":"#, &superseded, r#","sent_at":""#, sent_at, r#""}"#] {
        body.extend_from_slice(part.as_bytes());
    }
}
