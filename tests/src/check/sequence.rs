//! Sequences: no value is handed out twice, and none below one that was handed out before, across failovers too.
//!
//! Values may be skipped. Only values of acknowledged transactions count: what a rolled back or lost transaction drew may come again.

use super::{Findings, Kind};
use crate::history::{Nanos, Operation};
use std::collections::HashMap;

/// Draws one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call;

pub type Answer = i64;

#[must_use]
pub fn check(history: &[Operation<Call, Answer>]) -> Findings {
    let mut findings = Findings::default();
    let mut owners = HashMap::new();
    let drawn: Vec<(&Operation<Call, Answer>, i64)> = history.iter().filter_map(|op| op.answer().map(|value| (op, *value))).collect();
    for (operation, value) in &drawn {
        findings.checked += 1;
        if let Some(other) = owners.insert(*value, operation.process) {
            findings.add(Kind::HandedOutTwice, || format!("{value} to {other:?} and {:?}", operation.process));
        }
    }
    // Against the largest value of all that had ended before.
    let mut by_end = drawn.clone();
    by_end.sort_by_key(|(operation, _)| operation.ended);
    let mut by_begin = drawn;
    by_begin.sort_by_key(|(operation, _)| operation.invoked);
    let (mut ended, mut largest) = (by_end.into_iter().peekable(), None::<(i64, Nanos)>);
    for (operation, value) in by_begin {
        while let Some((before, seen)) = ended.next_if(|(before, _)| before.precedes(operation)) {
            largest = largest.max(Some((seen, before.ended)));
        }
        if let Some((seen, at)) = largest.filter(|(seen, _)| *seen >= value) {
            findings.add(Kind::HandedOutBelow, || format!("{value} at {:?}, after {seen} at {at:?}", operation.invoked));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::simulate::{self, Seeds, concurrent, serial};
    use rand::Rng;

    #[test]
    fn rising_values_are_accepted_and_repeated_or_falling_ones_are_not() {
        for seed in Seeds::default() {
            let mut next = 0;
            let valid = simulate::run(seed, 100, |random| {
                next += random.random_range(1..5);
                (Call, next)
            });
            assert!(check(&valid).is_clean(), "seed {seed}");
            let drawn: Vec<i64> = valid.iter().filter_map(|op| op.answer().copied()).collect();
            let mut twice = valid.clone();
            assert!(simulate::spoil(seed, &mut twice, |value, random| {
                let other = drawn[random.random_range(0..drawn.len())];
                std::mem::replace(value, other) != other
            }));
            assert!(check(&twice).has(Kind::HandedOutTwice), "seed {seed}");
            let mut below = valid;
            let last = below.last_mut().expect("operations");
            last.outcome = crate::history::Outcome::Ok(0);
            assert!(check(&below).has(Kind::HandedOutBelow), "seed {seed}");
        }
    }

    #[test]
    fn concurrent_draws_have_no_order() {
        assert!(check(&concurrent([(Call, 2), (Call, 1)])).is_clean());
        assert!(check(&serial([(0, Call, 2), (1, Call, 1)])).has(Kind::HandedOutBelow));
    }
}
