//! The log's files while it is open: appending, reading, beginning new segments and giving up old ones.
//!
//! Nothing here waits for anybody and nothing is concurrent; `store` puts a lock around it. An error of a write leaves the log unusable: the
//! caller never uses it again, because nobody knows what the disk holds.

use super::cache::Cache;
use super::disk::{Disk, DiskFile};
use super::index::{Index, Slot};
use super::record::{self, Head, Raw, Record, SEGMENT_HEADER_LEN};
use super::replay::{self, Replayed};
use crate::raft::codec::invalid;
use crate::raft::types::{LogId, RaftEntry, weight};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// A file of zeros, or of records of an earlier use, that the next segment is made of.
const SPARE: &str = "spare";
/// A spare that is being made, by whatever thread. No other code touches this name, and none touches [`SPARE`] meanwhile.
const SPARE_NEW: &str = "spare.new";
/// A segment that is made without a spare.
const SEGMENT_NEW: &str = "segment.new";
const ZEROS_LEN: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    Missing,
    /// Somebody was asked to make it.
    Making,
    Ready,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) file: Arc<dyn DiskFile>,
}

#[derive(Debug)]
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    segment_len: u64,
    /// Never empty; the last one is written to.
    segments: VecDeque<Segment>,
    index: Index,
    cache: Cache,
    /// Where the next record goes.
    position: u64,
    /// What is in front of this is on disk.
    durable: u64,
    /// A commit index that rides along with the next write.
    committed: Option<LogId>,
    spare: Spare,
    buffer: Vec<u8>,
}

impl Log {
    pub(super) fn open(disk: Arc<dyn Disk>, segment_len: u64, cache_bytes_max: usize) -> io::Result<Self> {
        let Replayed { segments, index, position, cache } = replay::replay(&*disk, cache_bytes_max)?;
        let mut log = Self {
            disk,
            segment_len,
            segments,
            index,
            cache,
            position,
            durable: position,
            committed: None,
            spare: Spare::Missing,
            buffer: Vec::new(),
        };
        if log.disk.list()?.iter().any(|name| name == SPARE) && log.disk.open(SPARE)?.len()? == segment_len {
            log.spare = Spare::Ready;
        }
        if log.segments.is_empty() {
            if fill_spare(&*log.disk, segment_len).is_ok() {
                log.spare = Spare::Ready;
            }
            log.begin_segment()?;
        }
        Ok(log)
    }

    pub(super) fn head(&self) -> Head {
        let head = *self.index.head();
        Head { committed: self.committed.or(head.committed), ..head }
    }

    /// The index that the next entry has.
    pub(super) fn next(&self) -> u64 {
        self.index.next()
    }

    /// How much disk the entries take that are kept. Up to a segment in front of them is there too.
    pub(super) fn bytes(&self) -> u64 {
        self.position - self.index.oldest().unwrap_or(self.position)
    }

    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Where the log ends, and the file that a sync of it has to sync.
    pub(super) fn end(&self) -> (u64, Arc<dyn DiskFile>) {
        (self.position, self.current().file.clone())
    }

    /// A sync that began when the log ended at `position` has succeeded.
    pub(super) fn synced(&mut self, position: u64) {
        self.durable = self.durable.max(position);
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.durable < self.position {
            self.current().file.sync()?;
            self.durable = self.position;
        }
        Ok(())
    }

    /// Remembers it until something is written anyway: losing it only means that a restart learns it again from a leader.
    pub(super) fn commit(&mut self, log_id: LogId) {
        self.committed = Some(log_id);
    }

    /// Writes records, in order. They count once they are synced.
    pub(super) fn write(&mut self, records: impl IntoIterator<Item = Record>) -> io::Result<()> {
        let commit = self.committed.take().map(Record::Commit);
        // What is in the buffer begins at `position`.
        self.buffer.clear();
        for record in commit.into_iter().chain(records) {
            self.put(record)?;
        }
        self.write_buffer()
    }

    fn put(&mut self, record: Record) -> io::Result<()> {
        let at = self.buffer.len();
        record::encode(&record, self.current().start, self.durable, &mut self.buffer)?;
        if !self.fits(self.buffer.len()) && self.position + at as u64 > self.segment_start() {
            self.buffer.truncate(at);
            self.begin_segment()?;
            return self.put(record);
        }
        let (position, len) = (self.position + at as u64, self.buffer.len() - at);
        self.index.admit(&record, position, len)?;
        self.cache.admit(record);
        Ok(())
    }

    fn current(&self) -> &Segment {
        self.segments.back().expect("an open log has a segment")
    }

