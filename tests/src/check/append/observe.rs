//! What the reads say about the order of writes, and what is wrong with single reads.

use super::{Kind, Op, Step};
use crate::check::Findings;
use crate::history::Outcome;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A list as one transaction saw it at one moment, without what it had appended itself until then.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) transaction: usize,
    pub(super) key: i32,
    pub(super) list: Vec<i32>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) transaction: usize,
    /// The transaction's last append to this key: the only one that others may see at the end of a list.
    last: bool,
}

#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) writes: HashMap<(i32, i32), Write>,
    /// Per key, the values in the order in which they were appended.
    pub(super) orders: BTreeMap<i32, Vec<i32>>,
    pub(super) reads: Vec<Read>,
}

pub(super) fn observe(history: &[Op], findings: &mut Findings) -> Observed {
    let mut observed = Observed { writes: writes(history), ..Observed::default() };
    for (transaction, operation) in history.iter().enumerate() {
        let Some(lists) = operation.answer() else { continue };
        let (mut lists, mut own) = (lists.iter(), HashMap::<i32, Vec<i32>>::new());
        for step in &operation.call {
            match step {
                Step::Append { key, value } => own.entry(*key).or_default().push(*value),
                Step::Read { key } => {
                    let list = lists.next().map(Vec::as_slice).unwrap_or_default();
                    let mine = own.get(key).map(Vec::as_slice).unwrap_or_default();
                    extend(observed.orders.entry(*key).or_default(), list, *key, findings);
                    match list.strip_suffix(mine) {
                        Some(others) => observed.reads.push(Read { transaction, key: *key, list: others.to_vec() }),
                        None => findings
                            .add(Kind::Internal, || format!("transaction {transaction} appended {mine:?} to {key} and read {list:?}")),
                    }
                }
            }
        }
    }
    for read in &observed.reads {
        judge(history, &observed, read, findings);
    }
    observed
}

fn writes(history: &[Op]) -> HashMap<(i32, i32), Write> {
    let mut writes = HashMap::new();
    for (transaction, operation) in history.iter().enumerate() {
        let mut lasts = HashMap::new();
        for step in &operation.call {
            if let Step::Append { key, value } = step {
                writes.insert((*key, *value), Write { transaction, last: false });
                lasts.insert(*key, *value);
            }
        }
        for last in lasts {
            writes.entry(last).and_modify(|write| write.last = true);
        }
    }
    writes
}

/// Of two lists of one key one must begin with the other.
fn extend(order: &mut Vec<i32>, list: &[i32], key: i32, findings: &mut Findings) {
    let common = order.len().min(list.len());
    if order[..common] != list[..common] {
        findings.add(Kind::IncompatibleOrder, || format!("key {key}: {order:?} and {list:?}"));
    } else if list.len() > order.len() {
        order.extend_from_slice(&list[common..]);
    }
}

fn judge(history: &[Op], observed: &Observed, read: &Read, findings: &mut Findings) {
    let Read { transaction, key, list } = read;
    let mut seen = HashSet::new();
    for value in list {
        if !seen.insert(value) {
            findings.add(Kind::Duplicate, || format!("key {key}: {value} twice in {list:?}"));
        }
        match observed.writes.get(&(*key, *value)) {
            None => findings.add(Kind::Phantom, || format!("key {key}: nobody appended {value}, read by transaction {transaction}")),
            Some(write) if history[write.transaction].outcome == Outcome::Failed => {
                findings.add(Kind::G1a, || format!("key {key}: {value} of transaction {}, which failed, in {list:?}", write.transaction));
            }
            Some(_) => {}
        }
    }
    let Some(write) = list.last().and_then(|value| observed.writes.get(&(*key, *value))) else { return };
    if write.transaction != *transaction && !write.last {
        findings.add(Kind::G1b, || format!("key {key}: {list:?} ends in the middle of transaction {}", write.transaction));
    }
}

/// Acknowledged appends that a transaction which began later does not see.
pub(super) fn lost(history: &[Op], observed: &Observed, findings: &mut Findings) {
    let mut acknowledged: HashMap<i32, Vec<(i32, &Op)>> = HashMap::new();
    for operation in history.iter().filter(|op| op.answer().is_some()) {
        for step in &operation.call {
            if let Step::Append { key, value } = step {
                acknowledged.entry(*key).or_default().push((*value, operation));
            }
        }
    }
    for read in &observed.reads {
        let seen: HashSet<i32> = read.list.iter().copied().collect();
        for (value, write) in acknowledged.get(&read.key).into_iter().flatten() {
            if write.precedes(&history[read.transaction]) && !seen.contains(value) {
                findings.add(Kind::Lost, || {
                    let Read { key, list, transaction } = read;
                    format!("key {key}: {value}, acknowledged at {:?}, is not in {list:?}, read by transaction {transaction}", write.ended)
                });
            }
        }
    }
}
