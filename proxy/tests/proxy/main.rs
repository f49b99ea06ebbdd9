//! The proxy as its users meet it: the binary, real PostgreSQL, drivers, psql, pgbench, and clients that misbehave.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "tests")]

mod basics;
mod programs;
mod support;
