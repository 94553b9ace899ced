//! A bridge as a process of its own, the simulated ends around it, and questions to its API and its database.

pub mod bridge;
pub mod console;
pub mod feed;
pub mod hostile;
pub mod lag;
pub mod machine;
pub mod pair;
pub mod postgres;
pub mod sql;
pub mod statements;
pub mod watch;
pub mod world;