    /// Where the current segment's first record is.
    fn segment_start(&self) -> u64 {
        self.current().start
    }

    fn fits(&self, more: usize) -> bool {
        SEGMENT_HEADER_LEN as u64 + (self.position - self.segment_start()) + more as u64 <= self.segment_len
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let segment = self.current();
            segment.file.write_at(&self.buffer, SEGMENT_HEADER_LEN as u64 + self.position - segment.start)?;
            self.position += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// The old segment is on disk to its last byte before the new one can be there.
    fn begin_segment(&mut self) -> io::Result<()> {
        if !self.segments.is_empty() {
            self.write_buffer()?;
            self.sync()?;
        }
        let (name, file) = match self.spare {
            Spare::Ready => {
                self.spare = Spare::Missing;
                (SPARE, self.disk.open(SPARE)?)
            }
            Spare::Missing | Spare::Making => (SEGMENT_NEW, self.disk.create(SEGMENT_NEW)?),
        };
        file.write_at(&record::encode_header(self.position, self.index.head()), 0)?;
        file.sync()?;
        self.disk.rename(name, &replay::name(self.position))?;
        self.disk.sync_names()?;
        self.segments.push_back(Segment { start: self.position, file });
        Ok(())
    }

    /// What to run, on whatever thread, so that the next segment does not have to grow while it is written; `None` where that is not
    /// needed. Then [`Log::spare_made`] has to be told.
    pub(super) fn make_spare(&mut self) -> Option<impl FnOnce() -> io::Result<()> + Send + use<>> {
        if self.spare != Spare::Missing {
            return None;
        }
        self.spare = Spare::Making;
        let (disk, len) = (self.disk.clone(), self.segment_len);
        Some(move || fill_spare(&*disk, len))
    }

    pub(super) fn spare_made(&mut self) {
        self.spare = Spare::Ready;
    }

    /// Forgets entries until `upto` and gives up the files that only held such. Durable when it returns.
    pub(super) fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.write([Record::Purge(upto)])?;
        self.sync()?;
        let needed = self.index.oldest().unwrap_or(self.position);
        while self.segments.get(1).is_some_and(|second| second.start <= needed) {
            let first = self.segments.pop_front().expect("there are two");
            let name = replay::name(first.start);
            if self.spare == Spare::Missing && first.file.len()? == self.segment_len {
                self.disk.rename(&name, SPARE)?;
                // Under its old name it must not come back with new content.
                self.disk.sync_names()?;
                self.spare = Spare::Ready;
            } else {
                self.disk.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Entries `from..to` that exist, until their weight reaches `bytes_max`; at least one where there is one.
    pub(super) fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let (from, to) = (from.max(self.index.first()), to.min(self.index.next()));
        let mut bytes = 0;
        let mut entries = Vec::new();
        for index in from..to {
            let entry = match self.cache.get(index) {
                Some(entry) => entry.clone(),
                None => self.read_slot(self.index.slot(index).expect("between the first and the next"))?,
            };
            bytes += weight(&entry.payload);
            entries.push(entry);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }

    fn read_slot(&self, slot: Slot) -> io::Result<RaftEntry> {
        let behind = self.segments.partition_point(|segment| segment.start <= slot.position);
        let segment = &self.segments[behind - 1];
        let mut bytes = vec![0; slot.len];
        segment.file.read_at(&mut bytes, SEGMENT_HEADER_LEN as u64 + slot.position - segment.start)?;
        match Raw::find(&bytes, segment.start).map(|raw| raw.decode()).transpose()? {
            Some(Record::Entry(entry)) => Ok(entry),
            _ => Err(invalid(format!("{} is damaged at byte {}", replay::name(segment.start), slot.position - segment.start))),
        }
    }
}

/// Zeros on disk: overwriting them is cheaper to sync than growing a file, which writes the inode each time. On a full disk there is no spare,
/// and the next segment grows as it is written, which is as safe.
fn fill_spare(disk: &dyn Disk, len: u64) -> io::Result<()> {
    let filled = zeros(&*disk.create(SPARE_NEW)?, len).and_then(|()| disk.rename(SPARE_NEW, SPARE));
    filled.inspect_err(|_| drop(disk.remove(SPARE_NEW)))
}

fn zeros(file: &dyn DiskFile, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_LEN];
    for at in (0..len).step_by(ZEROS_LEN) {
        let piece = usize::try_from(len - at).unwrap_or(usize::MAX).min(ZEROS_LEN);
        file.write_at(&zeros[..piece], at)?;
    }
    file.sync()
}
