//! What a receiver gets, from an event to bytes. Pure.

pub(super) mod data;
pub mod envelope;
