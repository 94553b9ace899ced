//! Placeholder until the program is written; the library is what the bridge's tests use.

fn main() {}
