//! What the gate counts. Written by its one task, read by whoever exports it.

use crate::core::assemble::Counts;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the latency buckets in microseconds; one more bucket holds what is above.
pub const LATENCY_BOUNDS_US: [u64; 14] =
    [100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 1_000_000, 4_000_000];
/// Upper bounds of the buckets of commits per entry.
pub const COMMITS_BOUNDS: [u64; 14] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384];

#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64; 14],
    buckets: [AtomicU64; 15],
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64; 14]) -> Self {
        Self { bounds, buckets: Default::default(), sum: AtomicU64::new(0) }
    }

    fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// (upper bound or `None` for the last, observations in this bucket alone).
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        bounds.zip(self.buckets.iter().map(|bucket| bucket.load(Relaxed)))
    }

    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

#[derive(Debug)]
pub struct Metrics {
    transactions: AtomicU64,
    empty: AtomicU64,
    own: AtomicU64,
    known: AtomicU64,
    received_bytes: AtomicU64,
    reads: AtomicU64,
    entries: AtomicU64,
    entry_bytes: AtomicU64,
    confirmations: AtomicU64,
    /// From the read that brought an entry's first change to its confirmation, in microseconds.
    pub confirm_us: Histogram,
    pub commits_per_entry: Histogram,
}

/// The plain counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Transactions captured.
    pub transactions: u64,
    /// Transactions without anything for the log.
    pub empty: u64,
    /// Transactions that this node applied itself.
    pub own: u64,
    /// Transactions that the log held already.
    pub known: u64,
    /// Bytes of decoded messages.
    pub received_bytes: u64,
    pub reads: u64,
    /// Entries proposed.
    pub entries: u64,
    pub entry_bytes: u64,
    /// Positions sent to Postgres.
    pub confirmations: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            transactions: AtomicU64::new(0),
            empty: AtomicU64::new(0),
            own: AtomicU64::new(0),
            known: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            entry_bytes: AtomicU64::new(0),
            confirmations: AtomicU64::new(0),
            confirm_us: Histogram::new(&LATENCY_BOUNDS_US),
            commits_per_entry: Histogram::new(&COMMITS_BOUNDS),
        }
    }
}

impl Metrics {
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            transactions: self.transactions.load(Relaxed),
            empty: self.empty.load(Relaxed),
            own: self.own.load(Relaxed),
            known: self.known.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            reads: self.reads.load(Relaxed),
            entries: self.entries.load(Relaxed),
            entry_bytes: self.entry_bytes.load(Relaxed),
            confirmations: self.confirmations.load(Relaxed),
        }
    }

    pub(super) fn read(&self, bytes: usize, counts: Counts) {
        self.reads.fetch_add(1, Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
        self.transactions.store(counts.commits, Relaxed);
        self.empty.store(counts.empty, Relaxed);
        self.own.store(counts.own, Relaxed);
        self.known.store(counts.known, Relaxed);
    }

    pub(super) fn proposed(&self, bytes: usize, commits: usize) {
        self.entries.fetch_add(1, Relaxed);
        self.entry_bytes.fetch_add(bytes as u64, Relaxed);
        self.commits_per_entry.observe(commits as u64);
    }

    pub(super) fn decided(&self, after: Duration) {
        self.confirm_us.observe(u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn confirmed(&self) {
        self.confirmations.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&COMMITS_BOUNDS);
        for value in [0, 1, 2, 3, 4, 16_385] {
            histogram.observe(value);
        }
        let filled: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(Some(0), 1), (Some(1), 1), (Some(2), 1), (Some(4), 2), (None, 1)]);
        assert_eq!((histogram.count(), histogram.sum()), (6, 16_395));
    }
}
