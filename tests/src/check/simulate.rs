//! Histories that are right by construction, for proving checkers: several processes over one serial store, each operation taking effect at one
//! instant within its interval. Then the same with one answer spoilt, which a checker must notice.

use crate::history::{Nanos, Operation, Outcome, Process};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

const PROCESSES: u32 = 4;
/// Of the operations, these keep their effect but lose their answer, or are refused without effect.
const UNKNOWN: f64 = 0.03;

/// The seeds of a property; a failure names the one to replay.
#[derive(Debug)]
pub(crate) struct Seeds(std::ops::Range<u64>);

impl Default for Seeds {
    fn default() -> Self {
        Self(0..100)
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0.next()
    }
}

/// `step` executes one operation on the serial store and says what it was and what it answered. It is called in the order of the effects.
pub(crate) fn run<C, A>(seed: u64, count: usize, mut step: impl FnMut(&mut StdRng) -> (C, A)) -> Vec<Operation<C, A>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut free_at = vec![0_u64; PROCESSES as usize];
    let mut ids: Vec<u32> = (0..PROCESSES).collect();
    let mut history = Vec::new();
    // Effects happen at 1000, 2000, ...; an operation begins after its process' last one ended and reaches up to some effects further.
    for nth in 1..=count as u64 {
        let effect = nth * 1000;
        let free: Vec<usize> = (0..free_at.len()).filter(|process| free_at[*process] < effect).collect();
        let Some(process) = free.get(random.random_range(0..free.len().max(1))).copied() else {
            continue;
        };
        let (call, answer) = step(&mut random);
        let invoked = random.random_range(free_at[process].max(effect.saturating_sub(4000))..effect) + 1;
        let ended = effect + random.random_range(1..4000);
        free_at[process] = ended;
        let (ended, outcome) = if random.random_bool(UNKNOWN) {
            // The client goes on as somebody else.
            let fresh = u32::try_from(ids.len() + history.len()).expect("few") + PROCESSES;
            ids[process] = fresh;
            (Nanos::NEVER, Outcome::Unknown)
        } else {
            (Nanos(ended), Outcome::Ok(answer))
        };
        history.push(Operation { process: Process(ids[process]), invoked: Nanos(invoked), ended, call, outcome });
    }
    history.sort_by_key(|operation| operation.invoked);
    history
}

/// Spoils the answer of one random operation for which `change` says that it did; false where there is none.
pub(crate) fn spoil<C, A>(seed: u64, history: &mut [Operation<C, A>], mut change: impl FnMut(&mut A, &mut StdRng) -> bool) -> bool {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.shuffle(&mut random);
    order.into_iter().any(|nth| match &mut history[nth].outcome {
        Outcome::Ok(answer) => change(answer, &mut random),
        Outcome::Failed | Outcome::Unknown => false,
    })
}

/// One after the other, all answered.
pub(crate) fn serial<C, A>(operations: impl IntoIterator<Item = (u32, C, A)>) -> Vec<Operation<C, A>> {
    let operation = |(nth, (process, call, answer)): (usize, (u32, C, A))| at(process, nth as u64 * 10, nth as u64 * 10 + 5, call, answer);
    operations.into_iter().enumerate().map(operation).collect()
}

/// All at the same time, all answered.
pub(crate) fn concurrent<C, A>(operations: impl IntoIterator<Item = (C, A)>) -> Vec<Operation<C, A>> {
    operations.into_iter().zip(0..).map(|((call, answer), process)| at(process, 0, 10, call, answer)).collect()
}

pub(crate) fn at<C, A>(process: u32, invoked: u64, ended: u64, call: C, answer: A) -> Operation<C, A> {
    Operation { process: Process(process), invoked: Nanos(invoked), ended: Nanos(ended), call, outcome: Outcome::Ok(answer) }
}

pub(crate) fn unanswered<C, A>(process: u32, invoked: u64, call: C, outcome: Outcome<A>) -> Operation<C, A> {
    let ended = if matches!(outcome, Outcome::Unknown) { Nanos::NEVER } else { Nanos(invoked + 5) };
    Operation { process: Process(process), invoked: Nanos(invoked), ended, call, outcome }
}
