//! A Postgres as far as commits go.
//!
//! ```text
//!  commit: into the WAL, flushed --> waits, invisible, its rows locked --> visible: confirmed, or the end of the wait
//!  crash:  the WAL up to its flushed end is replayed: all that it holds is visible, nothing waits, sessions and the epoch are gone
//! ```
//!
//! What the sidecar applies from the log is in the WAL too, marked with an origin, and not flushed by its commit.

use crate::core::coalesce::{State, Step};
use crate::core::pgoutput::{Tuple, Value};
use bytes::Bytes;
use howdah_protocol::{Epoch, InstanceId, LogIndex, Lsn};
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Tx = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A row of the table with a key: what it was and what it becomes.
    Keyed { key: u64, old: Option<u64>, new: Option<u64> },
    /// A row of the table without one comes, or goes. Values are given once.
    Keyless { value: u64, comes: bool },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Rows {
    pub(super) keyed: BTreeMap<u64, u64>,
    pub(super) keyless: BTreeSet<u64>,
}

impl Rows {
    /// An error where the change does not fit the rows.
    pub(super) fn change(&mut self, change: &Change) -> Result<(), String> {
        let fits = match *change {
            Change::Keyed { key, old, new } => {
                let was = match new {
                    Some(new) => self.keyed.insert(key, new),
                    None => self.keyed.remove(&key),
                };
                was == old
            }
            Change::Keyless { value, comes: true } => self.keyless.insert(value),
            Change::Keyless { value, comes: false } => self.keyless.remove(&value),
        };
        if fits { Ok(()) } else { Err(format!("{change:?} meets other rows")) }
    }

    /// What the steps change.
    fn execute(&self, steps: &[Step]) -> Result<Vec<Change>, String> {
        let (mut rows, mut changes) = (self.clone(), Vec::new());
        let mut put = |rows: &mut Self, change| {
            changes.push(change);
            rows.change(&change)
        };
        for step in steps {
            match step {
                Step::Net { deletes, updates, upserts, .. } => {
                    for key in deletes.iter().map(|key| number(&key[0])) {
                        if let Some(old) = rows.keyed.get(&key).copied() {
                            put(&mut rows, Change::Keyed { key, old: Some(old), new: None })?;
                        }
                    }
                    for row in updates.iter().flat_map(|updates| &updates.rows) {
                        let key = cell(row, 0);
                        let old = rows.keyed.get(&key).copied().ok_or_else(|| format!("row {key}, which the log changes, is not here"))?;
                        put(&mut rows, Change::Keyed { key, old: Some(old), new: Some(cell(row, 1)) })?;
                    }
                    for row in upserts {
                        let (key, new) = (cell(row, 0), Some(cell(row, 1)));
                        let old = rows.keyed.get(&key).copied();
                        put(&mut rows, Change::Keyed { key, old, new })?;
                    }
                }
                Step::Append { rows: added, .. } => {
                    for row in added {
                        put(&mut rows, Change::Keyless { value: cell(row, 1), comes: true })?;
                    }
                }
                Step::Match { old, new: None, .. } => put(&mut rows, Change::Keyless { value: cell(old, 1), comes: false })?,
                other => return Err(format!("{other:?} was not asked for")),
            }
        }
        Ok(changes)
    }
}

fn number(text: &Bytes) -> u64 {
    std::str::from_utf8(text).expect("digits").parse().expect("a number")
}

fn cell(row: &Tuple, at: usize) -> u64 {
    let Value::Text(text) = &row[at] else { panic!("every value is sent as text") };
    number(text)
}

/// Howdah's own rows, written in the same transaction as others.
#[derive(Debug, Clone, Default)]
pub(super) struct Noted {
    pub(super) progress: Option<(LogIndex, State)>,
    /// Up to where changes of tables without a key are taken back.
    pub(super) undone: Option<Lsn>,
}

#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) commit: Lsn,
    pub(super) end: Lsn,
    pub(super) xid: u32,
    /// Applied from the log.
    pub(super) origin: bool,
    /// A client's; none for the sidecar's own: a mark, where it is no origin.
    pub(super) tx: Option<Tx>,
    pub(super) changes: Vec<Change>,
    pub(super) noted: Noted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Closed,
    Reads,
    Writes,
}

#[derive(Debug)]
pub(super) struct Postgres {
    pub(super) instance: InstanceId,
    /// Grows with each end of all sessions.
    pub(super) sessions: u64,
    /// Grows with each crash.
    pub(super) life: u64,
    pub(super) wal: Vec<Record>,
    pub(super) end: Lsn,
    flushed: Lsn,
    next_xid: u32,
    /// What everybody sees.
    pub(super) rows: Rows,
    pub(super) noted: Noted,
    /// Committed and not visible: where they stand in `wal`.
    pub(super) waiting: Vec<usize>,
    /// What the slot was told; none where there is no slot. Only a checkpoint writes it down.
    pub(super) slot: Option<Lsn>,
    slot_on_disk: Lsn,
    pub(super) access: Access,
    pub(super) epoch: Option<Epoch>,
}

impl Postgres {
    pub(super) fn new(instance: InstanceId, begin: u64) -> Self {
        Self {
            instance,
            sessions: 0,
            life: 0,
            wal: Vec::new(),
            end: Lsn(begin),
            flushed: Lsn(begin),
            next_xid: 700,
            rows: Rows::default(),
            noted: Noted::default(),
            waiting: Vec::new(),
            slot: None,
            slot_on_disk: Lsn(0),
            access: Access::Closed,
            epoch: None,
        }
    }

