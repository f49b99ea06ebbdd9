//! List-append: transactions append unique values to lists and read lists. A list tells the order in which its values were written, so the
//! dependencies between transactions need not be guessed (Kingsbury and Alvaro, Elle, VLDB 2020):
//!
//! ```text
//! ww  T1 appended the value before T2's           wr  T2 read a list that ends in T1's value
//! rw  T1 read a list that lacks T2's value, the next one
//! ```
//!
//! A cycle of them is an execution that no serial order explains; which edges it needs says how bad it is (Adya 1999).

mod cycles;
mod observe;

use super::{Findings, Kind};
use crate::history::Operation;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Append { key: i32, value: i32 },
    Read { key: i32 },
}

/// The steps of one transaction.
pub type Call = Vec<Step>;
/// The lists that its reads saw, in the order of the reads.
pub type Answer = Vec<Vec<i32>>;
pub(crate) type Op = Operation<Call, Answer>;

/// Isolation levels by what they forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    ReadCommitted,
    /// PostgreSQL's REPEATABLE READ.
    Snapshot,
    Serializable,
}

impl Level {
    fn forbids(self, kind: Kind) -> bool {
        match kind {
            Kind::GSingle => self != Self::ReadCommitted,
            Kind::G2 => self == Self::Serializable,
            _ => true,
        }
    }
}

/// `fresh`: a transaction sees what was acknowledged before it began.
#[must_use]
pub fn check(history: &[Op], level: Level, fresh: bool) -> Findings {
    let mut findings = Findings { checked: history.iter().filter(|op| op.answer().is_some()).count(), ..Findings::default() };
    let mut all = Findings::default();
    let observed = observe::observe(history, &mut all);
    if fresh {
        observe::lost(history, &observed, &mut all);
    }
    cycles::find(history, &observed, &mut all);
    all.anomalies.retain(|kind, _| level.forbids(*kind));
    findings.merge(all);
    findings
}

#[cfg(test)]
mod tests;
