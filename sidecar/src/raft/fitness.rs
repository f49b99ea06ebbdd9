//! Which nodes can lead soon: having the log makes a Raft leader, but who leads must also open its Postgres.
//!
//! A node that seeds or repairs its Postgres, or cannot start it, is unfit, and so is one whose Postgres hangs or whose disk is full or slow. It must not keep the group waiting, nor be missing where its
//! vote or its log is needed. So it takes part in everything and only leaves leading to others where there are others.

use howdah_protocol::{LogIndex, NodeId};
use std::cmp::Reverse;
use std::sync::Arc;
use tokio::sync::watch;

/// Entries that a successor may still lack: they arrive within the time that a hand-over takes.
const LACKS_MAX: u64 = 1024;

/// What it takes to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Its Postgres is, or will soon be, such that it can be opened.
    pub ready: bool,
    /// Postgres and the disks do their work.
    pub well: bool,
}

impl Fit {
    #[must_use]
    pub const fn is_fit(self) -> bool {
        self.ready && self.well
    }
}

/// Whether this node is fit. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Fitness(Arc<watch::Sender<Fit>>);

impl Default for Fitness {
    /// A node that has just started will soon know, and until then stands for election like everybody else: all of a group may start at once.
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Fit { ready: true, well: true })))
    }
}

impl Fitness {
    pub(crate) fn change(&self, change: impl FnOnce(&mut Fit)) {
        self.0.send_if_modified(|fit| {
            let before = *fit;
            change(fit);
            *fit != before
        });
    }

    pub(crate) fn is_fit(&self) -> bool {
        self.0.borrow().is_fit()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Fit> {
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
    pub(crate) fit: bool,
}

impl Candidate {
    /// It can be elected now, and open soon.
    pub(crate) const fn is_ready(&self) -> bool {
        self.fit && self.last.0.saturating_sub(self.matched.0) <= LACKS_MAX
    }
}

/// The one that can lead soonest: a ready one before the others, then the longest log, then the lowest id.
pub(crate) fn successor(candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().max_by_key(|candidate| (candidate.is_ready(), candidate.matched, Reverse(candidate.node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: u64 = 5000;

    fn candidate(node: u64, matched: u64, fit: bool) -> Candidate {
        Candidate { node: NodeId(node), matched: LogIndex(matched), last: LogIndex(LAST), fit }
    }

    #[test]
    fn whoever_can_lead_soonest_succeeds() {
        let unfit = candidate(1, LAST, false);
        let far_behind = candidate(2, LAST - LACKS_MAX - 1, true);
        let behind = candidate(3, LAST - 1, true);
        let ready = candidate(4, LAST, true);
        let cases = [
            (vec![], None),
            (vec![unfit, far_behind], Some(unfit)),
            (vec![unfit, far_behind, behind], Some(behind)),
            (vec![unfit, behind, ready], Some(ready)),
            (vec![candidate(5, LAST, true), ready], Some(ready)),
        ];
        for (candidates, expected) in cases {
            assert_eq!(successor(&candidates), expected, "{candidates:?}");
        }
        assert!(ready.is_ready() && behind.is_ready() && !far_behind.is_ready() && !unfit.is_ready());
    }
}
