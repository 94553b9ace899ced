//! Floor 1: the only place that asks for randomness; rules get it passed in.

/// `N` random bytes from the operating system, fit for keys and nonces.
///
/// # Panics
/// If the operating system has no randomness to give: nothing safe could be done then.
#[must_use]
#[expect(clippy::expect_used, reason = "a key or nonce that is not random must never be used")]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// A random number, at least 0 and below 1, for jitter.
#[must_use]
pub fn unit() -> f64 {
    rand::random()
}
