//! Text from elsewhere, made harmless for terminals: whoever names an agent must not move a cursor or write
//! over another line.

use std::borrow::Cow;

/// Whether a terminal might act on a character, or show what follows in another order.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// The text on one line, each run of such characters as a blank.
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split(acts).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "))
}

/// JSON that means the same, with such characters escaped. They stand in strings only.
#[must_use]
pub fn plain_json(json: &str) -> Cow<'_, str> {
    if !json.contains(acts) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if acts(c) && !c.is_ascii_whitespace() {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;x\u{7}b\r\nc\u{9b}31m\u{202e}\u{61c}d\u{7f}e";

    #[test]
    fn nothing_is_left_that_a_terminal_acts_on() {
        assert_eq!(plain("Zoë 李 👩‍💻"), "Zoë 李 👩‍💻");
        assert_eq!(plain(HOSTILE), "a [2J ]0;x b c 31m d e");
        assert_eq!(plain("\u{1b}"), "");
    }

    #[test]
    fn json_means_the_same() {
        let json = serde_json::to_string(&[HOSTILE, "Zoë"]).unwrap();
        assert!(json.contains(acts));
        let escaped = plain_json(&json);
        assert!(!escaped.contains(acts), "{escaped:?}");
        let read: Vec<String> = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read, [HOSTILE, "Zoë"]);
    }
}
