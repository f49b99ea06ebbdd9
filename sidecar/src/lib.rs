//! The sidecar: beside each Postgres, it captures, replicates, applies, elects and fences.

pub mod admin;
pub mod apply;
pub mod capture;
pub mod checksum;
pub mod config;
pub mod core;
pub mod health;
pub mod pg;
pub mod raft;
pub mod repair;
pub mod retention;
pub mod role;
pub mod seed;
pub mod status;
pub mod verify;
mod wiring;
