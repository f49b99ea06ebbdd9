//! Measuring Howdah beside its peers, on one machine, in one run.
//!
//! [`compare`] runs pgbench against each target in turn, round after round with the order rotated, so that a noisy machine hits everybody
//! alike; [`failover`] kills leaders and measures how long nobody could write; [`seed`] fills a new node under load. [`fixtures`] are the servers; [`core`] plans, summarises and draws.

pub mod compare;
pub mod core;
pub mod failover;
pub mod fixtures;
pub mod load;
pub mod pgbench;
pub mod seed;
