//! Where do two copies of a table differ? From two different digests of the whole down to the rows, by asking for digests of ever smaller
//! ranges of the key.
//!
//! ```text
//! (-inf, +inf) differs --split by the fuller side--> 64 ranges --digests--> those that differ --split--> ... --few rows--> list both sides
//! ```
//!
//! Ranges are in the order of the key, and together they are the whole, so that no row lies between them. The order is each server's
//! own: where two servers sort differently (another version of a collation), a row may lie in different ranges, which are then both listed;
//! a row that is missing here and surplus there with the same content is none.
//!
//! A table without a key is taken by the hash of its rows: the hash is the key, and a row counts as often as it is there.
//!
//! Bounded: at most [`Limits::rows`] keys are kept; what differs beyond is reported as ranges.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// The values of a key's columns in text form.
pub type Key = Vec<String>;

/// Rows behind `after` up to and with `upto`; open where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub after: Option<Key>,
    pub upto: Option<Key>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub rows: u64,
    /// Sum of the rows' hashes, in decimal.
    pub sum: String,
}

/// A row by its key; `count` equal ones where the key is the row's hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub key: Key,
    pub hash: String,
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Keys that are kept.
    pub rows: usize,
    /// Ranges with at most this many rows on either side are listed.
    pub listed: u64,
    /// Ranges that one is split into.
    pub parts: u64,
}

impl Limits {
    #[must_use]
    pub const fn rows(rows: usize) -> Self {
        Self { rows, listed: 500, parts: 64 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Reference,
    Other,
}

/// What must be found out next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Every `step`-th key of the range on this side, in order.
    Split { side: Side, range: Range, step: u64 },
    /// A digest of each of these ranges, which follow each other, on both sides.
    Digests { ranges: Vec<Range> },
    /// All rows of the range on both sides.
    List { range: Range },
}

/// How the other copy differs from the reference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Rows with another content.
    pub changed: u64,
    /// Rows that only the reference has.
    pub missing: u64,
    /// Rows that only the other has.
    pub surplus: u64,
    /// The keys of all these, in key order as far as the servers agree on it.
    pub keys: Vec<Key>,
    /// Ranges that differ too and were not looked into, with the rows of the fuller side.
    pub unlisted: Vec<(Range, u64)>,
}

impl Found {
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.changed + self.missing + self.surplus
    }

    /// All that differs is known by its key.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// The first and the last key that differ; `None` at an end that is not known.
    #[must_use]
    pub fn span(&self) -> (Option<Key>, Option<Key>) {
        let first = match (self.keys.first(), self.unlisted.first()) {
            (Some(key), _) => Some(key.clone()),
            (None, Some((range, _))) => range.after.clone(),
            (None, None) => None,
        };
        let last = self.unlisted.last().map_or_else(|| self.keys.last().cloned(), |(range, _)| range.upto.clone());
        (first, last)
    }
}

/// A range that differs.
#[derive(Debug)]
struct Suspect {
    range: Range,
    reference: u64,
    other: u64,
}

/// One table on two servers.
#[derive(Debug)]
pub struct Bisect {
    limits: Limits,
    /// In reverse: the next is the last.
    suspects: Vec<Suspect>,
    /// What the next suspect was split into.
    split: Option<Vec<Range>>,
    /// The next suspect cannot be made smaller.
    whole: bool,
    /// Rows that only one side has, which may be found on the other yet.
    missing: Vec<Row>,
    surplus: Vec<Row>,
    found: Found,
}

impl Bisect {
    /// `reference` and `other` have the two digests of the whole table.
    #[must_use]
    pub fn new(limits: Limits, reference: &Digest, other: &Digest) -> Self {
        let whole = Suspect { range: Range::default(), reference: reference.rows, other: other.rows };
        let suspects = if reference == other { Vec::new() } else { vec![whole] };
        Self { limits, suspects, split: None, whole: false, missing: Vec::new(), surplus: Vec::new(), found: Found::default() }
    }

    /// What to ask next; `None` when all is known.
    pub fn ask(&mut self) -> Option<Ask> {
        if self.kept() >= self.limits.rows {
            let rest = self.suspects.drain(..).rev().map(|suspect| (suspect.range, suspect.reference.max(suspect.other)));
            self.found.unlisted.extend(rest);
            self.split = None;
        }
        let suspect = self.suspects.last()?;
        if let Some(ranges) = &self.split {
            return Some(Ask::Digests { ranges: ranges.clone() });
        }
        let range = suspect.range.clone();
        let rows = suspect.reference.max(suspect.other);
        if rows <= self.limits.listed || self.whole {
            return Some(Ask::List { range });
        }
        let side = if suspect.reference >= suspect.other { Side::Reference } else { Side::Other };
        Some(Ask::Split { side, range, step: rows.div_ceil(self.limits.parts) })
    }

