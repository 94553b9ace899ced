//! Genesys Cloud's public Notifications API: channels that listen to up to 1,000 topics, one socket each.

mod people;
mod rest;
pub mod wire;

pub use rest::{Notifications, NotificationsSettings};
