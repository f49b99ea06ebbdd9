//! The proxy as its users meet it: the binary, real PostgreSQL, drivers, psql, pgbench, and clients that misbehave.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod basics;
mod copy;
mod failover;
mod goodbye;
mod joined;
mod leases;
mod modes;
mod outcome;
mod pins;
mod prepared;
mod programs;
mod roles;
mod service;
mod settings;
mod support;
