//! Deliveries: what an answer means, when to try again, how a POST is signed, and how many may be under way.

pub mod access;
pub mod capacity;
pub mod circuit;
pub mod outcome;
pub mod rate_limit;
pub mod reason;
pub mod receiver;
pub mod recovery;
pub mod retry_schedule;
pub mod sent_post;
pub mod settings;
pub mod signature;
pub mod signing_pair;
pub mod slots;
pub mod standard_body;
