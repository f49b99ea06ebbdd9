//! Registers: is there an order of the operations, each within its interval, that explains every answer?
//!
//! The search is that of Wing and Gong (1993) with Lowe's memory of states that were tried (2017), as in Porcupine: take the operations that
//! may come next one by one, go back where an answer does not fit. Registers do not know of each other, so each key is searched alone.
//!
//! An operation whose outcome is unknown may take effect at any time after it began, or never; so it never has to be taken. Where nobody read the
//! value that it wrote, it explains nothing and is left out, which keeps the search small.

use super::{Findings, Kind};
use crate::history::{Nanos, Operation, Outcome};
use std::collections::{BTreeMap, HashSet};

/// Tried combinations per key; beyond them the verdict is "undecided".
pub const STEPS_MAX: usize = 2_000_000;
/// What a register holds before anybody wrote.
pub const INITIAL: i64 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub key: i32,
    pub action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Read,
    Write(i64),
    /// Writes `to` if the register holds `from`.
    Swap {
        from: i64,
        to: i64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Value(i64),
    Written,
    Swapped(bool),
}

type Op = Operation<Call, Answer>;

#[must_use]
pub fn check(history: &[Op]) -> Findings {
    check_within(history, STEPS_MAX)
}

fn check_within(history: &[Op], steps_max: usize) -> Findings {
    let mut keys: BTreeMap<i32, Vec<&Op>> = BTreeMap::new();
    for operation in history.iter().filter(|op| op.outcome != Outcome::Failed) {
        keys.entry(operation.call.key).or_default().push(operation);
    }
    let mut findings = Findings::default();
    for (key, operations) in keys {
        let relevant = relevant(operations);
        findings.checked += relevant.iter().filter(|op| op.answer().is_some()).count();
        match Search::new(&relevant, steps_max).run() {
            Verdict::Linearizable => {}
            Verdict::Undecided => findings.undecided.push(format!("register {key}: given up after {steps_max} steps")),
            Verdict::Stuck(nth) => findings.add(Kind::NotLinearizable, || {
                let op = relevant[nth];
                format!(
                    "register {key}: nothing explains {:?} -> {:?} of {:?}, {:?} to {:?}",
                    op.call.action, op.outcome, op.process, op.invoked, op.ended
                )
            }),
        }
    }
    findings
}

/// Without the unknown operations that nobody noticed.
fn relevant(operations: Vec<&Op>) -> Vec<&Op> {
    let noticed = |op: &&Op| match (op.call.action, op.answer()) {
        (Action::Read, Some(Answer::Value(value))) => Some(*value),
        (Action::Swap { from, .. }, Some(Answer::Swapped(true))) => Some(from),
        _ => None,
    };
    let mut noticed: HashSet<i64> = operations.iter().filter_map(noticed).collect();
    // An unknown swap needs its `from`; take those as noticed rather than follow the chain.
    noticed.extend(operations.iter().filter_map(|op| if let Action::Swap { from, .. } = op.call.action { Some(from) } else { None }));
    // A swap that did not happen, because the value was another, notices any value.
    let refused = operations.iter().any(|op| op.answer() == Some(&Answer::Swapped(false)));
    let matters = |op: &&Op| match op.call.action {
        _ if op.answer().is_some() => true,
        Action::Read => false,
        Action::Write(value) | Action::Swap { to: value, .. } => refused || noticed.contains(&value),
    };
    operations.into_iter().filter(matters).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Linearizable,
    /// The operation that no order got past.
    Stuck(usize),
    Undecided,
}

/// The value after the operation, if its answer fits the value before it.
fn step(value: i64, op: &Op) -> Option<i64> {
    match (op.call.action, op.answer()) {
        (Action::Read, Some(Answer::Value(seen))) => (*seen == value).then_some(value),
        (Action::Read, _) => Some(value),
        (Action::Write(new), _) => Some(new),
        (Action::Swap { from, to }, Some(Answer::Swapped(true)) | None) => (from == value).then_some(to),
        (Action::Swap { from, .. }, _) => (from != value).then_some(value),
    }
}

/// One event of the history in a list from which operations are lifted and to which they are put back.
#[derive(Debug, Clone, Copy)]
struct Event {
    operation: usize,
    is_end: bool,
    previous: usize,
    next: usize,
}

