//! The group's log: openraft over a log store of our own, HTTP/2 between the nodes. The only user of openraft.
//!
//! ```text
//!   capture ──► Proposer ──► openraft core ──► LogStore (vote, entries, one fsync for many)
//!                               │   ▲  │
//!                     append    │   │  └────► Machine (Decisions over the decided log) ──► Decided (watch)
//!                     streams   ▼   │ votes
//!                            Links ◄┴► Server  (/raft/... on the admin listener)
//!                               │
//!                            Vigil: a leader whose process died is replaced at once
//! ```
//!
//! Invariants
//! - A vote is on disk before it is answered; an entry counts for the quorum only once it is on disk. Both go through one write-ahead
//!   log, in order.
//! - An entry counts only in the term for which it was proposed; anything else is void on every node (see `types::Proposal`).
//! - Nothing proposed on a [`Proposer`] after a refused proposal is ever accepted.
//! - Nothing is taken from a node, nor given to it, that has another log than the one its id was first heard with (see `roster`).
//! - [`Decided`] only goes forward, also over restarts as far as this node remembers.
//!
//! No type of openraft leaves this folder, and nothing here touches Postgres.

mod acquaint;
mod codec;
mod error;
mod fitness;
mod handle;
mod handover;
mod link;
mod machine;
mod marker;
mod network;
mod node;
mod notice;
mod options;
mod prompt;
mod proposer;
mod role;
mod roster;
mod server;
mod snapshot;
mod store;
mod suspicion;
mod types;
mod vigil;
mod wire;

#[cfg(test)]
mod tests;

pub use error::{Error, ProposeError, ReadError, TransferError};
pub use fitness::Condition;
pub use handle::Handle;
pub use machine::Decided;
pub use node::open;
pub use options::{Options, Peer, Timings};
pub use proposer::Proposer;
pub use role::{Member, PeerProgress, Progress, RaftRole};
pub use server::{Body, configure_http};
