//! The judges: pure functions from a history to what is wrong with it.
//!
//! Each looks for one kind of promise, knows nothing of the system, and is proven on histories that it must reject as well as on ones that it
//! must accept; the latter also come from a simulated serial execution, which is then spoilt (`simulate`).

pub mod append;
pub mod bank;
mod graph;
pub mod register;
pub mod sequence;
pub mod session;
pub mod set;
#[cfg(test)]
pub(crate) mod simulate;

use std::collections::BTreeMap;
use std::fmt;

/// A broken system breaks often; this many of a kind are told in words.
const EXAMPLES_MAX: usize = 5;

/// What can be wrong with a history. The G names are Adya's, as Elle uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A read of all accounts in which money was made or lost.
    WrongSum,
    /// Writes of two transactions interleave: a cycle of write-write edges.
    G0,
    /// A read of what was rolled back.
    G1a,
    /// A read of a state in the middle of another transaction.
    G1b,
    /// Two transactions each saw, or overwrote, the other: a cycle of write-write and write-read edges.
    G1c,
    /// A cycle with one anti-dependency: lost update, read skew.
    GSingle,
    /// A cycle with several anti-dependencies: write skew.
    G2,
    /// A transaction does not see its own writes.
    Internal,
    /// Two reads that no single order of writes explains.
    IncompatibleOrder,
    /// One write seen twice.
    Duplicate,
    /// Something read that nobody wrote.
    Phantom,
    /// Acknowledged, and not there.
    Lost,
    /// Refused, and there.
    Ghost,
    /// No order of the operations explains the answers.
    NotLinearizable,
    /// A session read less than it had written.
    OwnWriteMissing,
    /// A session read less than it had read.
    WentBack,
    /// A value that was handed out to two.
    HandedOutTwice,
    /// A value that is not above one handed out before.
    HandedOutBelow,
}

/// What a checker found, and how much it looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Answers that were looked at. A verdict about nothing is worth nothing.
    pub checked: usize,
    pub anomalies: BTreeMap<Kind, Found>,
    /// Searches that were given up, and why. Neither right nor wrong.
    pub undecided: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub count: usize,
    pub examples: Vec<String>,
}

impl Findings {
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.anomalies.is_empty()
    }

    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.anomalies.contains_key(&kind)
    }

    pub fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.undecided.extend(other.undecided);
        for (kind, found) in other.anomalies {
            let mine = self.anomalies.entry(kind).or_default();
            mine.count += found.count;
            let room = EXAMPLES_MAX.saturating_sub(mine.examples.len());
            mine.examples.extend(found.examples.into_iter().take(room));
        }
    }

    fn add(&mut self, kind: Kind, example: impl FnOnce() -> String) {
        let found = self.anomalies.entry(kind).or_default();
        found.count += 1;
        if found.examples.len() < EXAMPLES_MAX {
            found.examples.push(example());
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            write!(f, "ok ({} answers)", self.checked)?;
        } else {
            let kinds: Vec<_> = self.anomalies.iter().map(|(kind, found)| format!("{kind:?} x {}", found.count)).collect();
            write!(f, "VIOLATED: {} ({} answers)", kinds.join(", "), self.checked)?;
        }
        if self.undecided.is_empty() { Ok(()) } else { write!(f, ", {} undecided", self.undecided.len()) }
    }
}
