//! Histories by hand, random linearizable ones, and those compared with trying all orders.

use super::*;
use crate::check::simulate::{self, Seeds, at, unanswered};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn call(action: Action) -> Call {
    Call { key: 1, action }
}

fn write(process: u32, from: u64, to: u64, value: i64) -> Op {
    at(process, from, to, call(Action::Write(value)), Answer::Written)
}

fn read(process: u32, from: u64, to: u64, value: i64) -> Op {
    at(process, from, to, call(Action::Read), Answer::Value(value))
}

fn swap(process: u32, times: (u64, u64), from: i64, to: i64, done: bool) -> Op {
    at(process, times.0, times.1, call(Action::Swap { from, to }), Answer::Swapped(done))
}

fn good(history: &[Op]) -> bool {
    let findings = check(history);
    assert!(findings.undecided.is_empty(), "{findings:?}");
    findings.is_clean()
}

#[test]
fn by_hand() {
    assert!(good(&[read(0, 0, 5, INITIAL), write(0, 10, 20, 1), read(1, 30, 40, 1)]));
    assert!(!good(&[write(0, 0, 10, 1), read(1, 20, 30, INITIAL)]), "a stale read");
    assert!(good(&[write(0, 0, 50, 1), read(1, 10, 20, INITIAL), read(1, 30, 40, 1)]));
    assert!(!good(&[write(0, 0, 50, 1), read(1, 10, 20, 1), read(2, 30, 40, INITIAL)]), "two readers disagree on the order");
    assert!(!good(&[read(0, 0, 10, 7)]), "a value that nobody wrote");
    assert!(good(&[swap(0, (0, 10), INITIAL, 1, true), swap(1, (0, 10), INITIAL, 2, false)]));
    assert!(!good(&[swap(0, (0, 10), INITIAL, 1, true), swap(1, (0, 10), INITIAL, 2, true)]), "both swaps from one value");
    assert!(!good(&[swap(0, (0, 10), INITIAL, 1, false)]), "a swap that had no reason to be refused");
    let other_key = Op { call: Call { key: 2, action: Action::Read }, ..read(2, 20, 30, INITIAL) };
    assert!(good(&[write(0, 0, 10, 1), other_key]), "keys do not know of each other");
}

#[test]
fn unknown_may_happen_late_or_never_and_failed_never() {
    let with = |outcome: Outcome<Answer>, reads: &[i64]| {
        let mut history = vec![unanswered(0, 0, call(Action::Write(1)), outcome)];
        history.extend(reads.iter().zip(1_u64..).map(|(value, nth)| read(1, nth * 10, nth * 10 + 5, *value)));
        good(&history)
    };
    assert!(with(Outcome::Unknown, &[INITIAL, INITIAL]) && with(Outcome::Unknown, &[INITIAL, 1]) && with(Outcome::Unknown, &[1, 1]));
    assert!(!with(Outcome::Unknown, &[1, INITIAL]), "it does not happen backwards");
    assert!(with(Outcome::Failed, &[INITIAL]) && !with(Outcome::Failed, &[1]));
    // An unknown swap that alone explains what is read.
    let mut chain = vec![unanswered(0, 0, call(Action::Swap { from: INITIAL, to: 1 }), Outcome::Unknown)];
    chain.push(swap(1, (10, 20), 1, 2, true));
    assert!(good(&chain));
}

#[test]
fn a_search_that_grows_too_large_says_so() {
    let many: Vec<Op> = (1..=14).map(|nth| write(nth, 0, 100, i64::from(nth))).collect();
    let mut history = many;
    history.push(read(99, 200, 210, -1));
    let findings = check_within(&history, 1000);
    assert!(findings.is_clean() && findings.undecided.len() == 1, "{findings:?}");
}

fn valid(seed: u64) -> Vec<Op> {
    let (mut value, mut next) = (INITIAL, 0);
    simulate::run(seed, 120, |random| match random.random_range(0..3) {
        0 => (call(Action::Read), Answer::Value(value)),
        1 => {
            next += 1;
            value = next;
            (call(Action::Write(next)), Answer::Written)
        }
        _ => {
            next += 1;
            let from = if random.random_bool(0.5) { value } else { random.random_range(0..next) };
            let done = from == value;
            if done {
                value = next;
            }
            (call(Action::Swap { from, to: next }), Answer::Swapped(done))
        }
    })
}

#[test]
fn serial_executions_are_accepted_and_invented_or_ancient_answers_are_not() {
    for seed in Seeds::default() {
        let history = valid(seed);
        assert!(good(&history), "seed {seed}");
        for spoilt in [-1, INITIAL] {
            let mut bad = history.clone();
            // The beginning is long past for the last read.
            let last = bad.iter().rposition(|op| matches!(op.answer(), Some(Answer::Value(value)) if *value > 20)).expect("a late read");
            bad[last].outcome = Outcome::Ok(Answer::Value(spoilt));
            assert!(!good(&bad), "seed {seed}");
        }
    }
}

/// Tries every order; for histories of a handful.
fn explained(operations: &[Op], taken: &mut Vec<bool>, value: i64) -> bool {
    if operations.iter().zip(taken.iter()).all(|(op, taken)| *taken || op.answer().is_none()) {
        return true;
    }
    for nth in 0..operations.len() {
        let may_be_next = !taken[nth] && (0..operations.len()).all(|other| taken[other] || !operations[other].precedes(&operations[nth]));
        if let Some(after) = step(value, &operations[nth]).filter(|_| may_be_next) {
            taken[nth] = true;
            let found = explained(operations, taken, after);
            taken[nth] = false;
            if found {
                return true;
            }
        }
    }
    false
}

#[test]
fn it_says_what_trying_all_orders_says() {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..3000 {
        let mut random = StdRng::seed_from_u64(seed);
        let operation = |process: u32, random: &mut StdRng| {
            let begin = random.random_range(0..30);
            let end = begin + random.random_range(1..20);
            let mut op = match random.random_range(0..4) {
                0 | 1 => read(process, begin, end, random.random_range(0..4)),
                2 => write(process, begin, end, random.random_range(1..4)),
                _ => swap(process, (begin, end), random.random_range(0..4), random.random_range(1..4), random.random_bool(0.5)),
            };
            if random.random_bool(0.15) {
                (op.ended, op.outcome) = (Nanos::NEVER, Outcome::Unknown);
            }
            op
        };
        let history: Vec<Op> = (0..7).map(|process| operation(process, &mut random)).collect();
        let expected = explained(&history, &mut vec![false; history.len()], INITIAL);
        assert_eq!(good(&history), expected, "seed {seed}: {history:#?}");
        if expected { yes += 1 } else { no += 1 }
    }
    assert!(yes > 300 && no > 300, "{yes} {no}");
}
