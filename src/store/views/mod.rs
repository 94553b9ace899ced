//! Read models of the API; nothing is written here.
//!
//! Read `agents` (last known states), `events` (the feed), `deliveries` (open and ended ones in one list),
//! then `explain` (facts about one event and one webhook); `lanes` is what waits at one webhook, `backlog` and
//! `overview` count, `names` has what people call things, and `server_facts` is about the database itself.

pub mod agents;
pub mod backlog;
pub mod deliveries;
pub mod events;
pub mod explain;
pub mod lanes;
pub mod names;
pub mod overview;
pub mod server_facts;
