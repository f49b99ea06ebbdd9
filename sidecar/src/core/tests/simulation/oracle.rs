//! Who knows everything: what was committed where, what the group has decided, what clients were told and saw. It has rules of its own, so
//! that a mistake in the code under test is not a mistake here too.

use super::Checked;
use super::log::Logged;
use super::postgres::{Record, Rows, Tx};
use crate::core::entry::{Entry, Item, Writer};
use howdah_protocol::{Epoch, InstanceId, LogIndex, Lsn};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// The longest prefix of the log that anybody knows to be decided.
    log: Vec<Logged>,
    serving: Option<Writer>,
    /// What each Postgres committed and the log does not hold (yet), in commit order.
    undecided: BTreeMap<InstanceId, VecDeque<Record>>,
    last: BTreeMap<InstanceId, Lsn>,
    /// Rows after so many decided transactions.
    rows: Rows,
    transactions: usize,
    /// By what rows look like: after how many transactions, at most, they did.
    prefixes: HashMap<u64, usize>,
    decided: HashMap<Tx, (usize, LogIndex)>,
    /// Clients were told that these are not committed.
    refused: BTreeSet<Tx>,
    /// How many of the first transactions are known to clients as committed.
    acknowledged: usize,
    epochs: BTreeMap<Epoch, usize>,
    pub(super) counts: Counts,
}

/// What the run was about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) acknowledged: u64,
    pub(super) told: u64,
    pub(super) reads: u64,
    pub(super) linearizable: u64,
    pub(super) openings: u64,
    pub(super) repairs: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        let Self { acknowledged, told, reads, linearizable, openings, repairs } = other;
        self.acknowledged += acknowledged;
        self.told += told;
        self.reads += reads;
        self.linearizable += linearizable;
        self.openings += openings;
        self.repairs += repairs;
    }
}

impl Oracle {
    pub(super) fn new() -> Self {
        let rows = Rows::default();
        Self { prefixes: [(look(&rows), 0)].into(), rows, ..Self::default() }
    }

    /// A Postgres has written a commit that is to go into the log.
    pub(super) fn committed(&mut self, instance: InstanceId, record: &Record) {
        self.undecided.entry(instance).or_default().push_back(record.clone());
    }

    /// A Postgres was repaired: what it committed and the group never accepted is gone.
    pub(super) fn taken_back(&mut self, instance: InstanceId) {
        self.counts.repairs += 1;
        self.undecided.remove(&instance);
    }

    /// A node knows so much to be decided.
    pub(super) fn learn(&mut self, decided: &[Logged]) -> Checked {
        let known = decided.len().min(self.log.len());
        if known > 0 && decided[known - 1].term != self.log[known - 1].term {
            return Err(format!("two logs decided differently at {known}"));
        }
        for logged in &decided[known..] {
            self.log.push(logged.clone());
            self.decide(logged)?;
        }
        Ok(())
    }

    fn decide(&mut self, logged: &Logged) -> Checked {
        let Some(payload) = &logged.payload else { return Ok(()) };
        match Entry::decode(payload.clone()).map_err(|error| error.to_string())? {
            Entry::Open { writer, .. } => {
                self.counts.openings += 1;
                self.serving = Some(writer);
            }
            // What a deposed leader still had in flight is void.
            Entry::Batch { writer, items, .. } if Some(writer) == self.serving => {
                for item in items {
                    let Item::Commit { end_lsn, .. } = item else { return Err(format!("{item:?} was not asked for")) };
                    self.transaction(writer.instance, end_lsn)?;
                }
            }
            Entry::Batch { .. } | Entry::Sequences { .. } => {}
        }
        Ok(())
    }

    fn transaction(&mut self, instance: InstanceId, end: Lsn) -> Checked {
        if self.last.get(&instance).is_some_and(|last| *last >= end) {
            return Ok(());
        }
        self.last.insert(instance, end);
        let next = self.undecided.get_mut(&instance).and_then(VecDeque::pop_front);
        let record =
            next.filter(|record| record.end == end).ok_or_else(|| format!("the log's order is not that of commit: {end} of {instance}"))?;
        record.changes.iter().try_for_each(|change| self.rows.change(change)).map_err(|error| format!("the log: {error}"))?;
        self.transactions += 1;
        self.prefixes.insert(look(&self.rows), self.transactions);
        if let Some(tx) = record.tx {
            self.decided.insert(tx, (self.transactions, LogIndex(self.log.len() as u64)));
            if self.refused.contains(&tx) {
                return Err(format!("transaction {tx} was refused, and is in the log"));
            }
        }
        Ok(())
    }

    /// A client was told that its transaction is committed.
    pub(super) fn acknowledged(&mut self, tx: Tx) -> Checked<LogIndex> {
        let (place, index) =
            self.decided.get(&tx).ok_or_else(|| format!("transaction {tx} was acknowledged, and the group may lose it"))?;
        self.acknowledged = self.acknowledged.max(*place);
        Ok(*index)
    }

    /// A client was told that its transaction is not committed and never will be.
    pub(super) fn refused(&mut self, tx: Tx) -> Checked {
        self.refused.insert(tx);
        if self.decided.contains_key(&tx) { Err(format!("transaction {tx} was refused, and is in the log")) } else { Ok(()) }
    }

    /// Somebody saw these rows on a node.
    pub(super) fn seen(&mut self, node: usize, rows: &Rows, linearizable: bool) -> Checked {
        self.counts.reads += 1;
        let place = self.prefixes.get(&look(rows));
        let place =
            *place.ok_or_else(|| format!("a reader of node {node} saw what is no prefix of the decided log, or may still vanish"))?;
        if !linearizable {
            return Ok(());
        }
        self.counts.linearizable += 1;
        let missing = self.acknowledged.saturating_sub(place);
        if missing > 0 { Err(format!("a read under node {node}'s lease missed {missing} acknowledged transactions")) } else { Ok(()) }
    }

    /// A node lets clients write.
    pub(super) fn opened(&mut self, node: usize, epoch: Epoch) -> Checked {
        let first = *self.epochs.entry(epoch).or_insert(node);
        if first == node { Ok(()) } else { Err(format!("nodes {first} and {node} both serve under one epoch")) }
    }

    /// Whether a node holds what the log makes.
    pub(super) fn is_current(&self, rows: &Rows) -> bool {
        self.rows == *rows
    }
}

fn look(rows: &Rows) -> u64 {
    let mut hasher = DefaultHasher::new();
    rows.hash(&mut hasher);
    hasher.finish()
}
