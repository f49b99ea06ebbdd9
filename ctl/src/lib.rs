//! The operator's command line and the local cluster under it.
//!
//! `howdahctl up`, the demo, the system tests and the benchmark all need the same thing: three Postgres servers with their sidecars and a
//! proxy on this machine, started, broken and stopped in an orderly way. [`cluster`] is that thing; everything else here is built on it.
//!
//! ```text
//! main -> cli, demo -> cluster, load, admin, postgres -> core -> protocol
//! ```
//!
//! Nothing here knows how Howdah works inside: the binaries are started as an operator would start them, and asked through their public
//! HTTP and SQL interfaces.

pub mod admin;
pub mod cluster;
pub mod core;
pub mod load;
pub mod netns;
pub mod pgbench;
pub mod postgres;
pub mod spawn;

pub use howdah_protocol::NodeId;
