//! What both binaries must agree on to the byte: ids, positions, tokens, consistency modes, the JSON of the admin API.
//!
//! Pure values. No tokio, no clock, no randomness, no files: everything here can be compared, printed and parsed, and nothing else.

pub mod admin;
pub mod consistency;
pub mod ids;
pub mod settings;
pub mod sqlstate;
pub mod token;
pub mod verify;

pub use consistency::{Consistency, Replication};
pub use ids::{Epoch, GroupId, InstanceId, LogIndex, Lsn, NodeId, Term};
pub use token::Token;
