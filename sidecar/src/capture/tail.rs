//! What an ex-leader's Postgres committed and the group never accepted: the slot, read to the end of the WAL.
//!
//! Nothing is confirmed, under a name that is not the gate's, so that no COMMIT is released and the slot can be read again.

use super::gate::open;
use super::{Error, Options};
use crate::core::assemble::Assembler;
use crate::core::entry::Item;
use crate::pg::connect::Target;
use crate::pg::replication::{Event, Stream};
use howdah_protocol::Lsn;
use std::time::Duration;

const APPLICATION_NAME: &str = "howdah-tail";
/// So many commits are listed; all are counted.
pub const TAIL_COMMITS_MAX: usize = 10_000;
const TAIL_TIMEOUT: Duration = Duration::from_secs(60);
/// The server says where it stands when it is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailCommit {
    pub xid: u32,
    pub end_lsn: Lsn,
}

/// Commits behind the watermark that this node did not apply from the log and that changed something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// The first [`TAIL_COMMITS_MAX`] of them, in commit order.
    pub commits: Vec<TailCommit>,
    pub count: u64,
    /// Where the last of all of them ends.
    pub last_commit: Option<Lsn>,
    /// The slot was read up to here.
    pub last_lsn: Lsn,
}

/// Reads the slot to the present end of the WAL. The watermark is `options.start_after`; the writer does not matter.
pub async fn drain_tail(options: &Options) -> Result<Tail, Error> {
    let limit = TAIL_TIMEOUT;
    let reading = async {
        let end = wal_end(&options.target).await?;
        let (stream, _) = open(options, APPLICATION_NAME).await?;
        let assembler = Assembler::new(options.limits.assemble, options.start_after, options.start_after);
        read_to(end, stream, assembler).await
    };
    tokio::time::timeout(limit, reading).await.unwrap_or(Err(Error::TailTimedOut(limit)))
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

async fn read_to(end: Lsn, mut stream: Stream, mut assembler: Assembler) -> Result<Tail, Error> {
    let mut tail = Tail::default();
    stream.status(Lsn(0), true)?;
    while tail.last_lsn < end {
        match tokio::time::timeout(ASK_EVERY, stream.fill()).await {
            Ok(filled) => filled?,
            Err(_) => stream.status(Lsn(0), true)?,
        }
        while let Some(event) = stream.next_event()? {
            match event {
                Event::Data(message) => assembler.message(message)?,
                Event::Keepalive { wal_end, .. } => tail.last_lsn = wal_end.max(tail.last_lsn),
            }
        }
        while let Some(batch) = assembler.take() {
            batch.items.iter().for_each(|item| note(&mut tail, item));
            assembler.decided();
        }
    }
    stream.close();
    Ok(tail)
}

fn note(tail: &mut Tail, item: &Item) {
    let Item::Commit { xid, end_lsn, .. } = item else { return };
    tail.count += 1;
    tail.last_commit = Some(*end_lsn);
    if tail.commits.len() < TAIL_COMMITS_MAX {
        tail.commits.push(TailCommit { xid: *xid, end_lsn: *end_lsn });
    }
}
