//! The log on disk: vote, entries and commit index in one write-ahead log (raft-log), in the order in which openraft wrote them.
//!
//! ```text
//!   append ─┐                              ┌─ IOFlushed of everything that waited when this fsync began
//!   vote  ──┼─► write-ahead log ─► fsync ──┤
//!   purge ──┘   (one at a time)            └─ begins the next fsync when somebody waits
//! ```
//!
//! **Group commit.** There is at most one fsync under way; whoever comes meanwhile shares the next one. raft-log has a batching of its
//! own, which waits a millisecond for company before each fsync: here it is off, so a lone commit pays for its fsync and nothing else.
//!
//! **Durability.** A vote returns after its fsync. Entries are readable at once and count after their fsync. A record that a crash cut
//! off at the end of the file was never acknowledged; raft-log removes it (see `tail` for one more kind). A bad checksum anywhere else
//! makes it refuse to open.
//!
//! **Failure.** The first failed write stops raft-log's writer for good: everybody who waits gets the error, and so does every later
//! caller. openraft stops on it. Nothing is retried: after a failed fsync nobody knows what the disk holds.
//!
//! **Locks.** The writer thread takes the lock in `FlushDone::send`. So nobody who holds it may wait for the writer: the queue to it has
//! room for 1024 requests and no limit in bytes, and one fsync plus the closing of chunks never fills it.

mod flush;
mod reader;
mod tail;

#[cfg(test)]
mod tests;

use super::codec::{StoredLogId, StoredPayload, StoredVote};
use super::types::{LogId, RaftEntry, TypeConfig, Vote, weight};
use flush::{FlushDone, Waiter};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Config, RaftLog};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Files are closed at this size. It bounds what is read again at a start (one file at a time is held in memory), how much of the cache
/// cannot be evicted, and how much disk a purge leaves behind.
const CHUNK_BYTES_MAX: usize = 32 << 20;
const CHUNK_RECORDS_MAX: usize = 256 << 10;
const READ_BUFFER_LEN: usize = 1 << 20;
/// The cache is bounded by bytes; this only keeps raft-log's own default from being the smaller one.
const CACHE_ITEMS_MAX: usize = 1 << 20;
/// A disk that does not answer for this long has failed.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(20);

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct LogTypes;

impl raft_log::Types for LogTypes {
    type LogId = StoredLogId;
    type LogPayload = StoredPayload;
    type Vote = StoredVote;
    type Callback = FlushDone;
    type UserData = u64;

    fn log_index(log_id: &StoredLogId) -> u64 {
        log_id.0.index
    }

    fn payload_size(payload: &StoredPayload) -> u64 {
        weight(&payload.0) as u64
    }
}

/// The log of one node. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` once it was closed.
    log: Option<RaftLog<LogTypes>>,
    /// Who gets the result of the next fsync.
    waiting: Vec<Waiter>,
    flushing: bool,
}

impl LogStore {
    /// Replays what is on disk. Blocks: for as long as reading the log takes.
    pub(crate) fn open(dir: &Path, cache_bytes_max: usize) -> io::Result<Self> {
        let dir = dir.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the folder's name is not UTF-8"))?;
        let mut config = Config::new(dir);
        config.log_cache_max_items = Some(CACHE_ITEMS_MAX);
        config.log_cache_capacity = Some(cache_bytes_max);
        config.wal.read_buffer_size = Some(READ_BUFFER_LEN);
        config.wal.chunk_max_size = Some(CHUNK_BYTES_MAX);
        config.wal.chunk_max_records = Some(CHUNK_RECORDS_MAX);
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        config.wal.flush_queue_max_bytes = Some(usize::MAX / 2);
        let config = Arc::new(config);
        let log = match RaftLog::open(config.clone()) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData && tail::cut(Path::new(dir))? => RaftLog::open(config)?,
            opened => opened?,
        };
        let state = State { log: Some(log), waiting: Vec::new(), flushing: false };
        Ok(Self { shared: Arc::new(Shared { state: Mutex::new(state) }) })
    }

    /// Nothing was ever written.
    pub(crate) fn is_pristine(&self) -> io::Result<bool> {
        let mut state = self.shared.lock();
        let state = state.log()?.log_state();
        Ok(state.vote().is_none() && state.last().is_none() && state.purged().is_none())
    }

    /// The first entry that can still be read is the one after this.
    pub(crate) fn purged(&self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().log()?.log_state().purged().map(|id| id.0))
    }

    /// Writes out what is pending, ends the writer and releases the folder. Every later call fails. Blocks for an fsync.
    pub(crate) fn close(&self) {
        let log = self.shared.lock().log.take();
        drop(log);
    }

    async fn flushed(&self) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.shared.lock().flush(&self.shared, Some(Waiter::Caller(sender)))?;
        match tokio::time::timeout(FLUSH_WAIT_MAX, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(io::Error::other("the log's writer has stopped")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the log's disk does not answer")),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves raft-log's own state consistent: each of its records is checked before it is taken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn log(&mut self) -> io::Result<&mut RaftLog<LogTypes>> {
        self.log.as_mut().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the log is closed"))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let mut state = self.shared.lock();
        let state = state.log()?.log_state();
        let last_purged_log_id = state.purged().map(|id| id.0);
        Ok(LogState { last_log_id: state.last().map(|id| id.0).max(last_purged_log_id), last_purged_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.shared.lock().log()?.save_vote(StoredVote(*vote))?;
        self.flushed().await
    }

    /// Rides along with the next fsync: losing it only means that a restart waits for a leader to learn it again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.shared.lock().log()?.commit(StoredLogId(committed))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().log()?.log_state().committed().map(|id| id.0))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.shared.lock();
        state.log()?.append(entries.into_iter().map(|entry| (StoredLogId(entry.log_id), StoredPayload(entry.payload))))?;
        state.flush(&self.shared, Some(Waiter::Raft(callback)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index + 1);
        let mut state = self.shared.lock();
        let log = state.log()?;
        if log.log_state().last().is_some_and(|last| last.0.index >= from) {
            log.truncate(from)?;
        }
        Ok(())
    }

    /// raft-log unlinks files only behind an fsync of the purge, so one is begun.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.log()?.purge(StoredLogId(upto))?;
        state.flush(&self.shared, None)
    }
}
