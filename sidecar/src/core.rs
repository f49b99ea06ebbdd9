//! Decisions without IO: no tokio, no clock, no sockets, no openraft types. Everything here can be tested with made-up input.

pub mod assemble;
pub mod bisect;
pub mod coalesce;
pub mod ddl;
pub mod decisions;
pub mod divergence;
pub mod entry;
pub mod health;
pub mod lag;
pub mod lease;
pub mod membership;
pub mod outcomes;
pub mod pace;
pub mod pgoutput;
pub mod prompt;
pub mod role;
pub mod rollback;

#[cfg(test)]
mod tests;
