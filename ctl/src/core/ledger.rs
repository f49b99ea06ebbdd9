//! What the clients were told, against what the database holds.
//!
//! Every transaction of a load writes one unique id. A COMMIT has three outcomes, not two: acknowledged, refused, and unknown (the connection
//! broke or the server said that it cannot know). Acknowledged and missing is a lost commit; refused and present is a lie in the other
//! direction; unknown may be either, and is only counted.

use std::collections::HashSet;

/// Which client, and its how-manieth transaction: unique within one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId {
    pub client: i32,
    pub seq: i64,
}

/// What a client knows after its COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    Refused,
    Unknown,
}

/// All that the clients of one load were told.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    acknowledged: Vec<TransactionId>,
    refused: Vec<TransactionId>,
    unknown: Vec<TransactionId>,
}

/// The audit's findings. `lost` and `ghosts` must be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    /// Of the unknown ones, how many are in the database.
    pub unknown_committed: usize,
    /// Acknowledged, but not in the database.
    pub lost: Vec<TransactionId>,
    /// Refused, but in the database.
    pub ghosts: Vec<TransactionId>,
}

impl Ledger {
    pub fn note(&mut self, id: TransactionId, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => self.acknowledged.push(id),
            Outcome::Refused => self.refused.push(id),
            Outcome::Unknown => self.unknown.push(id),
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.refused.extend(other.refused);
        self.unknown.extend(other.unknown);
    }

    /// Compares with the ids that the database holds.
    #[must_use]
    pub fn audit(&self, present: &HashSet<TransactionId>) -> Audit {
        let mut lost: Vec<_> = self.acknowledged.iter().filter(|id| !present.contains(id)).copied().collect();
        let mut ghosts: Vec<_> = self.refused.iter().filter(|id| present.contains(id)).copied().collect();
        lost.sort_unstable();
        ghosts.sort_unstable();
        Audit {
            acknowledged: self.acknowledged.len(),
            refused: self.refused.len(),
            unknown: self.unknown.len(),
            unknown_committed: self.unknown.iter().filter(|id| present.contains(id)).count(),
            lost,
            ghosts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: i64) -> TransactionId {
        TransactionId { client: 1, seq }
    }

    #[test]
    fn a_lost_commit_and_a_ghost_are_found_and_unknown_ones_are_neither() {
        let mut ledger = Ledger::default();
        for (seq, outcome) in [
            (1, Outcome::Acknowledged),
            (2, Outcome::Acknowledged),
            (3, Outcome::Refused),
            (4, Outcome::Refused),
            (5, Outcome::Unknown),
            (6, Outcome::Unknown),
        ] {
            ledger.note(id(seq), outcome);
        }
        let present = [1, 3, 5].map(id).into_iter().collect();
        assert_eq!(
            ledger.audit(&present),
            Audit { acknowledged: 2, refused: 2, unknown: 2, unknown_committed: 1, lost: vec![id(2)], ghosts: vec![id(3)] }
        );
    }

    #[test]
    fn the_same_number_of_two_clients_are_two_transactions() {
        let mut ledger = Ledger::default();
        ledger.note(TransactionId { client: 2, seq: 1 }, Outcome::Acknowledged);
        assert_eq!(ledger.audit(&[id(1)].into_iter().collect()).lost.len(), 1);
    }
}
