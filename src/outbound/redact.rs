//! Takes secrets out of what a receiver answered before any of it is kept: an error page may repeat the
//! request, credentials and all.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;

/// What stands in a secret's place.
const MARK: &[u8] = b"[redacted]";
/// Shorter values are left: they would be found in every text, and give nothing away there.
const SHORTEST: usize = 4;

/// A text of at most `keep` bytes without these secrets, however they are written in it. If the text is
/// `cut`, a secret that only begins at its end is taken out too.
pub fn redact(text: &[u8], cut: bool, secrets: &[Vec<u8>], keep: usize) -> Vec<u8> {
    let forms: BTreeSet<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    let mut hidden = vec![false; text.len()];
    for form in &forms {
        for start in memmem::find_iter(text, form) {
            hidden.iter_mut().skip(start).take(form.len()).for_each(|byte| *byte = true);
        }
        let begun = (1..form.len().min(text.len() + 1)).rev();
        if cut
            && let Some(begun) =
                begun.into_iter().find(|len| form.get(..*len).is_some_and(|f| text.ends_with(f)))
        {
            hidden.iter_mut().rev().take(begun).for_each(|byte| *byte = true);
        }
    }
    let mut shown = Vec::with_capacity(text.len().min(keep));
    let mut before = false;
    for (byte, is_hidden) in text.iter().zip(hidden) {
        match (is_hidden, before) {
            (true, false) => shown.extend_from_slice(MARK),
            (true, true) => {}
            (false, _) => shown.push(*byte),
        }
        before = is_hidden;
    }
    shown.truncate(keep);
    shown
}

/// How a secret may be written: as it is, as JSON, HTML or a form writes it, percent-encoded, in hex, and in
/// base64, alone or within a longer text.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    if secret.len() < SHORTEST {
        return Vec::new();
    }
    let mut forms = vec![secret.to_vec()];
    if let Ok(text) = std::str::from_utf8(secret) {
        forms.push(text.escape_default().to_string().into_bytes());
        let html = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        forms.push(html.replace('"', "&quot;").replace('\'', "&#39;").into_bytes());
        forms.push(html.replace('"', "&#34;").replace('\'', "&#x27;").into_bytes());
        if let Ok(json) = serde_json::to_string(text) {
            forms.push(json.trim_matches('"').as_bytes().to_vec());
        }
    }
    forms.push(url::form_urlencoded::byte_serialize(secret).collect::<String>().into_bytes());
    let each =
        |write: fn(u8) -> String| secret.iter().map(|byte| write(*byte)).collect::<String>().into_bytes();
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    for write in [|byte| format!("{byte:02x}"), |byte| format!("{byte:02X}"), |byte| format!("%{byte:02x}")] {
        forms.push(each(write));
    }
    forms.push(each(|byte| format!("%{byte:02X}")));
    for upper in [true, false] {
        let percent = |byte: &u8| match (unreserved(*byte), upper) {
            (true, _) => char::from(*byte).to_string(),
            (false, true) => format!("%{byte:02X}"),
            (false, false) => format!("%{byte:02x}"),
        };
        forms.push(secret.iter().map(percent).collect::<String>().into_bytes());
    }
    for before in 0..3_usize {
        let within = [vec![0; before], secret.to_vec()].concat();
        // Only the letters that the secret alone decides.
        let (from, to) = ((before * 8).div_ceil(6), within.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&within), URL_SAFE_NO_PAD.encode(&within)] {
            forms.extend(encoded.get(from..to).map(|letters| letters.as_bytes().to_vec()));
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cr&t \"key\"/1";

    fn shown(text: &str) -> String {
        let secrets = [SECRET.as_bytes().to_vec(), b"ab".to_vec()];
        String::from_utf8(redact(text.as_bytes(), false, &secrets, 4096)).unwrap_or_default()
    }

    #[test]
    fn a_secret_is_taken_out_however_it_is_written() {
        let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
        for written in [
            SECRET.to_owned(),
            hex,
            "s3cr&t \\\"key\\\"/1".to_owned(),
            "s3cr&amp;t &quot;key&quot;/1".to_owned(),
            "s3cr%26t+%22key%22%2F1".to_owned(),
            "s3cr%26t%20%22key%22%2f1".to_owned(),
        ] {
            assert_eq!(shown(&format!("<{written}>,{written}")), "<[redacted]>,[redacted]", "{written}");
        }
    }

    #[test]
    fn of_base64_nothing_is_left_that_the_secret_decides() {
        for user in ["", "u", "us"] {
            let encoded = STANDARD_NO_PAD.encode(format!("{user}{SECRET} and more"));
            let shown = shown(&encoded);
            assert!(shown.contains("[redacted]"), "{shown}");
            let inner = encoded.get(4..16).unwrap_or_default();
            assert!(!shown.contains(inner), "{shown}");
        }
    }

    #[test]
    fn what_is_kept_is_cut_after_the_secrets_are_out() {
        let text = format!("{SECRET}{SECRET}{}", "x".repeat(50));
        let secrets = [SECRET.as_bytes().to_vec()];
        assert_eq!(redact(text.as_bytes(), false, &secrets, 12), b"[redacted]xx");
        let cut = format!("page {}", SECRET.get(..6).unwrap_or_default());
        assert_eq!(redact(cut.as_bytes(), true, &secrets, 4096), b"page [redacted]");
        assert_eq!(redact(cut.as_bytes(), false, &secrets, 4096), cut.as_bytes(), "it ends there");
    }

    #[test]
    fn a_text_without_secrets_is_as_it_was_and_short_values_are_left() {
        assert_eq!(shown("a table about abstraction"), "a table about abstraction");
    }
}
