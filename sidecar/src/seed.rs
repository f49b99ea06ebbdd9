//! Filling a node from another: a new one, or one whose Postgres cannot be repaired.
//!
//! ```text
//! a follower                                     joining node
//!                                                  wait: the log is here up to where the leader is
//!   a transaction: position, locks             <-- POST /v1/seed?from=that
//!   roles, tables cut into pieces, sequences   --> check: nothing that the follower itself wrote lies behind its position
//!   pg_dump of the schema at the snapshot      --> roles, tables
//!   COPY of pieces, several at once            --> COPY
//!                                                  indexes, constraints, sequences, statistics
//!                                                  progress := the follower's, as its snapshot shows it
//!
//! the leader                                     joining node
//!                                                  wait: the log is here up to where the leader is
//!   temporary slot -> snapshot at LSN L        <-- POST /v1/seed
//!   a mark behind L (a transaction)
//!   a transaction with the snapshot, and locks
//!   roles, tables cut into pieces, sequences   --> wait: the mark is decided, same leader still
//!   ...                                            ...
//!                                                  progress := (i, decisions at i, the leader's watermark raised to L)
//! ```
//!
//! Why this is exact with a follower: its rows and its position are written in the same transactions, so a snapshot that shows both shows what
//! belongs together, a large transaction of which only chunks have come and a half-applied entry included (`apply/progress.rs`). Everything in it is
//! decided. One thing is not the position's: what the follower's Postgres wrote itself while it led was there before. So its position must lie
//! behind its own reigns, as it knows them (`keeper.rs`) and as the group does (`start.rs`); the joining node, another instance, could not tell
//! those entries from others. Its log must reach back to what the state needs next. Once that is known, it does not matter what becomes
//! of the follower, as long as its Postgres lives. Sequences are where that follower has them: a new leader raises them by the log's marks.
//!
//! Why this is exact with the leader: every entry up to the index i that the joining node knew *before* it asked had committed on the leader before it was
//! captured, so the snapshot holds it. Of the entries behind i, transactions that end at or before L are in the snapshot and fall to
//! the raised watermark; the others are applied. The snapshot may hold commits that are not decided yet; the mark lies behind them in
//! the same WAL, so when the mark is decided, so are they. If another node opens before that, the seed is void and starts over. Once
//! it is decided, it does not matter any more who leads: the rows may come from an ex-leader, as long as its Postgres lives.
//!
//! All streams read one snapshot, so it does not matter either in which order pieces come. The log that is written meanwhile stays on
//! the joining node: nothing is let go of that its applier, which is not there yet, would need.
//!
//! The load comes first: the streams share one rate, which falls to a floor while the giver's machine is busy (`core/pace.rs`), and the copying
//! has a thread of its own on both sides.
//!
//! A failure anywhere leaves the node without an origin: it is wiped and seeded again at the next attempt (`role/seed.rs` has the mark by
//! which a cut-short one is known).

mod alive;
mod background;
mod keeper;
mod meter;
mod plan;
mod rows;
mod session;
mod sink;
mod source;
mod start;
#[cfg(test)]
mod tests;
mod throttle;

pub(crate) use sink::header;
pub use sink::{Error, Sink};
pub use source::Source;
pub(crate) use start::wait_decided;

use howdah_protocol::NodeId;
use std::time::Duration;

pub(crate) const LSN_HEADER: &str = "x-howdah-seed-lsn";
pub(crate) const INSTANCE_HEADER: &str = "x-howdah-seed-instance";
/// Prefix of the transactional message that marks the end of a snapshot. The applier passes over it.
pub(crate) const MARK_PREFIX: &str = "howdah.mark";
/// Silence on a stream for this long ends the attempt, on either side.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// Sessions that copy, on both sides: values must be read as they were written, whatever a server is configured to.
const OPTIONS: &str = "-c search_path=pg_catalog -c client_encoding=UTF8 -c datestyle=ISO,YMD -c intervalstyle=postgres -c timezone=UTC \
     -c extra_float_digits=3 -c bytea_output=hex -c lc_monetary=C -c xmloption=content -c row_security=off -c jit=off \
     -c max_parallel_workers_per_gather=0 -c statement_timeout=0 -c idle_in_transaction_session_timeout=0";

/// A node that may give its rows, and its admin address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Giver {
    pub node: NodeId,
    pub address: String,
}
