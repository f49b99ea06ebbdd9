//! What an error at a given moment of a transaction means for its outcome.

use crate::core::ledger::Outcome;
use std::sync::atomic::{AtomicBool, Ordering};

/// How far a transaction had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was sent that could commit it.
    Open,
    /// The COMMIT, or the statement that is its own commit, may have been sent.
    Committing,
}

/// The phase of a transaction, readable after its future was dropped in the middle. Only goes forward.
#[derive(Debug, Default)]
pub struct Progress(AtomicBool);

impl Progress {
    pub fn committing(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.0.load(Ordering::Relaxed) { Phase::Committing } else { Phase::Open }
    }
}

/// `sqlstate` is the server's error code, `None` when the connection broke or nothing came in time.
#[must_use]
pub fn of_failure(phase: Phase, sqlstate: Option<&str>) -> Outcome {
    match (phase, sqlstate) {
        (Phase::Open, _) => Outcome::Refused,
        (Phase::Committing, None) => Outcome::Unknown,
        (Phase::Committing, Some(code)) if leaves_it_open(code) => Outcome::Unknown,
        (Phase::Committing, Some(_)) => Outcome::Refused,
    }
}

/// 08 is a broken connection (08007 says "unknown" in so many words), 57P a server that goes away, 58 and XX a failure of the system: none of
/// them says what became of the commit. 57P03 does: the server did not take the statement at all.
fn leaves_it_open(code: &str) -> bool {
    code != "57P03" && ["08", "57P", "58", "XX"].iter().any(|class| code.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_commit_can_be_unknown() {
        for code in [None, Some("08007"), Some("57P01"), Some("40001")] {
            assert_eq!(of_failure(Phase::Open, code), Outcome::Refused, "{code:?}");
        }
        for code in [None, Some("08007"), Some("08006"), Some("57P01"), Some("XX000")] {
            assert_eq!(of_failure(Phase::Committing, code), Outcome::Unknown, "{code:?}");
        }
        for code in ["40001", "57P03", "25006", "23505", "57014"] {
            assert_eq!(of_failure(Phase::Committing, Some(code)), Outcome::Refused, "{code}");
        }
    }
}
