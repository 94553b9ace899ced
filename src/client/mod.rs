//! Floor 1: a client of the REST API, for whoever works with a bridge from a terminal. It knows what
//! openapi.yaml promises and nothing else of the bridge that it speaks to.

pub mod api;
pub mod feed;
pub mod pages;
pub mod profiles;
pub mod receiver;
pub mod transport;
