//! Secrets that are told apart by their text, and every form in which one may come to light.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::cluster::client_does;

/// Every form of a secret's bytes that is looked for: as it is, base64 and base64url at whatever place of a
/// longer text, hex, percent-encoded, and as a list of numbers, as `Debug` writes bytes.
pub fn forms(canary: &[u8]) -> Vec<String> {
    let mut forms: Vec<String> = std::str::from_utf8(canary).map(str::to_owned).into_iter().collect();
    for before in 0..3 {
        let text = [&vec![0; before], canary].concat();
        // Only the letters that the secret alone decides.
        let (from, to) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            forms.push(encoded[from..to].to_owned());
        }
    }
    let each = |write: fn(&u8) -> String| canary.iter().map(write).collect::<Vec<_>>();
    forms.push(each(|byte| format!("{byte:02x}")).concat());
    forms.push(each(|byte| format!("{byte:02X}")).concat());
    forms.push(each(|byte| format!("%{byte:02x}")).concat());
    forms.push(each(|byte| format!("%{byte:02X}")).concat());
    forms.push(each(u8::to_string).join(", "));
    forms.push(each(u8::to_string).join(","));
    forms
}

/// All that is in a database, as text.
pub fn dump(url: &str) -> String {
    client_does("pg_dump", &[url])
}
