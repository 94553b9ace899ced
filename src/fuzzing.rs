//! Entry points for `fuzz/`: each takes any bytes, treats them as those of an untrusted peer, and fails if
//! the result breaks a promise. Compiled with feature `fuzzing` and in tests only.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs)]

use time::macros::datetime;
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::api::http::page::List;
use crate::api::http::strict_json;
use crate::config::{Config, VARIABLES, Variables};
use crate::domain::delivery::retry_schedule::{RETRY_AFTER_MAX, parse_retry_after};
use crate::domain::delivery::signature::SigningKey;
use crate::domain::webhook::target::TargetPolicy;
use crate::genesys::protocol::Frame;
use crate::genesys::socket::{Incoming, MESSAGE_BYTES_MAX, Socket};
use crate::genesys::{notifications, realtime};

/// Bytes of a peer on a WebSocket: the result is the same however they are cut, and no message is over the
/// limit.
pub fn frames(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
    }
    let outcome = |piece| RUNTIME.with(|runtime| runtime.block_on(outcome(bytes, piece)));
    let whole = outcome(bytes.len().max(1));
    for incoming in &whole {
        match incoming {
            Incoming::Text(text) => assert!(text.len() <= MESSAGE_BYTES_MAX),
            Incoming::Binary(bytes) => assert!(bytes.len() <= MESSAGE_BYTES_MAX),
            Incoming::Closed(closed) => assert!(closed.reason.chars().count() <= 123),
            Incoming::Ping | Incoming::Pong(_) => {}
        }
    }
    assert!(matches!(whole.last(), Some(Incoming::Closed(_))));
    assert_eq!(whole, outcome(7), "seven bytes at a time");
}

/// All that arrives if a peer sends these bytes in pieces and leaves.
async fn outcome(bytes: &[u8], piece: usize) -> Vec<Incoming> {
    // Room for all answers, since nobody reads them.
    let (ours, mut theirs) = tokio::io::duplex(8 * bytes.len() + 1024);
    let mut socket = Socket::over(ours);
    let sending = async {
        for part in bytes.chunks(piece) {
            if theirs.write_all(part).await.is_err() {
                break; // it has left
            }
            tokio::task::yield_now().await;
        }
        let _ = theirs.shutdown().await;
        theirs
    };
    let receiving = async {
        let mut arrived = Vec::new();
        while let Some(incoming) = socket.next().await {
            arrived.push(incoming);
        }
        arrived
    };
    tokio::join!(sending, receiving).1
}

/// A text message of protocol `realtime`.
pub fn realtime_event(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let frame = realtime::wire::read(text);
    // A JSON object is a ping, a pong or an update: none is dropped for its content.
    if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok() {
        assert!(!matches!(frame, Frame::Malformed { .. }));
    }
    storable(frame);
}

/// A text message of protocol `notifications`.
pub fn notifications_event(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    storable(notifications::wire::read(text));
}

/// Checks that an update fits into a row.
fn storable(frame: Frame) {
    let Frame::Update(update) = frame else { return };
    let fits = |text: &str, chars: usize| {
        assert!(!text.is_empty() && !text.contains(char::is_control) && text.chars().count() <= chars);
    };
    for text in [&update.topic, &update.agent_id].into_iter().flatten() {
        fits(text, 200);
    }
    if let Some(presence) = &update.presence {
        fits(presence, 100);
    }
    if let Some(at) = update.occurred_at {
        assert!((1970..=9999).contains(&at.year()));
    }
    if let Some(state) = &update.state {
        let part = state.presence.as_ref().map(|part| &part.value);
        for text in part.into_iter().flat_map(|part| [&part.definition_id, &part.message]).flatten() {
            fits(text, 500);
        }
        assert!(state.queues.as_ref().is_none_or(|queues| queues.value.len() <= 500));
    }
}

/// The address of a webhook: what is accepted is accepted again as it is stored. Gives it, so that another
/// parser can be asked what it means.
pub fn target(bytes: &[u8]) -> Option<Url> {
    let text = std::str::from_utf8(bytes).ok()?;
    let open = TargetPolicy::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
    if let Ok(url) = TargetPolicy::default().check_url(text) {
        assert!(
            url.scheme() == "https" && open.check_url(text).is_ok(),
            "a public address needs no exception"
        );
    }
    let url = open.check_url(text).ok()?;
    assert_eq!(open.check_url(url.as_str()).as_ref(), Ok(&url), "checked again");
    Some(url)
}

/// A cursor: its own list alone reads it, and writes it in the same way.
pub fn cursor(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read: Vec<_> =
        List::ALL.iter().filter_map(|list| Some((list, list.read_cursor(text).ok()?))).collect();
    assert!(read.len() <= 1, "{read:?}");
    for (list, place) in read {
        assert_eq!(list.cursor(place), text);
    }
}

