//! Receivers of syslog: what they read.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

/// Reads one message with its length before it (RFC 6587, octet counting): digits that begin with none of 0,
/// a blank, and that many octets. `None` where the stream ends.
pub async fn message(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<String> {
    let mut length = 0_usize;
    loop {
        match stream.read_u8().await.ok()? {
            b' ' if length > 0 => break,
            digit @ b'0'..=b'9' if length > 0 || digit != b'0' => {
                length = length * 10 + usize::from(digit - b'0');
            }
            other => panic!("{other:#x} where a length is to be"),
        }
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(String::from_utf8(bytes).unwrap())
}

/// The entry in a message, whose head must say the same.
pub fn entry(message: &str) -> Value {
    let (head, text) = message.split_once("] ").unwrap();
    let entry: Value = serde_json::from_str(text).unwrap();
    assert!(head.starts_with("<110>1 20") || head.starts_with("<108>1 20"), "{head}");
    assert!(
        head.contains(&format!(
            " - presence-bridge - {} [audit@32473 id=\"",
            entry["kind"].as_str().unwrap()
        ))
    );
    entry
}
