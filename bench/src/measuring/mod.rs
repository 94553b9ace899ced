//! CPU, memory, times and counts; none of it knows how a bridge is started.

pub mod cpu;
pub mod figures;
pub mod gaps;
pub mod growth;
pub mod ledger;
pub mod metrics;
pub mod numbering;
