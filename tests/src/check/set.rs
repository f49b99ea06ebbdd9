//! Set: what was acknowledged is there, what was refused is not, what is unknown may be either.

use super::{Findings, Kind};
use crate::history::{Operation, Outcome};
use std::collections::{HashMap, HashSet};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Insert(i64),
    /// The elements from `from` on. `fresh`: it must see all of them that were acknowledged before it began; others may be behind.
    Read {
        fresh: bool,
        from: i64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Inserted,
    Elements(Vec<i64>),
}

#[must_use]
pub fn check(history: &[Operation<Call, Answer>]) -> Findings {
    let inserts: HashMap<i64, &Operation<Call, Answer>> =
        history.iter().filter_map(|op| if let Call::Insert(id) = op.call { Some((id, op)) } else { None }).collect();
    let mut by_id: Vec<(i64, &Operation<Call, Answer>)> = inserts.iter().map(|(id, insert)| (*id, *insert)).collect();
    by_id.sort_unstable_by_key(|(id, _)| *id);
    let mut findings = Findings::default();
    for read in history {
        let (Call::Read { fresh, from }, Some(Answer::Elements(elements))) = (&read.call, read.answer()) else { continue };
        findings.checked += 1;
        let mut seen = HashSet::new();
        for id in elements {
            if !seen.insert(*id) {
                findings.add(Kind::Duplicate, || format!("{id} is there twice"));
            }
            match inserts.get(id) {
                None => findings.add(Kind::Phantom, || format!("{id} was never inserted")),
                Some(insert) if read.precedes(insert) => findings.add(Kind::Phantom, || format!("{id} was seen before it was inserted")),
                Some(insert) if insert.outcome == Outcome::Failed => {
                    findings.add(Kind::Ghost, || format!("{id} was refused to {:?} at {:?}", insert.process, insert.ended));
                }
                Some(_) => {}
            }
        }
        let due = if *fresh { &by_id[by_id.partition_point(|(id, _)| id < from)..] } else { &[] };
        for (id, insert) in due {
            if insert.answer().is_some() && insert.precedes(read) && !seen.contains(id) {
                findings.add(Kind::Lost, || {
                    format!("{id}, acknowledged to {:?} at {:?}, is not seen by a read of {:?}", insert.process, insert.ended, read.invoked)
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::simulate::{self, Seeds, serial, unanswered};
    use rand::Rng;

    fn valid(seed: u64) -> Vec<Operation<Call, Answer>> {
        let (mut elements, mut next) = (Vec::new(), 0);
        simulate::run(seed, 150, |random| {
            if random.random_bool(0.2) {
                return (Call::Read { fresh: true, from: 0 }, Answer::Elements(elements.clone()));
            }
            next += 1;
            elements.push(next);
            (Call::Insert(next), Answer::Inserted)
        })
    }

    #[test]
    fn serial_executions_are_accepted_and_a_lost_or_invented_element_is_not() {
        for seed in Seeds::default() {
            let history = valid(seed);
            let findings = check(&history);
            assert!(findings.is_clean() && findings.checked > 3, "seed {seed}: {findings:?}");
            let mut invented = history.clone();
            simulate::spoil(seed, &mut invented, |answer, _| {
                let Answer::Elements(seen) = answer else { return false };
                seen.push(9999);
                true
            });
            assert!(check(&invented).has(Kind::Phantom), "seed {seed}");
            // The last read sees everything that was acknowledged before it; each of those is missed.
            let mut lost = history;
            let Some(last) = lost.iter().rposition(|op| matches!(op.answer(), Some(Answer::Elements(_)))) else { panic!("no read") };
            let acked = lost.iter().find(|op| op.answer() == Some(&Answer::Inserted) && op.precedes(&lost[last]));
            let Some(Call::Insert(gone)) = acked.map(|op| op.call.clone()) else { continue };
            if let Outcome::Ok(Answer::Elements(seen)) = &mut lost[last].outcome {
                seen.retain(|id| *id != gone);
            }
            assert!(check(&lost).has(Kind::Lost), "seed {seed}");
        }
    }

    #[test]
    fn unknown_may_be_either_refused_must_not_be_there_and_stale_reads_may_miss() {
        let read = |seen: &[i64], fresh| (9, Call::Read { fresh, from: 0 }, Answer::Elements(seen.to_vec()));
        let with = |outcome, seen: &[i64]| {
            let mut history = serial([(0, Call::Insert(1), Answer::Inserted), read(seen, true)]);
            history.insert(0, unanswered(1, 0, Call::Insert(2), outcome));
            check(&history)
        };
        assert!(with(Outcome::Unknown, &[1]).is_clean() && with(Outcome::Unknown, &[1, 2]).is_clean());
        assert!(with(Outcome::Failed, &[1]).is_clean() && with(Outcome::Failed, &[1, 2]).has(Kind::Ghost));
        assert!(check(&serial([(0, Call::Insert(1), Answer::Inserted), read(&[], false)])).is_clean());
        assert!(check(&serial([(0, Call::Insert(1), Answer::Inserted), read(&[], true)])).has(Kind::Lost));
        assert!(check(&serial([(0, Call::Insert(1), Answer::Inserted), read(&[1, 1], true)])).has(Kind::Duplicate));
        assert!(check(&serial([read(&[1], true), (0, Call::Insert(1), Answer::Inserted)])).has(Kind::Phantom));
    }
}
