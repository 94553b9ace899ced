//! Floor 4: what a person at a terminal sees, and a script behind a pipe.

pub mod ask;
pub mod print;
pub mod progress;
pub mod table;
pub mod text;
