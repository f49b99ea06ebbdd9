//! Repair of an ex-leader, row by row: its Postgres holds commits that the group never accepted.
//!
//! ```text
//!  own slot --tail--> what was changed --> rollback file (fsynced)
//!                       | keys
//!                       v
//!  leader: rows at a snapshot, whose place in the log is known (the cut)
//!                       |
//!  own Postgres:   1. the keys are deleted, changes of tables without a key are taken back     (one transaction)
//!                  2. the log is applied, the keys left out, up to the cut
//!                  3. the leader's rows are put in, with the position                          (in the transaction that passes the cut)
//!                  4. the WAL is flushed, the slot is dropped
//! ```
//!
//! Why this is right: this Postgres is what some prefix P of the log makes, plus the tail. (It holds nothing of the next leader's: a
//! leader's applier stays within its own reign.) Step 1 takes the tail away, from tables without a key by its own changes, from the
//! others by emptying every key that it touched. So from then on *every row but those of the keys is as of the applied position*, and no
//! divergent row is left that a row of the log could meet, be it by a unique constraint other than the key. Step 2 keeps
//! that up; step 3 ends it: the leader's snapshot holds exactly what the log holds up to the cut (`seed.rs` says why). Sequences
//! are not rows: they only rise, and are raised past the log's marks at promotion.
//!
//! A failure anywhere leaves the slot, and with it the tail: the next attempt finds the same, does step 1 again (deleting what is not there;
//! what tables without a key were given back is noted in `howdah.repair`), goes on from the applied position, and gets rows at a later cut.
//! Only step 4 makes the repair final, and it comes after the rows are on disk. The rollback file has a name that follows
//! from the tail, so it is written once.
//!
//! Where rows are not enough (DDL, TRUNCATE, too many, a table renamed meanwhile), the node is seeded again, with the reason.
//!
//! Must never: open the node, or touch a row before the rollback file is on disk.

mod archive;
mod client;
mod run;
mod source;

pub(crate) use client::fetch;
pub use run::{Done, Outcome, Repair};
pub use source::Source;
pub(crate) use source::begin_at_cut;

use crate::admin::client as http;
use crate::{apply, capture, pg, seed};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const PATH: &str = "/v1/repair";
/// The keys that are asked for.
const ASK_BYTES_MAX: usize = 64 << 20;
/// Silence on the connection for this long ends the attempt, on either side.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// Keys, or rows, in one statement.
pub(crate) const STATEMENT_ROWS_MAX: usize = 5_000;

/// Any failure that another attempt may not meet again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Capture(#[from] capture::Error),
    #[error(transparent)]
    Apply(#[from] apply::Error),
    #[error(transparent)]
    Client(#[from] http::Error),
    #[error(transparent)]
    Seed(#[from] seed::Error),
    #[error(transparent)]
    Connect(#[from] pg::connect::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Replication(#[from] pg::replication::Error),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the leader's rows broke off: {0}")]
    Broken(String),
    #[error("the leader changed")]
    LeaderChanged,
    #[error("apply does not get on: {0}")]
    Stuck(String),
    #[error("the leader cannot say what the rows are: {0}")]
    Unlike(String),
    #[error("the rows, as the leader has them, take more than {} MiB", .max >> 20)]
    TooLarge { max: usize },
}

impl Error {
    /// Whether the node may be seeded where this comes again and again. Not where the leader is the cause, without which nothing can be
    /// seeded either, and not where the rollback file cannot be written: seeding would lose what belongs into it.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        match self {
            Self::Capture(_) | Self::Apply(_) | Self::Connect(_) | Self::Sql(_) | Self::Replication(_) | Self::Stuck(_) => true,
            Self::Client(_) | Self::Seed(_) | Self::File { .. } | Self::Broken(_) | Self::LeaderChanged => false,
            Self::Unlike(_) | Self::TooLarge { .. } => true,
        }
    }
}

/// What the ex-leader asks the leader for.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) tables: Vec<AskTable>,
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskTable {
    pub(crate) schema: String,
    pub(crate) table: String,
    /// The key's columns; none stands for the row's hash (`apply::fetch::row_hash`).
    pub(crate) key: Vec<String>,
    /// Their values, in text form.
    pub(crate) keys: Vec<Vec<String>>,
    /// What the hash is made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) columns: Vec<String>,
}

/// The answer, line by line: each table that there is, with its rows behind it, and in the end the number of rows.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The `nth` of those that were asked for.
    Table {
        nth: usize,
        columns: Vec<String>,
    },
    Row(Vec<Option<String>>),
    End {
        rows: u64,
    },
    /// Instead of the end: asking again cannot help.
    Refused {
        why: String,
    },
}
