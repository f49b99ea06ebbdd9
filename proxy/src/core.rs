//! Decisions, without tokio, sockets or a clock: what a session's messages mean, what a server's answers change, where a statement
//! goes, and what the loss of a server connection means for the client.
//!
//! Everything here takes bytes or values and the time as arguments; the async code around it waits and performs.

pub(crate) mod commands;
pub(crate) mod params;
pub(crate) mod replica;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod statements;
pub(crate) mod templates;
pub(crate) mod vars;
pub(crate) mod view;
