//! Apply against real servers: a source whose changes are read from a slot, framed into log entries, and applied to a target.

mod basic;
mod fixture;
mod server;