    pub(super) fn begin(&mut self) -> u32 {
        self.next_xid += 1;
        self.next_xid
    }

    pub(super) fn is_locked(&self, change: &Change) -> bool {
        let same = |other: &Change| match (change, other) {
            (Change::Keyed { key, .. }, Change::Keyed { key: other, .. }) => key == other,
            (Change::Keyless { value, .. }, Change::Keyless { value: other, .. }) => value == other,
            _ => false,
        };
        self.waiting.iter().any(|at| self.wal[*at].changes.iter().any(same))
    }

    pub(super) fn holds_back(&self, tx: Tx) -> bool {
        self.waiting.iter().any(|at| self.wal[*at].tx == Some(tx))
    }

    fn write(&mut self, xid: u32, origin: bool, tx: Option<Tx>, changes: Vec<Change>, noted: Noted) -> usize {
        let (commit, end) = (Lsn(self.end.0 + 8), Lsn(self.end.0 + 24));
        self.end = end;
        self.wal.push(Record { commit, end, xid, origin, tx, changes, noted });
        self.wal.len() - 1
    }

    /// A client's COMMIT: from here on it waits.
    pub(super) fn commit(&mut self, xid: u32, tx: Tx, changes: Vec<Change>) -> &Record {
        let at = self.write(xid, false, Some(tx), changes, Noted::default());
        self.waiting.push(at);
        self.flush();
        &self.wal[at]
    }

    /// A transaction of the sidecar that changes nothing, and goes through the log.
    pub(super) fn mark(&mut self) -> &Record {
        let xid = self.begin();
        let at = self.write(xid, false, None, Vec::new(), Noted::default());
        self.flush();
        &self.wal[at]
    }

    /// One local transaction of the sidecar's, not flushed.
    pub(super) fn execute(&mut self, steps: &[Step], noted: Noted) -> Result<(), String> {
        let changes = self.rows.execute(steps)?;
        let xid = self.begin();
        let at = self.write(xid, true, None, changes, noted);
        self.show(at)
    }

    pub(super) fn flush(&mut self) {
        self.flushed = self.end;
    }

    pub(super) fn checkpoint(&mut self) {
        self.flush();
        self.slot_on_disk = self.slot.unwrap_or_default();
    }

    fn show(&mut self, at: usize) -> Result<(), String> {
        let Record { changes, noted, .. } = &self.wal[at];
        let changed = changes.iter().try_for_each(|change| self.rows.change(change));
        changed.map_err(|error| format!("instance {}: {error}", self.instance))?;
        self.noted.progress = noted.progress.clone().or(self.noted.progress.take());
        self.noted.undone = noted.undone.or(self.noted.undone);
        Ok(())
    }

    /// The gate's connection says that everything up to here is decided. Answers whose COMMIT returned.
    pub(super) fn confirm(&mut self, upto: Lsn) -> Result<Vec<Tx>, String> {
        self.slot = self.slot.map(|told| told.max(upto));
        let done = self.waiting.iter().copied().filter(|at| self.wal[*at].end <= upto).collect();
        self.end_waits(done)
    }

    /// The wait of these ends, whatever the reason: they become visible.
    pub(super) fn end_waits(&mut self, which: Vec<usize>) -> Result<Vec<Tx>, String> {
        self.waiting.retain(|at| !which.contains(at));
        which.iter().try_for_each(|at| self.show(*at))?;
        Ok(which.iter().filter_map(|at| self.wal[*at].tx).collect())
    }

    /// One client's wait is cancelled.
    pub(super) fn cancel(&mut self, tx: Tx) -> Result<(), String> {
        let which = self.waiting.iter().copied().filter(|at| self.wal[*at].tx == Some(tx)).collect();
        self.end_waits(which).map(drop)
    }

    /// All clients are out, and so is what they waited for.
    pub(super) fn end_sessions(&mut self) -> Result<(), String> {
        self.sessions += 1;
        let waiting = self.waiting.clone();
        self.end_waits(waiting).map(drop)
    }

    /// It crashes and comes back by itself.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        self.life += 1;
        self.sessions += 1;
        self.epoch = None;
        self.waiting.clear();
        self.wal.retain(|record| record.end <= self.flushed);
        self.end = self.flushed;
        // Numbers that nothing on disk has used are given again.
        self.next_xid = self.wal.iter().map(|record| record.xid).max().unwrap_or(700);
        self.slot = self.slot.map(|_| self.slot_on_disk);
        (self.rows, self.noted) = (Rows::default(), Noted::default());
        (0..self.wal.len()).try_for_each(|at| self.show(at))
    }

    /// Decoding begins at a place that is flushed.
    pub(super) fn create_slot(&mut self) {
        self.flush();
        (self.slot, self.slot_on_disk) = (Some(self.end), self.end);
    }

    /// What a stream from the slot brings, if it is asked to begin behind `after`.
    pub(super) fn stream(&self, after: Lsn) -> Option<impl Iterator<Item = &Record>> {
        let from = self.slot?.max(after);
        Some(self.wal.iter().filter(move |record| record.end > from))
    }

    /// What the WAL makes, with what waits: an exported snapshot.
    pub(super) fn snapshot(&self) -> Result<Rows, String> {
        let mut rows = self.rows.clone();
        self.waiting.iter().flat_map(|at| &self.wal[*at].changes).try_for_each(|change| rows.change(change))?;
        Ok(rows)
    }
}
