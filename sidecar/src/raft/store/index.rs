//! Where each entry is, and what the records come to. No files here: replaying and writing run the same code.

use super::record::{Head, Record};
use crate::raft::codec::invalid;
use crate::raft::types::LogId;
use std::collections::VecDeque;
use std::io;

/// An entry's record on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) position: u64,
    pub(crate) len: usize,
}

#[derive(Debug)]
pub(crate) struct Index {
    head: Head,
    /// The index of the first slot, or of the next entry while there is none.
    first: u64,
    slots: VecDeque<Slot>,
}

impl Index {
    /// Goes on from the head of a segment. Entries before it are taken for purged: [`Index::check`] says whether they are.
    pub(crate) fn new(head: Head) -> Self {
        let first = head.last.max(head.purged).map_or(0, |id| id.index + 1);
        Self { head, first, slots: VecDeque::new() }
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The index that the next entry has.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(crate) fn slot(&self, index: u64) -> Option<Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }

    /// The position of the oldest entry that is kept.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.position)
    }

    /// Takes a record that was written at `position`.
    pub(crate) fn admit(&mut self, record: &Record, position: u64, len: usize) -> io::Result<()> {
        match record {
            Record::Entry(entry) => {
                let id = entry.log_id;
                if self.slots.is_empty() && self.head.last.is_none() {
                    self.first = id.index;
                }
                let next = self.next();
                if id.index != next {
                    return Err(invalid(format!("entry {} where {next} was to come", id.index)));
                }
                self.slots.push_back(Slot { position, len });
                self.head.last = Some(id);
            }
            Record::Vote(vote) => self.head.vote = Some(*vote),
            Record::Commit(log_id) => self.head.committed = Some(*log_id),
            Record::Keep(last) => self.keep(*last),
            Record::Purge(upto) => self.purge(*upto),
        }
        Ok(())
    }

    fn keep(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |id| id.index + 1);
        if next >= self.next() {
            return;
        }
        let kept = next.saturating_sub(self.first);
        self.slots.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        self.first = self.first.min(next);
        self.head.last = last;
    }

    fn purge(&mut self, upto: LogId) {
        while self.first <= upto.index && self.slots.pop_front().is_some() {
            self.first += 1;
        }
        self.first = self.first.max(upto.index + 1);
        self.head.purged = self.head.purged.max(Some(upto));
        self.head.last = self.head.last.max(Some(upto));
    }

    /// Nothing between what was purged and the first entry is missing.
    pub(crate) fn check(&self) -> io::Result<()> {
        let wanted = self.head.purged.map_or(0, |id| id.index + 1);
        if self.first > wanted {
            return Err(invalid(format!("entries {wanted} to {} are missing", self.first - 1)));
        }
        Ok(())
    }
}
