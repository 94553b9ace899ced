//! One binary for all of the crate's tests over sockets.

#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as loudly as tests"
)]
mod client;
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as loudly as tests")]
mod cloud;
mod crm;
mod genesys_rest;
mod genesys_sockets;