/// A `Retry-After` header.
pub fn retry_after(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for now in [datetime!(2026-11-23 15:00 UTC), datetime!(2099-12-31 23:59:59 UTC)] {
        assert!(parse_retry_after(&text, now).is_none_or(|wait| wait <= RETRY_AFTER_MAX));
    }
}

/// Variables, one `NAME=value` a line; a name may be the number of one of ours. What is wrong is named, and
/// never the value of a secret.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| {
            let ours = name.parse::<usize>().ok().and_then(|number| VARIABLES.get(number));
            (ours.map_or(name, |variable| variable.name), value)
        })
        .collect();
    let secret = |name: &str| VARIABLES.iter().any(|variable| variable.secret && variable.name == name);
    let without: Vec<(&str, &str)> =
        pairs.iter().map(|(name, value)| (*name, if secret(name) { "?" } else { value })).collect();
    let (errors, without_secrets) = (errors_of(&pairs), errors_of(&without));
    for (name, value) in
        pairs.iter().map(|(name, value)| (*name, value.trim())).filter(|(name, _)| secret(name))
    {
        // The same text may stand elsewhere, where it is no secret, or be a piece of our own words.
        let elsewhere = pairs
            .iter()
            .filter(|(other, _)| *other != name)
            .any(|(n, v)| n.contains(value) || v.contains(value));
        let shown =
            value.len() >= 12 && errors.contains(value) && !without_secrets.contains(value) && !elsewhere;
        assert!(!shown, "{name}: {errors}");
    }
}

/// All errors of a configuration, one a line.
fn errors_of(pairs: &[(&str, &str)]) -> String {
    match Config::from_variables(&Variables::from_pairs(pairs.iter().copied())) {
        Ok(_) => String::new(),
        Err(errors) => {
            assert!(!errors.is_empty());
            errors.iter().map(|error| format!("{error}\n")).collect()
        }
    }
}

/// The body of a request: the usual reader accepts what the strict one accepts, with the same result.
pub fn body(bytes: &[u8]) {
    if let Ok(value) = strict_json::parse(bytes) {
        assert_eq!(serde_json::from_slice::<serde_json::Value>(bytes).unwrap(), value);
        assert_eq!(strict_json::parse(value.to_string().as_bytes()).unwrap(), value);
    }
}

/// A signing secret as somebody typed it.
pub fn signing_secret(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = SigningKey::parse(&text) {
        assert_eq!(key.to_text(), text);
        assert!(key.sign("id", 0, bytes).starts_with("v1,"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 9] = [
        ("frames", frames),
        ("realtime_event", realtime_event),
        ("notifications_event", notifications_event),
        ("target", |bytes| drop(target(bytes))),
        ("cursor", cursor),
        ("retry_after", retry_after),
        ("config", config),
        ("body", body),
        ("signing_secret", signing_secret),
    ];
    /// Inputs that are made for each target: a moment's worth, or FUZZ_INPUTS of them. `scripts/fuzz` makes
    /// millions, and follows what they reach.
    const MADE: u32 = 2000;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let files = std::fs::read_dir(folder().join("corpus").join(target)).unwrap();
        let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// Numbers that are the same in every run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % u64::try_from(bound.max(1)).unwrap()).unwrap()
        }
    }

    /// One seed with a few changes: a byte of another value, one taken out or put in, a piece of another
    /// seed.
    fn changed(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
        let mut bytes = seeds[numbers.below(seeds.len())].clone();
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(bytes.len() + 1);
            let value = u8::try_from(numbers.below(256)).unwrap();
            match numbers.below(4) {
                0 if at < bytes.len() => bytes[at] = value,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => {
                    let other = &seeds[numbers.below(seeds.len())];
                    let from = numbers.below(other.len());
                    bytes.splice(at..at, other[from..].iter().copied().take(64).collect::<Vec<_>>());
                }
                _ => bytes.insert(at, value),
            }
        }
        bytes
    }

    #[test]
    fn seeds_and_their_mutations_break_no_promise() {
        let asked: Option<u32> = std::env::var("FUZZ_INPUTS").ok().and_then(|text| text.parse().ok());
        for (name, target) in TARGETS {
            let made = asked.unwrap_or(MADE);
            let (seeds, mut numbers) = (seeds(name), Numbers(0x9e37_79b9_7f4a_7c15 ^ u64::from(made)));
            seeds.iter().for_each(|seed| target(seed));
            (0..made).for_each(|_| target(&changed(&seeds, &mut numbers)));
        }
    }

    #[test]
    fn every_target_of_the_fuzzer_is_tried_here_too() {
        let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        let bins = manifest.split("[[bin]]").skip(1).filter_map(|bin| bin.split('"').nth(1));
        assert_eq!(bins.collect::<Vec<_>>(), TARGETS.map(|(name, _)| name));
    }
}
