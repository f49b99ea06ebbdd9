//! What an ex-leader's Postgres committed and the group never accepted: the slot, read to the end of the WAL.
//!
//! Nothing is confirmed, under a name that is not the gate's, so that no COMMIT is released and the slot can be read again. Transactions come
//! whole, after their commit: what a large one rolled back is never seen, and the server, not this process, holds what is not
//! finished. What is kept of them is bounded by the collector.

use super::{Error, Options};
use crate::core::divergence::{Collector, Divergence, Limits};
use crate::pg::connect::Target;
use crate::pg::replication::{self, Connection, Event, Stream};
use howdah_protocol::Lsn;
use std::time::Duration;
use tokio::time::Instant;

const APPLICATION_NAME: &str = "howdah-tail";
/// So long without a change or a further position ends the attempt.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The server says where it stands when it is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// A slot stays in use for a moment after its last connection broke.
const SLOT_IN_USE: &str = "55006";
const SLOT_RETRY_EVERY: Duration = Duration::from_millis(20);
const SLOT_RETRY_MAX: u32 = 250;

/// Commits behind the watermark that this node did not apply from the log and that changed something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tail {
    pub count: u64,
    /// Where the last of them ends.
    pub last_commit: Option<Lsn>,
}

/// Reads the slot to the present end of the WAL, and counts. The watermark is `options.start_after`; the writer does not matter.
pub async fn drain_tail(options: &Options) -> Result<Tail, Error> {
    let Divergence { count, last_commit, .. } = read_tail(options, Limits::rows(0)).await?;
    Ok(Tail { count, last_commit })
}

/// As [`drain_tail`], and keeps what was changed.
pub async fn read_tail(options: &Options, limits: Limits) -> Result<Divergence, Error> {
    let end = wal_end(&options.target).await?;
    let mut stream = open(options).await?;
    let mut collector = Collector::new(limits, options.start_after);
    let (mut read_to, mut progressed) = (Lsn(0), Instant::now());
    stream.status(Lsn(0), true)?;
    while read_to < end {
        match tokio::time::timeout(ASK_EVERY, stream.fill()).await {
            Ok(filled) => filled?,
            Err(_) => stream.status(Lsn(0), true)?,
        }
        while let Some(event) = stream.next_event()? {
            match event {
                Event::Data(message) => collector.message(message)?,
                Event::Keepalive { wal_end, .. } if wal_end > read_to => read_to = wal_end,
                Event::Keepalive { .. } => continue,
            }
            progressed = Instant::now();
        }
        if progressed.elapsed() > STALL_TIMEOUT {
            return Err(Error::TailTimedOut(STALL_TIMEOUT));
        }
    }
    stream.close();
    Ok(collector.finish())
}

async fn open(options: &Options) -> Result<Stream, Error> {
    for _ in 0..SLOT_RETRY_MAX {
        let mut connection = Connection::open(&options.target, APPLICATION_NAME).await?;
        if replication::confirmed_flush(&mut connection, &options.slot).await?.is_none() {
            return Err(Error::NoSlot(options.slot.clone()));
        }
        match connection.start_whole(&options.slot, &options.publication, options.start_after).await {
            Err(error) if error.code() == Some(SLOT_IN_USE) => tokio::time::sleep(SLOT_RETRY_EVERY).await,
            started => return Ok(started?),
        }
    }
    Err(replication::Error::TimedOut { what: "with the slot free", limit: SLOT_RETRY_EVERY * SLOT_RETRY_MAX }.into())
}

/// A position behind every commit so far, up to which the WAL is flushed.
///
/// `pg_current_wal_flush_lsn` may lie inside a record whose rest nobody flushes, and decoding would never get there. So a record of our
/// own marks the place: a message outside of any transaction, which nobody captures, in a transaction whose commit flushes it.
async fn wal_end(target: &Target) -> Result<Lsn, Error> {
    let client = target.connect(APPLICATION_NAME, "").await?;
    // As a difference to 0/0, which every driver can read.
    let mark = "SELECT (pg_catalog.pg_logical_emit_message(false, 'howdah', 'tail') - '0/0'::pg_lsn)::int8, pg_catalog.txid_current()";
    let row = client.query_one(mark, &[]).await?;
    Ok(Lsn(row.get::<_, i64>(0).unsigned_abs()))
}
