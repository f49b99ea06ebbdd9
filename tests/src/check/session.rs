//! Session guarantees: what a session wrote it reads, and what it read it never un-reads.
//!
//! Each key has one writer, which writes 1, 2, 3, ...; so a value says how many writes its reader has seen.

use super::{Findings, Kind};
use crate::history::{Operation, Outcome, Process};
use std::collections::HashMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write { key: i32, value: i64 },
    Read { key: i32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Written,
    Value(i64),
}

/// What the mode of the sessions promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    ReadYourWrites,
    MonotonicReads,
    /// Neither: only what was written may be read.
    Nothing,
}

#[must_use]
pub fn check(history: &[Operation<Call, Answer>], promise: Promise) -> Findings {
    let mut findings = Findings::default();
    let mut floors: HashMap<(Process, i32), i64> = HashMap::new();
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
            (Call::Write { key, value }, Some(Answer::Written)) if promise == Promise::ReadYourWrites => {
                let floor = floors.entry((process, key)).or_default();
                *floor = value.max(*floor);
            }
            (Call::Read { key }, Some(Answer::Value(seen))) => {
                findings.checked += 1;
                let floor = floors.entry((process, key)).or_default();
                let kind = if promise == Promise::MonotonicReads { Kind::WentBack } else { Kind::OwnWriteMissing };
                if *seen < *floor {
                    findings.add(kind, || format!("{process:?} read {seen} of key {key} at {:?}, after {floor}", operation.invoked));
                }
                if promise == Promise::MonotonicReads {
                    *floor = (*seen).max(*floor);
                }
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

type Op = Operation<Call, Answer>;

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

    fn valid(seed: u64) -> Vec<Op> {
        let mut value = 0;
        simulate::run(seed, 200, |random| {
            if random.random_bool(0.6) {
                return (Call::Read { key: KEY }, Answer::Value(value));
            }
            value += 1;
            (Call::Write { key: KEY, value }, Answer::Written)
        })
    }

    #[test]
    fn serial_executions_are_accepted_by_every_promise_and_going_back_is_not() {
        for seed in Seeds::default() {
            let mut history = valid(seed);
            for promise in [Promise::ReadYourWrites, Promise::MonotonicReads, Promise::Nothing] {
                assert!(check(&history, promise).is_clean(), "seed {seed}, {promise:?}");
            }
            let last = history.iter().rposition(|op| matches!(op.answer(), Some(Answer::Value(_)))).expect("a read");
            let process = history[last].process;
            let wrote = history[..last].iter().any(|op| op.process == process && op.answer() == Some(&Answer::Written));
            let read = history[..last].iter().any(|op| op.process == process && matches!(op.answer(), Some(Answer::Value(1..))));
            history[last].outcome = Outcome::Ok(Answer::Value(0));
            assert_eq!(check(&history, Promise::ReadYourWrites).has(Kind::OwnWriteMissing), wrote, "seed {seed}");
            assert_eq!(check(&history, Promise::MonotonicReads).has(Kind::WentBack), read, "seed {seed}");
            assert!(check(&history, Promise::Nothing).is_clean());
        }
    }

    #[test]
    fn only_the_sessions_own_past_binds_it_and_only_acknowledged_writes_do() {
        let write = |process, value| (process, Call::Write { key: KEY, value }, Answer::Written);
        let read = |process, value| (process, Call::Read { key: KEY }, Answer::Value(value));
        assert!(check(&serial([write(0, 1), read(1, 0)]), Promise::ReadYourWrites).is_clean());
        assert!(check(&serial([write(0, 1), read(0, 0)]), Promise::ReadYourWrites).has(Kind::OwnWriteMissing));
        assert!(check(&serial([write(0, 1), read(1, 1), read(2, 0)]), Promise::MonotonicReads).is_clean());
        assert!(check(&serial([write(0, 1), read(1, 1), read(1, 0)]), Promise::MonotonicReads).has(Kind::WentBack));
        assert!(check(&serial([read(1, 7)]), Promise::Nothing).has(Kind::Phantom));
        for (outcome, ghost) in [(Outcome::Unknown, false), (Outcome::Failed, true)] {
            let mut history = serial([write(0, 1), read(1, 2)]);
            history.insert(1, unanswered(0, 6, Call::Write { key: KEY, value: 2 }, outcome));
            let findings = check(&history, Promise::Nothing);
            assert_eq!((findings.has(Kind::Ghost), findings.is_clean()), (ghost, !ghost));
        }
    }
}
