//! Each anomaly in its smallest form, and random serial executions.

use super::*;
use crate::check::simulate::{self, Seeds, at, concurrent, serial, unanswered};
use crate::history::Outcome;
use rand::Rng;
use std::collections::BTreeMap;

fn a(key: i32, value: i32) -> Step {
    Step::Append { key, value }
}

fn r(key: i32) -> Step {
    Step::Read { key }
}

fn kinds(history: &[Op]) -> Vec<Kind> {
    check(history, Level::Serializable, false).anomalies.into_keys().collect()
}

fn together<const N: usize>(transactions: [(&[Step], &[&[i32]]); N]) -> Vec<Op> {
    concurrent(transactions.map(|(steps, lists)| (steps.to_vec(), lists.iter().map(|list| list.to_vec()).collect())))
}

#[test]
fn each_anomaly_is_called_by_its_name() {
    // Two keys whose writers come in opposite order.
    let g0 = together([(&[a(1, 1), a(2, 1)], &[]), (&[a(1, 2), a(2, 2)], &[]), (&[r(1), r(2)], &[&[1, 2], &[2, 1]])]);
    assert!(kinds(&g0).contains(&Kind::G0), "{:?}", kinds(&g0));
    // Each sees the other's write.
    let g1c = together([(&[a(1, 1), r(2)], &[&[1]]), (&[a(2, 1), r(1)], &[&[1]])]);
    assert_eq!(kinds(&g1c), [Kind::G1c]);
    // Read skew: the new value of one key, the old one of the other.
    let skew = together([(&[a(1, 1), a(2, 1)], &[]), (&[r(1), r(2)], &[&[1], &[]]), (&[r(2)], &[&[1]])]);
    assert_eq!(kinds(&skew), [Kind::GSingle]);
    // Lost update: both append to the list that they read, and only one is the next.
    let lost_update = together([(&[r(1), a(1, 1)], &[&[]]), (&[r(1), a(1, 2)], &[&[]]), (&[r(1)], &[&[1, 2]])]);
    assert_eq!(kinds(&lost_update), [Kind::GSingle]);
    // Write skew: each reads what the other is about to write.
    let write_skew = together([(&[r(1), a(2, 1)], &[&[]]), (&[r(2), a(1, 1)], &[&[]]), (&[r(1), r(2)], &[&[1], &[1]])]);
    assert_eq!(kinds(&write_skew), [Kind::G2]);
    assert!(check(&write_skew, Level::Snapshot, false).is_clean() && !check(&skew, Level::Snapshot, false).is_clean());
    assert!(check(&skew, Level::ReadCommitted, false).is_clean() && !check(&g1c, Level::ReadCommitted, false).is_clean());
}

#[test]
fn single_reads_that_cannot_be() {
    let torn = together([(&[a(1, 1), a(1, 2)], &[]), (&[r(1)], &[&[1]])]);
    assert!(kinds(&torn).contains(&Kind::G1b), "{:?}", kinds(&torn));
    assert_eq!(kinds(&together([(&[a(1, 1)], &[]), (&[r(1)], &[&[1, 1]])])), [Kind::Duplicate]);
    assert_eq!(kinds(&together([(&[r(1)], &[&[7]])])), [Kind::Phantom]);
    assert_eq!(kinds(&together([(&[a(1, 1), r(1)], &[&[]])])), [Kind::Internal]);
    let forked = together([(&[a(1, 1)], &[]), (&[a(1, 2)], &[]), (&[r(1)], &[&[1]]), (&[r(1)], &[&[2]])]);
    assert!(kinds(&forked).contains(&Kind::IncompatibleOrder));
    for (outcome, expected) in [(Outcome::Failed, vec![Kind::G1a]), (Outcome::Unknown, vec![])] {
        let mut history = together([(&[r(1)], &[&[1]])]);
        history.push(unanswered(5, 0, vec![a(1, 1)], outcome));
        assert_eq!(kinds(&history), expected);
    }
}

#[test]
fn an_acknowledged_append_that_a_later_read_misses_is_lost() {
    let history = serial([(0, vec![a(1, 1)], vec![]), (1, vec![r(1)], vec![vec![]])]);
    assert!(check(&history, Level::Serializable, true).has(Kind::Lost) && check(&history, Level::Serializable, false).is_clean());
    let overlapping = vec![at(0, 0, 20, vec![a(1, 1)], vec![]), at(1, 10, 30, vec![r(1)], vec![vec![]])];
    assert!(check(&overlapping, Level::Serializable, true).is_clean());
}

/// A serial store of lists, its transactions of one to four steps over three keys.
fn valid(seed: u64) -> Vec<Op> {
    let (mut lists, mut next) = (BTreeMap::<i32, Vec<i32>>::new(), 0);
    simulate::run(seed, 150, |random| {
        let (mut steps, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..random.random_range(1..=4) {
            let key = random.random_range(0..3);
            if random.random_bool(0.5) {
                answers.push(lists.get(&key).cloned().unwrap_or_default());
                steps.push(r(key));
            } else {
                next += 1;
                lists.entry(key).or_default().push(next);
                steps.push(a(key, next));
            }
        }
        (steps, answers)
    })
}

#[test]
fn serial_executions_are_accepted_and_spoilt_reads_are_not() {
    let mut rejected = [0; 3];
    for seed in Seeds::default() {
        let history = valid(seed);
        let findings = check(&history, Level::Serializable, true);
        assert!(findings.is_clean() && findings.checked > 50, "seed {seed}: {findings:?}");
        // A value is missing in the middle; one is there twice; a read is as old as the beginning.
        let spoils: [fn(&mut Vec<i32>) -> bool; 3] = [
            |list| {
                list.len() > 2 && {
                    list.remove(0);
                    true
                }
            },
            |list| {
                list.last().copied().is_some_and(|last| {
                    list.push(last);
                    true
                })
            },
            |list| {
                list.len() > 30 && {
                    list.clear();
                    true
                }
            },
        ];
        for (nth, spoil) in spoils.iter().enumerate() {
            let mut bad = history.clone();
            if simulate::spoil(seed, &mut bad, |lists, _| lists.iter_mut().any(spoil)) {
                assert!(!check(&bad, Level::Serializable, true).is_clean(), "seed {seed}, spoil {nth}");
                rejected[nth] += 1;
            }
        }
    }
    assert!(rejected.iter().all(|count| *count > 50), "{rejected:?}");
}
