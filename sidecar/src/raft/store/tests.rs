//! openraft's own suite over this store, and what it does not ask: crashes, torn tails, flipped bits, and disks that fail.

mod crash;
mod faults;

use super::record::SEGMENT_HEADER_LEN;
use super::record::{self, Record};
use super::{LogStore, SEGMENT_LEN};
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

pub(in crate::raft) fn entry(term: u64, index: u64, len: usize) -> RaftEntry {
    let bytes = Bytes::from(vec![u8::try_from(index % 251).unwrap(); len]);
    RaftEntry { log_id: log_id(term, index), payload: EntryPayload::Normal(Proposal { term, bytes }) }
}

pub(in crate::raft) fn vote(term: u64) -> Vote {
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

/// Where the records end in the newest file.
fn written_len(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// Wherever the crash cut, a prefix of what was written is there, and the log goes on from it. The zeros are sectors that never reached the
/// disk: all that is behind the last fsync may be lost, so the whole is written as one append here.
#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    let source = tempfile::tempdir().unwrap();
    let mut store = open(source.path());
    append(&mut store, (0..20).map(|index| entry(3, index, 100)).collect()).await.unwrap();
    store.close();
    let name = last_chunk(source.path());
    let bytes = fs::read(&name).unwrap();
    let end = written_len(&bytes);
    for kept in [1, 60, 200, 1500].map(|torn| end - torn).into_iter().chain([SEGMENT_HEADER_LEN, 1024, 2048, 2560]) {
        let dir = tempfile::tempdir().unwrap();
        let mut torn = bytes.clone();
        torn[kept..].fill(0);
        // A sector that did reach the disk, behind some that did not.
        let sector = end / 512 * 512;
        if sector > kept {
            torn[sector..end].copy_from_slice(&bytes[sector..end]);
        }
        fs::write(dir.path().join(name.file_name().unwrap()), torn).unwrap();
        let mut store = open(dir.path());
        let next = store.get_log_state().await.unwrap().last_log_id.map_or(0, |last| last.index + 1);
        assert!(next < 20, "{kept} bytes kept");
        assert_eq!(store.read(0, 100, usize::MAX).unwrap(), (0..next).map(|index| entry(3, index, 100)).collect::<Vec<_>>());
        append(&mut store, vec![entry(5, next, 10)]).await.unwrap();
        store.close();
        assert_eq!(open(dir.path()).read(next, 100, usize::MAX).unwrap(), vec![entry(5, next, 10)]);
    }
}

/// Silently dropping what was on disk would be a lost commit; refusing to open is not. Only in the very last write a flip cannot be told
/// from a cut.
#[tokio::test]
async fn a_flipped_bit_is_never_taken_for_a_torn_tail() {
    let source = tempfile::tempdir().unwrap();
    filled(source.path()).await;
    let name = last_chunk(source.path());
    let bytes = fs::read(&name).unwrap();
    let mut last_write = Vec::new();
    record::encode(&Record::Commit(log_id(3, 15)), 0, 0, &mut last_write).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name.file_name().unwrap());
    for at in (0..written_len(&bytes) - last_write.len()).step_by(7).filter(|at| !(90..SEGMENT_HEADER_LEN - 4).contains(at)) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, bad).unwrap();
        let error = LogStore::open(dir.path(), 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "flip at {at}: {error}");
    }
}

#[tokio::test]
async fn the_cache_is_bounded_and_what_left_it_is_read_from_disk() {
    const LEN: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(dir.path(), 8 << 20).unwrap();
    for index in 0..50 {
        append(&mut store, vec![entry(1, index, LEN)]).await.unwrap();
    }
    let cached = store.shared.lock().log().unwrap().cached_bytes();
    assert!((7 << 20..=8 << 20).contains(&cached), "{cached} bytes");
    assert_eq!(store.read(3, 4, 1).unwrap(), vec![entry(1, 3, LEN)]);
    assert!(store.bytes().unwrap() > 50 << 20);
    store.purge(log_id(1, 40)).await.unwrap();
    assert!(store.bytes().unwrap() < 10 << 20);
    assert!(store.read(40, 41, 1).unwrap().is_empty());
    store.close();
    let left: u64 = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(left <= 4 * SEGMENT_LEN, "{left} bytes are left after a purge");
    assert_eq!(open(dir.path()).read(41, 42, 1).unwrap(), vec![entry(1, 41, LEN)]);
}

/// An entry may be larger than a segment.
#[tokio::test]
async fn large_and_small_entries_alternate() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let len = |index: u64| if index % 3 == 1 { SEGMENT_LEN as usize + 5 } else { 100 };
    append(&mut store, (0..7).map(|index| entry(1, index, len(index))).collect()).await.unwrap();
    store.close();
    let store = open(dir.path());
    assert_eq!(store.read(0, 7, usize::MAX).unwrap(), (0..7).map(|index| entry(1, index, len(index))).collect::<Vec<_>>());
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
