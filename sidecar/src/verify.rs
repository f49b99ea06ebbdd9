//! Are all nodes of the group the same, and where are they not?
//!
//! ```text
//!  leader                                              each other node
//!   1. POST /v1/verify/attend  ----------------------> apply stands still
//!   2. a snapshot, whose place in the log is known (the cut), and a mark behind it
//!   3. At(cut) --------------------------------------> apply goes on to the cut; a snapshot there; apply goes on
//!   4. digests of every table, both sides at their snapshots, while writes go on
//!   5. where they differ: digests of ever smaller ranges of the key, down to the rows   (core/bisect)
//!   6. the verdict ----------------------------------> status, metrics
//! ```
//!
//! Why the snapshots are the same place: the leader's is one of a logical slot, which holds exactly the transactions that end before its
//! LSN, whatever is visible to others (`seed.rs`); apply stops between two transactions of the log (`apply/hold.rs`), and cannot be behind
//! the cut, because it stood still before the cut was made.
//!
//! The connection of step 1 is the conversation: questions go one way, answers the other, and when it ends, for whatever reason, so does
//! everything that it held. A node whose leader changes ends it at once, so that no election waits.
//!
//! **A repair** (`patch.rs`) needs a place of its own: apply of the node stands still again, gets the leader's rows of the keys that differ
//! at a new cut (`repair/source.rs`, as an ex-leader does), goes on to it, and replaces them there in one transaction. Readers of the node
//! see its old rows or the leader's, at one position. A failure anywhere leaves the rows as they were. It is compared again afterwards.
//!
//! Bounded: statements by time, listed rows by number, a hold by `HOLD_MAX`, one comparison at a time. The snapshots live as long as the
//! comparison and keep vacuum from what they see; table locks (ACCESS SHARE) only while one table is looked at.
//!
//! Must never: judge what DDL or TRUNCATE changed between the snapshot and the look; such a table is told as unsettled.

mod attend;
mod conversation;
mod examiner;
mod locate;
mod patch;
mod run;
mod schedule;
mod service;
mod sitting;

pub use attend::Attendant;
pub use run::Verifier;
pub use schedule::Schedule;
pub(crate) use service::PATH;

use crate::admin::client as http;
use crate::core::bisect::{Digest, Key, Range, Row};
use crate::core::coalesce::Cut;
use crate::repair::{self, AskTable};
use crate::{apply, pg};
use howdah_protocol::verify::Verified;
use howdah_protocol::{InstanceId, LogIndex, Lsn, NodeId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub(crate) const ATTEND_PATH: &str = "/v1/verify/attend";
/// Apply of a node stands still no longer than this, for a comparison as for a repair.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// One statement. A slice of a table takes a fraction of a second; a search in an unindexed order reads a whole table.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);
/// Whoever works on an answer says so this often, and is given up after so many times of silence.
const PULSE: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// A question or an answer: the keys of a repair are the longest.
const LINE_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] pg::connect::Error),
    #[error("comparing: {0}")]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Apply(#[from] apply::Error),
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("no snapshot of the leader: {0}")]
    Snapshot(String),
    #[error("getting the leader's rows: {0}")]
    Fetch(#[from] repair::Error),
    #[error("only the leader compares")]
    NotLeader,
    #[error("a comparison is under way")]
    Busy,
    #[error("node {node}: {why}")]
    Node { node: NodeId, why: String },
    #[error("the connection ended: {0}")]
    Broken(String),
    #[error("an answer that does not fit the question")]
    Strange,
}

/// A table as the leader has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    schema: String,
    table: String,
    /// What the log carries of a row: all but generated columns.
    columns: Vec<String>,
    /// The primary key, as far as its order can be relied on; empty where rows are taken by their hash.
    key: Vec<String>,
    /// About its size.
    bytes: u64,
}

impl Shape {
    fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// What the leader asks a node. The first is [`Question::At`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// Apply up to here, and answer everything else from this place.
    At {
        instance: InstanceId,
        lsn: Lsn,
    },
    Tables,
    Whole {
        table: Shape,
        gentle: bool,
    },
    Digests {
        table: Shape,
        ranges: Vec<Range>,
    },
    Split {
        table: Shape,
        range: Range,
        step: u64,
    },
    List {
        table: Shape,
        range: Range,
    },
    /// Fetch the leader's rows of these keys and put them in place of the own.
    Repair {
        tables: Vec<AskTable>,
    },
    Verdict(Verified),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// Apply stands still.
    Held {
        node: NodeId,
    },
    Ready {
        index: LogIndex,
    },
    Tables(Vec<Shape>),
    Digest(Digest),
    Digests(Vec<Digest>),
    Keys(Vec<Key>),
    /// `None`: too many.
    Rows(Option<Vec<Row>>),
    /// The table is not here, or lacks what the question names.
    Unlike(String),
    /// It cannot be said what the table was at the snapshot.
    Unsettled(String),
    Repaired {
        keys: u64,
    },
    Done,
    /// Not yet.
    Working,
    Failed(String),
}

fn cut(instance: InstanceId, lsn: Lsn) -> Cut {
    Cut { instance, lsn }
}
