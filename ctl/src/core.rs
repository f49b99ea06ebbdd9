//! Decisions without sockets, clocks or processes: what the numbers of a run mean.

pub mod digests;
pub mod gap;
pub mod ledger;
pub mod percentile;
pub mod table;
pub mod verdict;