    /// The answer to a split. Without a key to split at, the range cannot be made smaller (many equal rows without a key), and is listed.
    pub fn split(&mut self, keys: Vec<Key>) {
        let Some(suspect) = self.suspects.last() else { return };
        let mut after = suspect.range.after.clone();
        let mut ranges = Vec::with_capacity(keys.len() + 1);
        for key in keys.into_iter().filter(|key| suspect.range.upto.as_ref() != Some(key)) {
            if after.as_ref() == Some(&key) {
                continue;
            }
            ranges.push(Range { after: after.replace(key.clone()), upto: Some(key) });
        }
        ranges.push(Range { after, upto: suspect.range.upto.clone() });
        if ranges.len() > 1 { self.split = Some(ranges) } else { self.whole = true }
    }

    /// The range has too many rows to be listed.
    pub fn give_up(&mut self) {
        self.whole = false;
        if let Some(suspect) = self.suspects.pop() {
            self.found.unlisted.push((suspect.range, suspect.reference.max(suspect.other)));
        }
    }

    /// The digests of the ranges of the last split, on both sides. False where they are not as many.
    #[must_use]
    pub fn digests(&mut self, reference: &[Digest], other: &[Digest]) -> bool {
        let Some(ranges) = self.split.take() else { return false };
        if reference.len() != ranges.len() || other.len() != ranges.len() {
            return false;
        }
        self.suspects.pop();
        let pairs = ranges.into_iter().zip(reference.iter().zip(other));
        let differ = pairs.filter(|(_, (reference, other))| reference != other);
        let mut suspects: Vec<_> =
            differ.map(|(range, (reference, other))| Suspect { range, reference: reference.rows, other: other.rows }).collect();
        suspects.reverse();
        self.suspects.append(&mut suspects);
        true
    }

    /// All rows of a range, on both sides.
    pub fn rows(&mut self, reference: Vec<Row>, other: Vec<Row>) {
        self.whole = false;
        self.suspects.pop();
        let mut there: HashMap<Key, Row> = other.into_iter().map(|row| (row.key.clone(), row)).collect();
        for row in reference {
            match there.remove(&row.key) {
                None => self.missing.push(row),
                Some(same) if same.hash == row.hash && same.count == row.count => {}
                Some(same) if same.hash == row.hash => {
                    self.found.missing += row.count.saturating_sub(same.count);
                    self.found.surplus += same.count.saturating_sub(row.count);
                    self.found.keys.push(row.key);
                }
                Some(_) => {
                    self.found.changed += 1;
                    self.found.keys.push(row.key);
                }
            }
        }
        // In an order that does not depend on the hash map's.
        let mut left: Vec<Row> = there.into_values().collect();
        left.sort_by(|a, b| a.key.cmp(&b.key));
        self.surplus.append(&mut left);
    }

    fn kept(&self) -> usize {
        self.found.keys.len() + self.missing.len() + self.surplus.len()
    }

    #[must_use]
    pub fn finish(mut self) -> Found {
        let mut missing: BTreeMap<Key, Row> = self.missing.into_iter().map(|row| (row.key.clone(), row)).collect();
        for row in self.surplus {
            match missing.remove(&row.key) {
                // The servers sort it to different places.
                Some(same) if same.hash == row.hash && same.count == row.count => {}
                Some(_) => {
                    self.found.changed += 1;
                    self.found.keys.push(row.key);
                }
                None => {
                    self.found.surplus += row.count;
                    self.found.keys.push(row.key);
                }
            }
        }
        self.found.missing += missing.values().map(|row| row.count).sum::<u64>();
        self.found.keys.extend(missing.into_keys());
        self.found.keys.sort_by(in_order);
        self.found
    }
}

/// Numbers as numbers, everything else as text: for people, and for a first and a last.
fn in_order(a: &Key, b: &Key) -> std::cmp::Ordering {
    let column = |(a, b): (&String, &String)| match (a.parse::<i128>(), b.parse::<i128>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    };
    a.iter().zip(b).map(column).find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
}
