//! The sidecar: beside each Postgres, it captures, replicates, applies, elects and fences.

pub mod apply;
pub mod capture;
pub mod config;
pub mod core;
pub mod pg;
pub mod raft;