/// Place of the list's head; events follow from 1.
const HEAD: usize = 0;

struct Search<'a> {
    operations: &'a [&'a Op],
    events: Vec<Event>,
    /// Places of an operation's two events; 0 where it never ended.
    places: Vec<(usize, usize)>,
    /// Answered operations that are not taken yet; at 0 the history is explained.
    open: usize,
    taken: Vec<u64>,
    seen: HashSet<(Vec<u64>, i64)>,
    steps_max: usize,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Op], steps_max: usize) -> Self {
        let mut order: Vec<(Nanos, bool, usize)> = Vec::new();
        for (nth, op) in operations.iter().enumerate() {
            order.push((op.invoked, false, nth));
            if op.ended != Nanos::NEVER {
                order.push((op.ended, true, nth));
            }
        }
        // Of one instant the beginnings come first: those operations overlap.
        order.sort_unstable();
        let mut places = vec![(HEAD, HEAD); operations.len()];
        let mut events = vec![Event { operation: usize::MAX, is_end: false, previous: HEAD, next: HEAD }];
        for (_, is_end, operation) in order {
            let place = events.len();
            if is_end {
                places[operation].1 = place
            } else {
                places[operation].0 = place
            }
            events[place - 1].next = place;
            events.push(Event { operation, is_end, previous: place - 1, next: HEAD });
        }
        let open = operations.iter().filter(|op| op.answer().is_some()).count();
        let taken = vec![0; operations.len().div_ceil(64)];
        Self { operations, events, places, open, taken, seen: HashSet::new(), steps_max }
    }

    fn run(mut self) -> Verdict {
        let mut value = INITIAL;
        let mut path: Vec<(usize, i64)> = Vec::new();
        let (mut deepest, mut stuck) = (0, 0);
        let mut at = self.events[HEAD].next;
        for _ in 0..self.steps_max {
            if self.open == 0 {
                return Verdict::Linearizable;
            }
            // Behind the last event there are only operations that need not be taken: as a dead end as an operation's end is.
            if at != HEAD && !self.events[at].is_end {
                let operation = self.events[at].operation;
                let Some(after) = step(value, self.operations[operation]).filter(|after| self.is_new(operation, *after)) else {
                    at = self.events[at].next;
                    continue;
                };
                path.push((operation, value));
                value = after;
                self.take(operation);
                at = self.events[HEAD].next;
                continue;
            }
            if at != HEAD && path.len() >= deepest {
                (deepest, stuck) = (path.len(), self.events[at].operation);
            }
            let Some((operation, before)) = path.pop() else { return Verdict::Stuck(stuck) };
            value = before;
            self.put_back(operation);
            at = self.events[self.places[operation].0].next;
        }
        Verdict::Undecided
    }

    /// Nobody has come to this set of operations with this value before.
    fn is_new(&mut self, operation: usize, value: i64) -> bool {
        let mut taken = self.taken.clone();
        taken[operation / 64] |= 1 << (operation % 64);
        self.seen.insert((taken, value))
    }

    fn take(&mut self, operation: usize) {
        self.taken[operation / 64] |= 1 << (operation % 64);
        self.open -= usize::from(self.operations[operation].answer().is_some());
        let (begin, end) = self.places[operation];
        self.unlink(begin);
        if end != HEAD {
            self.unlink(end);
        }
    }

    /// In the reverse order of taking, so that each event finds the neighbours that it had.
    fn put_back(&mut self, operation: usize) {
        self.taken[operation / 64] &= !(1 << (operation % 64));
        self.open += usize::from(self.operations[operation].answer().is_some());
        let (begin, end) = self.places[operation];
        if end != HEAD {
            self.link(end);
        }
        self.link(begin);
    }

    fn unlink(&mut self, place: usize) {
        let Event { previous, next, .. } = self.events[place];
        self.events[previous].next = next;
        if next != HEAD {
            self.events[next].previous = previous;
        }
    }

    fn link(&mut self, place: usize) {
        let Event { previous, next, .. } = self.events[place];
        self.events[previous].next = place;
        if next != HEAD {
            self.events[next].previous = place;
        }
    }
}

#[cfg(test)]
mod tests;
