//! What can go wrong, as the rest of the sidecar sees it.

use howdah_protocol::{LogIndex, NodeId, Term};
use std::io;
use std::path::PathBuf;

/// The log cannot be opened, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the log folder {} is in use by another process; stop that sidecar first", .0.display())]
    InUse(PathBuf),
    #[error("the log folder {} belongs to {found}, this is {expected}; give each node its own folder", .dir.display())]
    Foreign { dir: PathBuf, found: String, expected: String },
    #[error("{} is damaged: {what}", .path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} has format {found}; this version reads format {known}; {}", .path.display(), what_to_do(*.found, *.known))]
    Version { path: PathBuf, found: u8, known: u8 },
    #[error("nothing was written here: node {by} at {addr} does not take this node in: {why}")]
    Refused { by: NodeId, addr: String, why: String },
    #[error("the log in {} cannot be opened: {source}", .dir.display())]
    Log { dir: PathBuf, source: io::Error },
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Options(String),
    #[error("this node is not a leader; the leader is {}", leader_name(*.0))]
    NotLeader(Option<NodeId>),
    #[error("no answer from a majority in time")]
    NoQuorum,
    #[error("a part of the log that is to go is being sent to another node; it goes when that ends")]
    BeingSent,
    #[error("the membership was not changed: {0}")]
    Membership(String),
    #[error("the log has stopped: {0}")]
    Stopped(String),
}

fn what_to_do(found: u8, known: u8) -> &'static str {
    if found > known { "upgrade this node" } else { "it is of an earlier version: start with an empty folder, or run that version" }
}

/// Why a proposal was not decided. After any of these the [`super::Proposer`] takes nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("not the leader of {term}; the leader is {}", leader_name(*.leader))]
    NotLeader { term: Term, leader: Option<NodeId> },
    #[error("an earlier proposal of this line was refused")]
    LineStopped,
    #[error("the proposal may or may not be decided: {0}")]
    Unknown(String),
    #[error("an entry of {len} bytes; no entry is larger than {max}")]
    TooLarge { len: usize, max: usize },
    #[error("{in_flight} bytes are in flight, no more than {max} are taken")]
    Full { in_flight: usize, max: usize },
}

impl ProposeError {
    /// The entry is certainly not in the log and never will be.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the log starts at {first}; what was before is only in the rows of a seeded node")]
    Purged { first: LogIndex },
    #[error("the log cannot be read: {0}")]
    Log(#[from] io::Error),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this node is not the leader; the leader is {}", leader_name(*.0))]
    NotLeader(Option<NodeId>),
    #[error("node {0} is not a voting member of the group")]
    NotAMember(NodeId),
    #[error("no other node can take over")]
    NoCandidate,
    #[error("node {0} is not fit to lead now, and would hand leadership on at once")]
    Unfit(NodeId),
    #[error("node {to} did not take over in {waited_ms} ms")]
    TimedOut { to: NodeId, waited_ms: u64 },
    #[error("the log has stopped: {0}")]
    Stopped(String),
}

fn leader_name(leader: Option<NodeId>) -> String {
    leader.map_or_else(|| "not known".to_owned(), |node| format!("node {node}"))
}
