//! Session guarantees: what a session wrote it reads, and what it read it never un-reads.
//!
//! Each key has one writer, which writes 1, 2, 3, ...; so a value says how many writes its reader has seen.

use super::{Findings, Kind};
use crate::history::{Operation, Outcome, Process};
use std::collections::HashMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write { key: i32, value: i64 },
    Read { key: i32, promise: Promise },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Written,
    Value(i64),
}

/// What the mode of the reading session promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    ReadYourWrites,
    MonotonicReads,
    /// Neither: only what was written may be read.
    Nothing,
}

type Op = Operation<Call, Answer>;

#[must_use]
pub fn check(history: &[Op]) -> Findings {
    let mut findings = Findings::default();
    // By process and key, what it wrote and what it saw.
    let (mut written, mut seen_before) = (HashMap::<(Process, i32), i64>::new(), HashMap::<(Process, i32), i64>::new());
    let mut writes = HashMap::new();
    for operation in history {
        if let Call::Write { key, value } = operation.call {
            writes.insert((key, value), operation);
        }
    }
    // A process does one thing at a time, so the order of the beginnings is its order.
    for operation in history {
        let process = operation.process;
        match (operation.call, operation.answer()) {
            (Call::Write { key, value }, Some(Answer::Written)) => {
                let floor = written.entry((process, key)).or_default();
                *floor = value.max(*floor);
            }
            (Call::Read { key, promise }, Some(Answer::Value(seen))) => {
                findings.checked += 1;
                let (kind, floor) = match promise {
                    Promise::ReadYourWrites => (Kind::OwnWriteMissing, written.get(&(process, key))),
                    Promise::MonotonicReads => (Kind::WentBack, seen_before.get(&(process, key))),
                    Promise::Nothing => (Kind::WentBack, None),
                };
                if let Some(floor) = floor.filter(|floor| seen < *floor) {
                    findings.add(kind, || format!("{process:?} read {seen} of key {key} at {:?}, after {floor}", operation.invoked));
                }
                let before = seen_before.entry((process, key)).or_default();
                *before = (*seen).max(*before);
                // 0 is what there was at the start.
                if *seen != 0 {
                    exists(&mut findings, operation, writes.get(&(key, *seen)).copied(), key, *seen);
                }
            }
            _ => {}
        }
    }
    findings
}

fn exists(findings: &mut Findings, read: &Op, write: Option<&Op>, key: i32, seen: i64) {
    match write {
        Some(write) if write.outcome == Outcome::Failed => findings.add(Kind::Ghost, || format!("{seen} of key {key} was refused")),
        Some(write) if !read.precedes(write) => {}
        _ => findings.add(Kind::Phantom, || format!("{:?} read {seen} of key {key}, which nobody had written", read.process)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::simulate::{self, Seeds, serial, unanswered};
    use rand::Rng;

    const KEY: i32 = 1;

    fn valid(seed: u64, promise: Promise) -> Vec<Op> {
        let mut value = 0;
        simulate::run(seed, 200, |random| {
            if random.random_bool(0.6) {
                return (Call::Read { key: KEY, promise }, Answer::Value(value));
            }
            value += 1;
            (Call::Write { key: KEY, value }, Answer::Written)
        })
    }

    #[test]
    fn serial_executions_are_accepted_by_every_promise_and_going_back_is_not() {
        for seed in Seeds::default() {
            for promise in [Promise::ReadYourWrites, Promise::MonotonicReads, Promise::Nothing] {
                let mut history = valid(seed, promise);
                assert!(check(&history).is_clean(), "seed {seed}, {promise:?}");
                let last = history.iter().rposition(|op| matches!(op.answer(), Some(Answer::Value(_)))).expect("a read");
                let process = history[last].process;
                let wrote = history[..last].iter().any(|op| op.process == process && op.answer() == Some(&Answer::Written));
                let read = history[..last].iter().any(|op| op.process == process && matches!(op.answer(), Some(Answer::Value(1..))));
                history[last].outcome = Outcome::Ok(Answer::Value(0));
                let findings = check(&history);
                assert_eq!(findings.has(Kind::OwnWriteMissing), wrote && promise == Promise::ReadYourWrites, "seed {seed}");
                assert_eq!(findings.has(Kind::WentBack), read && promise == Promise::MonotonicReads, "seed {seed}");
            }
        }
    }

    #[test]
    fn only_the_sessions_own_past_binds_it_and_only_acknowledged_writes_do() {
        let write = |process, value| (process, Call::Write { key: KEY, value }, Answer::Written);
        let read = |promise, process, value| (process, Call::Read { key: KEY, promise }, Answer::Value(value));
        let own = |process, value| read(Promise::ReadYourWrites, process, value);
        let monotonic = |process, value| read(Promise::MonotonicReads, process, value);
        let any = |process, value| read(Promise::Nothing, process, value);
        assert!(check(&serial([write(0, 1), own(1, 0)])).is_clean());
        assert!(check(&serial([write(0, 1), own(0, 0)])).has(Kind::OwnWriteMissing));
        assert!(check(&serial([write(0, 1), monotonic(1, 1), monotonic(2, 0)])).is_clean());
        assert!(check(&serial([write(0, 1), monotonic(1, 1), monotonic(1, 0)])).has(Kind::WentBack));
        assert!(check(&serial([write(0, 1), any(0, 1), any(0, 0)])).is_clean());
        assert!(check(&serial([any(1, 7)])).has(Kind::Phantom));
        for (outcome, ghost) in [(Outcome::Unknown, false), (Outcome::Failed, true)] {
            let mut history = serial([write(0, 1), any(1, 2)]);
            history.insert(1, unanswered(0, 6, Call::Write { key: KEY, value: 2 }, outcome));
            let findings = check(&history);
            assert_eq!((findings.has(Kind::Ghost), findings.is_clean()), (ghost, !ghost));
        }
    }
}
