//! The log on disk: vote, entries and commit index in one write-ahead log, in the order in which openraft wrote them.
//!
//! ```text
//!   append ─┐                              ┌─ IOFlushed of everything that waited when this fsync began
//!   vote  ──┼─► segment file ────► fsync ──┤
//!   purge ──┘   (one at a time)            └─ begins the next fsync when somebody waits
//! ```
//!
//! **Group commit.** There is at most one fsync under way; whoever comes meanwhile shares the next one (`flush`).
//!
//! **Segments** of a fixed length are overwritten from their beginning, and used again when they were purged, so that an fsync writes
//! records and nothing else (`log`, `record`).
//!
//! **Durability.** A vote returns after its fsync. Entries are readable at once and count after their fsync. What a crash cut off was never
//! acknowledged and is removed; damage anywhere else makes the log refuse to open (`replay`).
//!
//! **Failure.** The first failed write ends the log: everybody who waits gets the error, and so does every later caller. openraft stops on
//! it. Nothing is retried: after a failed fsync nobody knows what the disk holds.

mod cache;
mod disk;
mod flush;
mod index;
mod log;
mod reader;
mod record;
mod replay;
mod watch;

#[cfg(test)]
pub(super) mod tests;

use super::types::{LogId, RaftEntry, TypeConfig, Vote};
use disk::{Disk, Folder};
use flush::{Waiter, again};
use log::Log;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use record::Record;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use watch::Watch;

/// Bounds what is read again at a start at once, and how much disk a purge leaves behind.
const SEGMENT_LEN: u64 = 8 << 20;
/// A disk that does not answer for this long has failed.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(20);

/// The log of one node. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    watch: Arc<Watch>,
}

#[derive(Debug)]
struct State {
    /// The error that ended it.
    log: io::Result<Log>,
    /// Who gets the result of the next fsync.
    waiting: Vec<Waiter>,
    flushing: bool,
    /// How long an fsync takes, smoothed.
    average: Duration,
}

impl LogStore {
    /// Replays what is on disk. Blocks: for as long as reading the log takes.
    pub(crate) fn open(dir: &Path, cache_bytes_max: usize) -> io::Result<Self> {
        Self::open_on(Arc::new(Folder(dir.to_owned())), SEGMENT_LEN, cache_bytes_max)
    }

    fn open_on(disk: Arc<dyn Disk>, segment_len: u64, cache_bytes_max: usize) -> io::Result<Self> {
        let log = Log::open(disk, segment_len, cache_bytes_max)?;
        let state = State { log: Ok(log), waiting: Vec::new(), flushing: false, average: Duration::ZERO };
        Ok(Self { shared: Arc::new(Shared { state: Mutex::new(state), watch: Watch::start()? }) })
    }

    /// Nothing was ever written.
    pub(crate) fn is_pristine(&self) -> io::Result<bool> {
        let head = self.shared.lock().log()?.head();
        Ok(head.vote.is_none() && head.last.is_none() && head.purged.is_none())
    }

    /// The first entry that can still be read is the one after this.
    pub(crate) fn purged(&self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().log()?.head().purged)
    }

    /// How much disk the entries take that can be read.
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        Ok(self.shared.lock().log()?.bytes())
    }

    /// The longest write since this was asked last, the one that is under way included.
    pub(crate) fn slowest_write(&self) -> Duration {
        self.shared.watch.longest()
    }

    /// Writes out what is pending and releases the folder. Every later call fails. Blocks for an fsync.
    pub(crate) fn close(&self) {
        let mut state = self.shared.lock();
        let waiters = std::mem::take(&mut state.waiting);
        let closed = Err(io::Error::new(io::ErrorKind::NotConnected, "the log is closed"));
        let result = std::mem::replace(&mut state.log, closed).and_then(|mut log| log.write([]).and_then(|()| log.sync()));
        drop(state);
        flush::tell(waiters, &result);
    }

    async fn flushed(&self) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.shared.flush(Waiter::Caller(sender));
        match tokio::time::timeout(FLUSH_WAIT_MAX, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(io::Error::other("the log's writer has stopped")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the log's disk does not answer")),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write that failed ends the log. It is watched, because one that begins a segment or purges waits for the disk.
    fn write(&self, write: impl FnOnce(&mut Log) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        let result = state.log().and_then(|log| self.watch.during(|| write(log)));
        if let (Err(error), Ok(_)) = (&result, &state.log) {
            state.log = Err(again(error));
        }
        result
    }

    /// Begins an fsync of all that was written until now, or joins the next one.
    fn flush(self: &Arc<Self>, waiter: Waiter) {
        let mut state = self.lock();
        state.waiting.push(waiter);
        if !std::mem::replace(&mut state.flushing, true) {
            tokio::spawn(flush::run(self.clone()));
        }
        if let Some(make) = state.log.as_mut().ok().and_then(Log::make_spare) {
            let shared = self.clone();
            tokio::task::spawn_blocking(move || shared.spare_made(make()));
        }
    }

    /// What has failed is not tried again: a full disk would be asked with every append.
    fn spare_made(&self, result: io::Result<()>) {
        match (result, &mut self.lock().log) {
            (Ok(()), Ok(log)) => log.spare_made(),
            (Ok(()), Err(_)) => {}
            (Err(error), _) => tracing::warn!(%error, "cannot prepare the log's next segment"),
        }
    }
}

impl State {
    fn log(&mut self) -> io::Result<&mut Log> {
        self.log.as_mut().map_err(|error| again(error))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let head = self.shared.lock().log()?.head();
        Ok(LogState { last_log_id: head.last, last_purged_log_id: head.purged })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.shared.write(|log| log.write([Record::Vote(*vote)]))?;
        self.flushed().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.shared.lock().log()?.commit(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().log()?.head().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.shared.write(|log| log.write(entries.into_iter().map(Record::Entry)))?;
        self.shared.flush(Waiter::Raft(callback));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let next = last.map_or(0, |id| id.index + 1);
        self.shared.write(|log| if log.next() > next { log.write([Record::Keep(last)]) } else { Ok(()) })
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.shared.write(|log| log.purge(upto))
    }
}
