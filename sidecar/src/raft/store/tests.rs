//! openraft's own suite over this store, and what it does not ask: crashes, torn tails, flipped bits, and disks that fail.

mod crash;

use super::LogStore;
use crate::raft::machine::Machine;
use crate::raft::snapshot::SnapshotFile;
use crate::raft::types::{LeaderId, Proposal, RaftEntry, TypeConfig, Vote, log_id};
use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader, StorageError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::open(dir.path(), 1 << 20).unwrap();
        let machine = Machine::open(SnapshotFile::in_folder(dir.path())).unwrap();
        Ok((dir, store, machine))
    }
}

#[tokio::test]
async fn openrafts_storage_suite() {
    Suite::test_all(Builder).await.unwrap();
}

pub(super) fn entry(term: u64, index: u64, len: usize) -> RaftEntry {
    let bytes = Bytes::from(vec![u8::try_from(index % 251).unwrap(); len]);
    RaftEntry { log_id: log_id(term, index), payload: EntryPayload::Normal(Proposal { term, bytes }) }
}

pub(super) fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId { term, voted_for: 1 }, committed: false }
}

/// Appends and waits for the disk.
pub(super) async fn append(store: &mut LogStore, entries: Vec<RaftEntry>) -> io::Result<()> {
    let (sender, receiver) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(sender)).await?;
    tokio::time::timeout(Duration::from_secs(20), receiver).await.expect("an answer in time").expect("an answer")
}

pub(super) fn open(dir: &Path) -> LogStore {
    LogStore::open(dir, 1 << 20).unwrap()
}

/// The file that was written last.
fn last_chunk(dir: &Path) -> PathBuf {
    let chunks = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    chunks.filter(|path| path.extension().is_some_and(|end| end == "wal")).max().unwrap()
}

async fn filled(dir: &Path) {
    let mut store = open(dir);
    store.save_vote(&vote(3)).await.unwrap();
    append(&mut store, (0..20).map(|index| entry(3, index, 100)).collect()).await.unwrap();
    store.save_committed(Some(log_id(3, 15))).await.unwrap();
    store.close();
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let mut store = open(dir.path());
    assert_eq!(store.read_vote().await.unwrap(), Some(vote(3)));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(3, 15)));
    assert_eq!(store.read(0, 100, usize::MAX).unwrap(), (0..20).map(|index| entry(3, index, 100)).collect::<Vec<_>>());
    store.truncate_after(Some(log_id(3, 17))).await.unwrap();
    append(&mut store, vec![entry(4, 18, 5)]).await.unwrap();
    store.purge(log_id(3, 4)).await.unwrap();
    store.close();
    let mut store = open(dir.path());
    let state = store.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(3, 4)), Some(log_id(4, 18))));
    assert_eq!(store.read(0, 100, usize::MAX).unwrap().first(), Some(&entry(3, 5, 100)));
}

#[tokio::test]
async fn a_read_stops_at_its_bound_but_not_before_the_first_entry() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let store = open(dir.path());
    assert_eq!(store.read(0, 20, 1).unwrap().len(), 1);
    assert_eq!(store.read(0, 20, 4 * 164).unwrap().len(), 4);
}

/// Wherever the crash cut, a prefix of what was written is there, and the log goes on from it.
#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    let source = tempfile::tempdir().unwrap();
    filled(source.path()).await;
    let bytes = fs::read(last_chunk(source.path())).unwrap();
    let cuts = [1, 60, 200, 1500].map(|torn| (bytes.len() - torn, 0));
    // Sectors that never reached the disk are zeros.
    let sectors = [512, 1024, 2048, 2560].map(|kept| (kept, bytes.len() - kept + 1024));
    for (kept, zeros) in cuts.into_iter().chain(sectors) {
        let dir = tempfile::tempdir().unwrap();
        let mut torn = bytes[..kept].to_vec();
        torn.resize(kept + zeros, 0);
        fs::write(dir.path().join(last_chunk(source.path()).file_name().unwrap()), torn).unwrap();
        let mut store = open(dir.path());
        let last = store.get_log_state().await.unwrap().last_log_id.unwrap();
        let found = store.read(0, 100, usize::MAX).unwrap();
        assert_eq!(found, (0..=last.index).map(|index| entry(3, index, 100)).collect::<Vec<_>>());
        append(&mut store, vec![entry(5, last.index + 1, 10)]).await.unwrap();
        store.close();
        assert_eq!(open(dir.path()).read(last.index + 1, 100, 1).unwrap(), vec![entry(5, last.index + 1, 10)]);
    }
}

/// Silently dropping what was on disk would be a lost commit; refusing to open is not. Only in the very last record a flip cannot be
/// told from a cut.
#[tokio::test]
async fn a_flipped_bit_is_never_taken_for_a_torn_tail() {
    let source = tempfile::tempdir().unwrap();
    filled(source.path()).await;
    let name = last_chunk(source.path());
    let bytes = fs::read(&name).unwrap();
    for at in (0..bytes.len() - 64).step_by(3) {
        let dir = tempfile::tempdir().unwrap();
        let mut bad = bytes.clone();
        // Also where a torn tail follows far behind.
        bad.resize(bytes.len() + at % 2 * 1024, 0);
        bad[at] ^= 1 << (at % 8);
        fs::write(dir.path().join(name.file_name().unwrap()), bad).unwrap();
        assert!(LogStore::open(dir.path(), 1 << 20).is_err(), "flip at {at}");
    }
}

#[tokio::test]
async fn the_cache_is_bounded_and_what_left_it_is_read_from_disk() {
    const LEN: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(dir.path(), 8 << 20).unwrap();
    for index in 0..100 {
        append(&mut store, vec![entry(1, index, LEN)]).await.unwrap();
    }
    let stat = store.shared.lock().log().unwrap().stat();
    // What the open file and the one before it hold stays; all else is within the bound.
    assert!(stat.payload_cache_size < (8 + 2 * 33) << 20, "{} bytes", stat.payload_cache_size);
    assert!(stat.closed_chunks.len() >= 2);
    assert_eq!(store.read(3, 4, 1).unwrap(), vec![entry(1, 3, LEN)]);
    store.purge(log_id(1, 90)).await.unwrap();
    append(&mut store, vec![entry(1, 100, 1)]).await.unwrap();
    store.close();
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert!(files <= 3, "{files} files are left after a purge");
}

/// A disk that takes no more: everybody who waits hears of it, in time, and nothing is taken afterwards.
#[tokio::test]
async fn a_failed_write_reaches_everybody() {
    let Some(dir) = crate::raft::tests::small_disk::enter("raft::store::tests::a_failed_write_reaches_everybody") else { return };
    let mut store = open(&dir);
    let mut index = 0;
    while append(&mut store, vec![entry(1, index, 10_000)]).await.is_ok() {
        index += 1;
        assert!(index < 1000, "the disk was to be full by now");
    }
    assert!(index > 0, "the disk was to take something");
    assert!(append(&mut store, vec![entry(1, index + 1, 10)]).await.is_err());
    assert!(store.save_vote(&vote(9)).await.is_err());
    store.close();
    assert!(append(&mut store, vec![entry(1, index + 1, 10)]).await.is_err());
}
