//! Everything that speaks to this node's Postgres; the only user of tokio-postgres.

pub mod connect;
pub mod replication;
