//! Filling a node from the leader: a new one, or one whose Postgres cannot be repaired.
//!
//! ```text
//! leader                                   joining node
//!   temporary slot -> snapshot at LSN L  <-- GET /v1/seed
//!   a mark behind L (a transaction)
//!   roles, pg_dump of the snapshot       --> file -> roles, pg_restore
//!                                            wait: the mark is decided, same leader still
//!                                            progress := (i, decisions at i, the leader's watermark raised to L)
//! ```
//!
//! Why this is exact: every entry up to the index i that the joining node knew *before* it asked had committed on the leader before it was
//! captured, so the snapshot holds it. Of the entries behind i, transactions that end at or before L are in the snapshot and fall to
//! the raised watermark; the others are applied. The snapshot may hold commits that are not decided yet; the mark lies behind them in
//! the same WAL, so when the mark is decided, so are they. If another node opens before that, the seed is void and starts over.
//!
//! A failure anywhere leaves the node without an origin: it is wiped and seeded again at the next attempt.

mod sink;
mod source;

pub use sink::{Error, Sink};
pub(crate) use sink::{header, wait_decided};
pub use source::Source;

pub(crate) const LSN_HEADER: &str = "x-howdah-seed-lsn";
pub(crate) const INSTANCE_HEADER: &str = "x-howdah-seed-instance";
/// Prefix of the transactional message that marks the end of a snapshot. The applier passes over it.
pub(crate) const MARK_PREFIX: &str = "howdah.mark";
