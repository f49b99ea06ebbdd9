//! Which nodes can lead soon: having the log makes a Raft leader, but who leads must also open its Postgres.
//!
//! A node that seeds or repairs its Postgres, or cannot start it, is unable to lead, and so is one whose Postgres hangs or whose disk is full. It must not
//! keep the group waiting, nor be missing where its vote or its log is needed. So it takes part in everything and only leaves leading to others where
//! there are others that can do better.

use crate::core::health::Fit;
use howdah_protocol::{LogIndex, NodeId};
use std::cmp::Reverse;
use std::sync::Arc;
use tokio::sync::watch;

/// Entries that a successor may still lack: they arrive within the time that a hand-over takes.
const LACKS_MAX: u64 = 1024;

/// What it takes to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Whether its Postgres is, or will soon be, such that it can be opened.
    pub stage: Fit,
    /// Whether Postgres, the disks and apply do their work, and what must open opens.
    pub health: Fit,
}

impl Condition {
    #[must_use]
    pub fn fit(self) -> Fit {
        self.stage.min(self.health)
    }

    /// It stands for election by itself, and keeps leadership. A node that has just started does, since all of a group may have: it will soon know.
    #[must_use]
    pub fn stands(self) -> bool {
        self.stage > Fit::Unable && self.health == Fit::Fit
    }
}

/// How fit this node is. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Fitness(Arc<watch::Sender<Condition>>);

impl Default for Fitness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Condition { stage: Fit::Doubtful, health: Fit::Fit })))
    }
}

impl Fitness {
    pub(crate) fn change(&self, change: impl FnOnce(&mut Condition)) {
        self.0.send_if_modified(|condition| {
            let before = *condition;
            change(condition);
            *condition != before
        });
    }

    pub(crate) fn condition(&self) -> Condition {
        *self.0.borrow()
    }

    pub(crate) fn fit(&self) -> Fit {
        self.condition().fit()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Condition> {
        self.0.subscribe()
    }
}

/// A voter that a leader could hand over to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    /// How far it has the log, and where that ends on the leader.
    pub(crate) matched: LogIndex,
    pub(crate) last: LogIndex,
    pub(crate) fit: Fit,
}

impl Candidate {
    /// How well it can lead soon: without the log it cannot be elected.
    pub(crate) const fn can(&self) -> Fit {
        if self.last.0.saturating_sub(self.matched.0) <= LACKS_MAX { self.fit } else { Fit::Unable }
    }
}

/// The one that can lead best and soonest: the fittest, then the longest log, then the lowest id.
pub(crate) fn successor(candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().max_by_key(|candidate| (candidate.can(), candidate.matched, Reverse(candidate.node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: u64 = 5000;

    fn candidate(node: u64, matched: u64, fit: Fit) -> Candidate {
        Candidate { node: NodeId(node), matched: LogIndex(matched), last: LogIndex(LAST), fit }
    }

    #[test]
    fn whoever_can_lead_soonest_succeeds() {
        let unable = candidate(1, LAST, Fit::Unable);
        let far_behind = candidate(2, LAST - LACKS_MAX - 1, Fit::Fit);
        let slow = candidate(6, LAST, Fit::Doubtful);
        let behind = candidate(3, LAST - 1, Fit::Fit);
        let ready = candidate(4, LAST, Fit::Fit);
        let cases = [
            (vec![], None),
            (vec![unable, far_behind], Some(unable)),
            (vec![unable, far_behind, slow], Some(slow)),
            (vec![slow, far_behind, behind], Some(behind)),
            (vec![unable, behind, ready], Some(ready)),
            (vec![candidate(5, LAST, Fit::Fit), ready], Some(ready)),
        ];
        for (candidates, expected) in cases {
            assert_eq!(successor(&candidates), expected, "{candidates:?}");
        }
        assert_eq!(
            [ready, behind, slow, far_behind, unable].map(|one| one.can()),
            [Fit::Fit, Fit::Fit, Fit::Doubtful, Fit::Unable, Fit::Unable]
        );
    }

    #[test]
    fn a_node_that_has_just_started_stands_but_is_no_better_than_a_slow_one() {
        let started = Fitness::default().condition();
        assert!(started.stands());
        let slow = Condition { stage: Fit::Fit, health: Fit::Doubtful };
        assert!(!slow.stands());
        assert_eq!(started.fit(), slow.fit());
        let repairs = Condition { stage: Fit::Unable, health: Fit::Fit };
        assert!(!repairs.stands() && repairs.fit() < slow.fit());
    }
}
