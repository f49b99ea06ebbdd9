//! Everything that speaks to this node's Postgres; the only user of tokio-postgres.

pub mod access;
pub mod connect;
#[cfg(test)]
pub(crate) mod installed;
pub mod precheck;
pub mod replication;
pub mod schema;
pub mod server;
