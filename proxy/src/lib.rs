//! howdah-proxy: one address for a group of servers.
//!
//! Speaks the Postgres wire protocol to clients, pools server connections per transaction, sends writes to the leader and reads where the
//! session's consistency mode allows, and keeps the client's connection alive when the leader changes.
//!
//! `main -> service -> client, backend, routing -> core, sql, auth, wire`. `core` knows no tokio, no sockets and no clock.

mod admin;
#[allow(dead_code, unused_imports)]
mod auth;
mod backend;
mod client;
mod clock;
pub mod config;
mod core;
mod metrics;
mod net;
mod routing;
pub mod service;
#[allow(dead_code, unused_imports)]
mod sql;
mod wire;
