//! Filling a node from the leader: a new one, or one whose Postgres cannot be repaired.
//!
//! ```text
//! leader                                       joining node
//!                                                wait: the log is here up to where the leader is
//!   temporary slot -> snapshot at LSN L      <-- POST /v1/seed
//!   a mark behind L (a transaction)
//!   a transaction with the snapshot, and locks
//!   roles, tables cut into pieces, sequences --> wait: the mark is decided, same leader still
//!   pg_dump of the schema at the snapshot    --> roles, tables
//!   COPY of pieces, several at once          --> COPY
//!                                                indexes, constraints, sequences, statistics
//!                                                progress := (i, decisions at i, the leader's watermark raised to L)
//! ```
//!
//! Why this is exact: every entry up to the index i that the joining node knew *before* it asked had committed on the leader before it was
//! captured, so the snapshot holds it. Of the entries behind i, transactions that end at or before L are in the snapshot and fall to
//! the raised watermark; the others are applied. The snapshot may hold commits that are not decided yet; the mark lies behind them in
//! the same WAL, so when the mark is decided, so are they. If another node opens before that, the seed is void and starts over. Once
//! it is decided, it does not matter any more who leads: the rows may come from an ex-leader, as long as its Postgres lives.
//!
//! All streams read one snapshot, so it does not matter either in which order pieces come. The log that is written meanwhile stays on
//! the joining node: nothing is let go of that its applier, which is not there yet, would need.
//!
//! The leader's load comes first: its streams share one rate, which falls to a floor while its machine is busy (`core/pace.rs`), and the
//! copying has a thread of its own on both sides.
//!
//! A failure anywhere leaves the node without an origin: it is wiped and seeded again at the next attempt (`role/seed.rs` has the mark by
//! which a cut-short one is known).

mod background;
mod meter;
mod plan;
mod rows;
mod session;
mod sink;
mod source;
mod throttle;

pub use sink::{Error, Sink};
pub(crate) use sink::{header, wait_decided};
pub use source::Source;

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
