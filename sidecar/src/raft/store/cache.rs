//! The newest entries in memory, bounded by their weight.

use super::record::Record;
use crate::raft::types::{RaftEntry, weight};
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Cache {
    entries: VecDeque<RaftEntry>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    pub(super) fn get(&self, index: u64) -> Option<&RaftEntry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first()?)?).ok()?)
    }

    /// Follows what is written to the log.
    pub(super) fn admit(&mut self, record: Record) {
        match record {
            Record::Entry(entry) => self.push(entry),
            Record::Keep(last) => self.keep(last.map_or(0, |id| id.index + 1)),
            Record::Purge(upto) => self.purge(upto.index + 1),
            Record::Vote(_) | Record::Commit(_) => {}
        }
    }

    /// The entry behind the last one.
    fn push(&mut self, entry: RaftEntry) {
        self.bytes += weight(&entry.payload);
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max && self.pop_front() {}
    }

    /// Drops entries from `next` on.
    fn keep(&mut self, next: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= next) {
            let dropped = self.entries.pop_back().expect("looked at just now");
            self.bytes -= weight(&dropped.payload);
        }
    }

    /// Drops entries in front of `first`.
    fn purge(&mut self, first: u64) {
        while self.first().is_some_and(|index| index < first) && self.pop_front() {}
    }

    fn pop_front(&mut self) -> bool {
        let dropped = self.entries.pop_front();
        self.bytes -= dropped.as_ref().map_or(0, |entry| weight(&entry.payload));
        dropped.is_some()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
