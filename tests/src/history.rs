//! What clients asked of the system, what they were told, and when: the only thing that a checker sees.
//!
//! ```text
//! process 1   |--- write 7 ---| ok          |-- read --| 7
//! process 2        |--------- write 8 -----------------------  unknown: it may have happened at any time since, or never
//! ```
//!
//! Invariants:
//! - An operation's effect, if any, lies between `invoked` and `ended`. One with an unknown outcome never ended.
//! - A process does one thing at a time. After an unknown outcome the client goes on as another process, so this stays true.
//! - Times are of one monotonic clock, that of the process that records.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Nanoseconds since the history began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The end of an operation of which nobody knows what became.
    pub const NEVER: Self = Self(u64::MAX);
}

/// One client, from its connection to the loss of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process(pub u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<Answer> {
    Ok(Answer),
    /// It has not happened, and never will.
    Failed,
    /// It may have happened, or may still happen.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<Call, Answer> {
    pub process: Process,
    pub invoked: Nanos,
    pub ended: Nanos,
    pub call: Call,
    pub outcome: Outcome<Answer>,
}

impl<Call, Answer> Operation<Call, Answer> {
    /// The answer, where there was one.
    pub fn answer(&self) -> Option<&Answer> {
        if let Outcome::Ok(answer) = &self.outcome { Some(answer) } else { None }
    }

    /// It was over before the other began: no order of the two but this one explains what clients saw.
    pub fn precedes<C, A>(&self, later: &Operation<C, A>) -> bool {
        self.ended < later.invoked
    }
}

/// Where the clients of one workload write down what they do.
#[derive(Debug)]
pub struct Recorder<Call, Answer> {
    began: Instant,
    processes: AtomicU32,
    operations: Mutex<Vec<Operation<Call, Answer>>>,
}

/// An operation that was begun.
#[derive(Debug)]
#[must_use = "an operation that is not ended is missing from the history"]
pub struct Pending<Call> {
    process: Process,
    invoked: Nanos,
    call: Call,
}

impl<Call, Answer> Recorder<Call, Answer> {
    #[must_use]
    pub fn new(began: Instant) -> Self {
        Self { began, processes: AtomicU32::new(0), operations: Mutex::new(Vec::new()) }
    }

    /// A process that nobody has been yet.
    pub fn process(&self) -> Process {
        Process(self.processes.fetch_add(1, Ordering::Relaxed))
    }

    /// Call it before the first byte is sent.
    pub fn invoke(&self, process: Process, call: Call) -> Pending<Call> {
        Pending { process, invoked: self.now(), call }
    }

    /// Call it after the last byte of the answer has come.
    pub fn end(&self, pending: Pending<Call>, outcome: Outcome<Answer>) {
        let ended = if matches!(outcome, Outcome::Unknown) { Nanos::NEVER } else { self.now() };
        let Pending { process, invoked, call } = pending;
        let operation = Operation { process, invoked, ended, call, outcome };
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    /// Everything that has ended, by the time it began.
    #[must_use]
    pub fn take(&self) -> Vec<Operation<Call, Answer>> {
        let mut operations = std::mem::take(&mut *self.operations.lock().unwrap_or_else(PoisonError::into_inner));
        operations.sort_by_key(|operation| operation.invoked);
        operations
    }

    fn now(&self) -> Nanos {
        nanos(self.began.elapsed())
    }
}

fn nanos(time: Duration) -> Nanos {
    Nanos(u64::try_from(time.as_nanos()).expect("five hundred years fit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_recorded_with_its_interval_and_an_unknown_one_never_ends() {
        let recorder: Recorder<&str, u8> = Recorder::new(Instant::now());
        let (one, two) = (recorder.process(), recorder.process());
        let (first, second) = (recorder.invoke(one, "first"), recorder.invoke(two, "second"));
        recorder.end(second, Outcome::Unknown);
        recorder.end(first, Outcome::Ok(1));
        let third = recorder.invoke(one, "third");
        recorder.end(third, Outcome::Failed);
        let history = recorder.take();
        assert_eq!(history.iter().map(|operation| operation.call).collect::<Vec<_>>(), ["first", "second", "third"]);
        assert_eq!(history[1].ended, Nanos::NEVER);
        assert!(history[0].precedes(&history[2]) && !history[1].precedes(&history[2]) && !history[0].precedes(&history[1]));
        assert_ne!(one, two);
    }
}
