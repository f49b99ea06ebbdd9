//! The JSON of the sidecar's admin API. Times in milliseconds, positions as log indexes.
//!
//! | call | answer |
//! |---|---|
//! | `GET /v1/status` | [`NodeStatus`] |
//! | `GET /v1/status/stream` | [`NodeStatus`] as a line of JSON, now and on every change, at least every second |
//! | `GET /v1/cluster` | [`ClusterStatus`]: what this node knows of its group, asking every peer |
//! | `GET /v1/committed` | [`Committed`]; 503 unless this node leads, as a majority has just confirmed |
//! | `GET /v1/lease` | [`Lease`]: for how long nobody else can lead |
//! | `GET /v1/outcome?node=N&epoch=E&xid=X&after=I` | [`Outcome`] of the transaction with this id, which ran on node N in its serving epoch E and was not committed at index I |
//! | `GET /v1/checksum?index=N` | [`Checksums`] once this node has applied N; 504 if it has not within 10 s |
//! | `POST /v1/verify` | [`crate::verify::VerifyEvent`]s, a line each; 503 unless this node leads, or where it is at it already |
//! | `POST /v1/switchover` | [`Switchover`]; 409 with [`Problem`] where the target cannot take over |
//! | `GET /v1/members` | [`Members`]: the group's members as the log has them, and every id that was ever given away |
//! | `POST /v1/members/add` | [`MemberStep`]: takes [`AddMember`] one step further, on the leader; asked again until the node votes |
//! | `POST /v1/members/remove` | [`MemberStep`]: takes [`RemoveMember`] one step further, on the leader; asked again until the node is out |
//! | `GET /healthz`, `/readyz`, `/metrics` | 200 where the process lives; 200 where the node is open; Prometheus text |
//!
//! Every answer that is not 2xx carries a [`Problem`].

use crate::ids::{Epoch, GroupId, LogIndex, NodeId, Term};
use crate::verify::Verified;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

mod seeding;

pub use seeding::{Seeding, SeedingStage};

/// Where a node stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Starting,
    Reconciling,
    Follower,
    Promoting,
    Leader,
    Demoting,
    Repairing,
    Seeding,
    Stopping,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Starting => "starting",
            Self::Reconciling => "reconciling",
            Self::Follower => "follower",
            Self::Promoting => "promoting",
            Self::Leader => "leader",
            Self::Demoting => "demoting",
            Self::Repairing => "repairing",
            Self::Seeding => "seeding",
            Self::Stopping => "stopping",
        };
        f.pad(name)
    }
}

/// One node, as its sidecar sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub cluster: String,
    pub group: GroupId,
    pub id: NodeId,
    pub role: Role,
    /// Clients may connect.
    pub open: bool,
    /// The serving epoch, while open. A proxy uses a server connection only if `howdah.serving_epoch()` says the same.
    pub epoch: Option<Epoch>,
    /// The newest term that this node knows of; of a leader, the one that it leads in.
    pub term: Term,
    /// The Raft leader that this node knows of.
    pub leader: Option<NodeId>,
    /// Last entry that is decided, as far as this node knows.
    pub committed_index: LogIndex,
    /// Last entry whose effects a new transaction on this node sees.
    pub applied_index: LogIndex,
    /// Age of the oldest decided entry that is not applied here; 0 when there is none.
    pub lag_ms: u64,
    pub postgres_version: String,
    /// host:port of the Postgres.
    pub sql_address: String,
    /// host:port of this API.
    pub admin_address: String,
    /// What the node is doing, or why it is not open. For people.
    pub detail: String,
    /// How far its filling is, while it is being seeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeding: Option<Seeding>,
    /// How it was when it was last compared with the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Why this node does not stand for election, or just gave leadership up: what is wrong with its Postgres or its disks. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    pub id: GroupId,
    pub leader: Option<NodeId>,
    pub nodes: Vec<NodeStatus>,
}

/// What `howdahctl status --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub groups: Vec<GroupStatus>,
}

/// The leader's answer to a lazily asked "what may a session have written or seen until now".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    pub group: GroupId,
    pub index: LogIndex,
}

/// The leader's lease. Whoever asks counts from when it asked, on its own clock: then no delay of the answer can make it longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The serving epoch that it is for; absent on a node that is not the open leader.
    pub epoch: Option<Epoch>,
    /// Nobody else leads for this long; 0 where that is not known.
    pub left_ms: u64,
}

/// What the log says about a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Decided, at this index or before.
    Committed { index: LogIndex },
    /// Its effects are in no prefix of the log, and never will be.
    RolledBack,
    /// Not known here yet: ask again, or the next leader.
    Pending,
    /// This log cannot tell any more.
    Unknown,
}

/// Order-independent digest of each table at one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    pub node: NodeId,
    /// Applied before, and decided after the tables were read: the digests are of one index when both are the same.
    pub index_before: LogIndex,
    pub index_after: LogIndex,
    /// `schema.table` -> digest.
    pub tables: BTreeMap<String, TableDigest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    pub rows: u64,
    /// Sum of the rows' 64-bit hashes, in decimal.
    pub sum: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverRequest {
    /// The follower that is to lead; the most caught-up one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switchover {
    pub from: NodeId,
    pub to: NodeId,
}

/// One member of the group, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub node: NodeId,
    /// host:port of its admin API.
    pub admin: String,
    /// host:port of its Postgres.
    pub sql: String,
    /// Counts for the majority; a learner only follows.
    pub voter: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub members: Vec<Member>,
    /// Ids of all nodes that are or were members, in order. None of them is ever given to another node.
    pub ids_used: Vec<NodeId>,
}

/// A node whose sidecar runs, with `join = true`, and waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddMember {
    pub node: NodeId,
    pub admin: String,
    pub sql: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveMember {
    pub node: NodeId,
}

/// How far a change of the membership has come. The calls are repeated, so that a change survives whoever asked and whoever led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It follows without a vote, and is being filled or catches up.
    Joining,
    /// It votes: the addition is done.
    Voter,
    /// It led and has handed over: ask the new leader to remove it.
    HandedOver,
    /// It is no member any more: the removal is done.
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStep {
    pub node: NodeId,
    pub state: MemberState,
    /// What the node is doing. For people.
    pub detail: String,
    /// How far its filling is, while it is being seeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeding: Option<Seeding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
