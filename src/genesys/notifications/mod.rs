//! Genesys Cloud's public Notifications API: channels that listen to up to 1,000 topics, one socket each.

mod calls;
mod directory;
mod people;
mod rest;
mod subscriptions;
pub mod wire;

pub use calls::{Notifications, NotificationsSettings};
