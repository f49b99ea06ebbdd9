//! Opening: reads every segment again, cuts off what a crash left half-written, and refuses what was on disk once and is not any more.
//!
//! - The newest segment may end in a torn tail: the bytes of writes that were never synced. They are cut off, and zeroed, so that no later
//!   record makes half of them readable again.
//! - The newest segment is written again as it was read. After a failed fsync the page cache shows what is not on disk, as if it were, and no later
//!   fsync would write it. Whoever ended because of that fsync reads such pages at its next start.
//! - An older segment ends where the next one starts. Where it is damaged, the next one's header says how the log stood; that is good
//!   enough if all entries that are missing then were purged, and if not, the log does not open.

use super::cache::Cache;
use super::disk::{Disk, DiskFile};
use super::index::Index;
use super::log::Segment;
use super::record::{Head, Raw, SEGMENT_HEADER_LEN, decode_header};
use crate::raft::codec::invalid;
use std::collections::VecDeque;
use std::io;

const ENDING: &str = ".wal";

/// Sorted like positions.
pub(super) fn name(start: u64) -> String {
    format!("{start:016x}{ENDING}")
}

fn start_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(ENDING)?, 16).ok()
}

#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) segments: VecDeque<Segment>,
    pub(super) index: Index,
    pub(super) position: u64,
    pub(super) cache: Cache,
}

pub(super) fn replay(disk: &dyn Disk, cache_bytes_max: usize) -> io::Result<Replayed> {
    let mut starts: Vec<u64> = disk.list()?.iter().filter_map(|name| start_of(name)).collect();
    starts.sort_unstable();
    let mut replay =
        Replay { index: Index::new(Head::default()), cache: Cache::new(cache_bytes_max), cache_bytes_max, position: 0, damage: None };
    let mut segments = VecDeque::new();
    disk.sync_names()?;
    for (at, &start) in starts.iter().enumerate() {
        let file = disk.open(&name(start))?;
        let bytes = disk.read(&name(start))?;
        let read = replay.segment(start, &bytes).and_then(|()| match at + 1 == starts.len() {
            true => replay.settle(start, bytes, &*file),
            false => Ok(()),
        });
        read.map_err(|error| invalid(format!("{}: {error}", name(start))))?;
        segments.push_back(Segment { start, file });
    }
    let Replay { index, position, cache, damage, .. } = replay;
    index.check().map_err(|error| invalid(format!("{error}{}", damage.unwrap_or_default())))?;
    Ok(Replayed { segments, index, position, cache })
}

struct Replay {
    index: Index,
    cache: Cache,
    cache_bytes_max: usize,
    /// Where the records end that were read.
    position: u64,
    /// What is wrong with an older segment.
    damage: Option<String>,
}

impl Replay {
    fn segment(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        let (written, head) = decode_header(bytes)?;
        if written != start {
            return Err(invalid(format!("it was written as {}", name(written))));
        }
        if start != self.position {
            if self.index.next() > 0 {
                self.damage = Some(format!("; the log is damaged in front of {}, from position {:x} on", name(start), self.position));
            }
            self.index = Index::new(head);
            self.cache = Cache::new(self.cache_bytes_max);
            self.position = start;
        }
        while let Some(raw) = Raw::find(self.rest(start, bytes), start) {
            let record = raw.decode()?;
            self.index.admit(&record, self.position, raw.len())?;
            self.cache.admit(record);
            self.position += raw.len() as u64;
        }
        Ok(())
    }

    /// The part of a segment that is not read yet.
    fn rest<'a>(&self, start: u64, bytes: &'a [u8]) -> &'a [u8] {
        let read = SEGMENT_HEADER_LEN + usize::try_from(self.position - start).unwrap_or(usize::MAX);
        bytes.get(read..).unwrap_or_default()
    }

    /// The newest segment, to its last record, is on disk behind this, and nothing else of it is.
    fn settle(&self, start: u64, mut bytes: Vec<u8>, file: &dyn DiskFile) -> io::Result<()> {
        let rest = self.rest(start, &bytes);
        let end = bytes.len() - rest.len();
        if Raw::any_knows_durable(rest, start, self.position) {
            return Err(invalid(format!("it is damaged at byte {end}, which was on disk once")));
        }
        bytes[end..].fill(0);
        file.write_at(&bytes, 0)?;
        file.sync()
    }
}
