//! Classifications by statement text, so that a text that comes again costs one hash and one comparison.
//!
//! Two generations: entries are added to the young one; when that is full it becomes the old one and the old one is dropped; a hit in
//! the old one moves the entry to the young one. That is close to least-recently-used at the price of a hash map. Sharded, so that
//! worker threads seldom meet. The hash is keyed per process: a client cannot aim for collisions.

use super::classify::classify;
use super::statement::Classified;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;
/// A longer text is classified every time: it is most likely a bulk load that does not come again.
const TEXT_CACHED_BYTES_MAX: usize = 16 * 1024;
/// Of one entry beside the text and the classification.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Bounded by entries and by bytes, both counted over all shards.
#[derive(Debug)]
pub(crate) struct Cache {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    /// Of one generation of one shard.
    entries_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Shard {
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    /// By hash of the text. Of two texts with one hash the later one stays.
    entries: HashMap<u64, Entry, BuildHasherDefault<AlreadyHashed>>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    text: Box<str>,
    classified: Arc<Classified>,
}

impl Cache {
    pub(crate) const ENTRIES_MAX_DEFAULT: usize = 8192;
    pub(crate) const BYTES_MAX_DEFAULT: usize = 16 * 1024 * 1024;

    /// `entries_max` and `bytes_max` are rounded to what the shards can share; at least one entry per shard and generation is kept.
    pub(crate) fn new(entries_max: usize, bytes_max: usize) -> Self {
        const GENERATIONS: usize = 2;
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            entries_max: (entries_max / SHARDS / GENERATIONS).max(1),
            bytes_max: bytes_max / SHARDS / GENERATIONS,
        }
    }

    /// The classification of this text, made now where it is not known.
    pub(crate) fn classify(&self, sql: &str) -> Arc<Classified> {
        if sql.len() > TEXT_CACHED_BYTES_MAX {
            return Arc::new(classify(sql));
        }
        let hash = self.hasher.hash_one(sql);
        if let Some(known) = self.shard(hash).get(hash, sql, self.entries_max, self.bytes_max) {
            return known;
        }
        // Not under the lock: parsing takes longer than everything else here.
        let classified = Arc::new(classify(sql));
        let entry = Entry { text: sql.into(), classified: Arc::clone(&classified) };
        self.shard(hash).insert(hash, entry, self.entries_max, self.bytes_max);
        classified
    }

    /// Entries held now, in both generations.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Approximate bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bytes()).sum()
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The map uses the low and the highest bits; these are others.
        let nth = usize::try_from(hash >> 40).unwrap_or_default() % SHARDS;
        lock(&self.shards[nth])
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(Self::ENTRIES_MAX_DEFAULT, Self::BYTES_MAX_DEFAULT)
    }
}

/// A shard is consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn get(&mut self, hash: u64, text: &str, entries_max: usize, bytes_max: usize) -> Option<Arc<Classified>> {
        if let Some(entry) = self.young.entries.get(&hash).filter(|entry| &*entry.text == text) {
            return Some(Arc::clone(&entry.classified));
        }
        self.old.entries.get(&hash).filter(|entry| &*entry.text == text)?;
        let entry = self.old.take(hash)?;
        let classified = Arc::clone(&entry.classified);
        self.insert(hash, entry, entries_max, bytes_max);
        Some(classified)
    }

    fn insert(&mut self, hash: u64, entry: Entry, entries_max: usize, bytes_max: usize) {
        let bytes = entry.bytes();
        if bytes > bytes_max {
            return;
        }
        if self.young.entries.len() >= entries_max || self.young.bytes + bytes > bytes_max {
            self.old = std::mem::take(&mut self.young);
        }
        if let Some(replaced) = self.young.entries.insert(hash, entry) {
            self.young.bytes -= replaced.bytes();
        }
        self.young.bytes += bytes;
    }

    fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }
}

impl Generation {
    fn take(&mut self, hash: u64) -> Option<Entry> {
        let entry = self.entries.remove(&hash)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }
}

impl Entry {
    /// The text counts twice: the classification holds copies of its names and values.
    fn bytes(&self) -> usize {
        2 * self.text.len() + self.classified.bytes() + ENTRY_OVERHEAD_BYTES
    }
}

/// The keys are hashes.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Route;

    #[test]
    fn the_same_text_is_classified_once() {
        let cache = Cache::default();
        let first = cache.classify("SELECT 1");
        assert!(Arc::ptr_eq(&first, &cache.classify("SELECT 1")));
        assert_eq!(first.route(), Route::Read);
        assert_eq!(cache.classify("DELETE FROM t").route(), Route::Write);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn entries_and_bytes_stay_bounded() {
        let cache = Cache::new(64, 64 * 1024);
        for nth in 0..5000 {
            cache.classify(&format!("SELECT {nth}"));
            assert!(cache.len() <= 64);
        }
        for nth in 0..500 {
            cache.classify(&format!("SELECT '{}{nth}'", "x".repeat(1000)));
            assert!(cache.bytes() <= 64 * 1024);
        }
        assert!(cache.len() > 0);
    }

    #[test]
    fn what_is_used_survives_what_is_not() {
        let cache = Cache::new(SHARDS * 2 * 8, 1 << 20);
        let hot = cache.classify("SELECT 'hot'");
        for nth in 0..5000 {
            cache.classify(&format!("SELECT {nth}"));
            assert!(Arc::ptr_eq(&hot, &cache.classify("SELECT 'hot'")), "evicted after {nth}");
        }
    }

    #[test]
    fn long_texts_are_answered_and_not_kept() {
        let cache = Cache::default();
        let long = format!("SELECT '{}'", "x".repeat(TEXT_CACHED_BYTES_MAX));
        assert_eq!(cache.classify(&long).route(), Route::Read);
        assert_eq!(cache.len(), 0);
    }
}
