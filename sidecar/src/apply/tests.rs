//! Apply against real servers: a source whose changes are read from a slot, framed into log entries, and applied to a target.

mod barriers;
mod basic;
mod crash;
mod fixture;
mod large;
mod migration;
mod random;
mod repair;
pub(crate) mod server;
mod throughput;
mod types;
