//! The JSON of `POST /v1/verify`: are all nodes the same, where are they not, and what was done about it.
//!
//! The answer is a line of JSON per [`VerifyEvent`]: progress now and then, and in the end the report or why there is none.

use crate::admin::{Problem, TableDigest};
use crate::ids::{LogIndex, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Bring the rows that differ back to the leader's.
    #[serde(default)]
    pub repair: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyEvent {
    Progress(VerifyProgress),
    Report(Box<VerifyReport>),
    Failed(Problem),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyProgress {
    /// What is done at the moment, in words.
    pub doing: String,
    /// Bytes of tables that the leader has read, of all.
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// Every table on every node at one place of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    pub leader: NodeId,
    /// Of the last comparison: after a repair, the one behind it.
    pub index: LogIndex,
    /// All nodes were compared in all tables, and none differs.
    pub identical: bool,
    pub tables: Vec<VerifiedTable>,
    /// Nodes that could not be compared, by their admin address, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub absent: BTreeMap<String, String>,
    /// What a repair did, by node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub repairs: BTreeMap<NodeId, NodeRepair>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedTable {
    /// `schema.table`.
    pub table: String,
    pub identical: bool,
    /// `None` where a node does not have the table, or could not read it.
    pub nodes: BTreeMap<NodeId, Option<TableDigest>>,
    /// Why it could not be compared: DDL came between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<String>,
    /// Columns of the primary key, in which ranges are told; none where rows have no key.
    #[serde(default)]
    pub key: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

/// How one node's rows differ from the leader's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub node: NodeId,
    /// Rows that the node has with another content.
    pub changed: u64,
    /// Rows that only the leader has.
    pub missing: u64,
    /// Rows that only the node has.
    pub surplus: u64,
    /// False: there are more, which were not looked for one by one.
    pub complete: bool,
    /// The first and the last key that differ, as text. Absent where that end is open, or rows have no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
    /// The first keys that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Vec<String>>,
    /// Not rows, but the table itself differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structure: Option<String>,
}

impl Difference {
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.changed + self.missing + self.surplus
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRepair {
    /// Keys whose rows were set to the leader's.
    pub keys: u64,
    /// Why nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What a node last heard of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Milliseconds since 1970, on the clock of the leader of that time. For people.
    pub at_ms: u64,
    pub index: LogIndex,
    pub tables: u64,
    pub tables_differing: u64,
    /// Of them, those that rows cannot mend: the node misses them or columns of them, or the leader does not have them.
    #[serde(default)]
    pub tables_unlike: u64,
    /// At least so many, in the others.
    pub rows_differing: u64,
}
