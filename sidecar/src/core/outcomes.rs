//! What became of a transaction whose client never heard: is it in the log, or can it never be?
//!
//! A proxy that loses its server connection during a COMMIT knows three things: under which opening of which node the transaction ran,
//! its transaction id, and a position that the log had before the COMMIT was sent. From these and a prefix of the log follows:
//!
//! ```text
//!   W opens ... commits of W ... W's instance opens again ... commits ... another instance opens
//!     |<-------- W ------------>|<----------- again ------------------->|
//!
//!   in W                                     committed
//!   in neither, and another has opened       refused: what W's Postgres still had is void on every node
//!   in neither, and nobody has               open: only W's Postgres can tell
//!   in "again"                               unclear
//! ```
//!
//! An instance that opens again proposes the tail of its own slot first, so a transaction of W may come under the later epoch. But if its
//! Postgres has crashed in between, it gives ids of which nothing had reached the disk to new transactions: what is found there under
//! the number may be another.
//!
//! Any node may answer, since an answer that is not open is final in every longer prefix.
//!
//! Invariants: memory is bounded; commits above `floor` are all known, so "not in it" is said only of positions above. A transaction
//! id of 32 bits wraps, but not within the entries between the asked position and the end of the reign that are kept here.

use crate::core::decisions::Serving;
use crate::core::entry::{Entry, Item};
use howdah_protocol::{Epoch, InstanceId, LogIndex, NodeId};
use std::collections::VecDeque;

/// Commits that are remembered: half a minute of what one group does on a small machine, several seconds on a large one. 2 MiB.
pub const COMMITS_MAX: usize = 128 * 1024;
/// Openings that are remembered. A proxy asks seconds after one.
const OPENINGS_MAX: usize = 64;

/// One transaction, as a proxy knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The node that it ran on, and the opening that the proxy checked when it connected.
    pub node: NodeId,
    pub epoch: Epoch,
    /// The low 32 bits of its id.
    pub xid: u32,
    /// The log had this position before the COMMIT was sent.
    pub after: LogIndex,
}

impl Question {
    /// It ran under the opening that this node serves now. Then the log may have decided it while this node's Postgres still holds it back, and
    /// "committed" must wait: who reads here after that answer expects to see it. Elsewhere there is nothing to wait for: another node has applied
    /// it before it opened, and a later opening of this one comes after the sessions of this opening have ended.
    #[must_use]
    pub fn ran_under(&self, node: NodeId, serving: Option<Epoch>) -> bool {
        self.node == node && Some(self.epoch) == serving
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the log, at this position.
    Committed(LogIndex),
    /// It is not in the log and never will be.
    Refused,
    /// It is not in the log yet; this instance may still bring it. `again`: it has opened again since.
    Open { instance: InstanceId, again: bool },
    /// A transaction of this number is in the log, but it may be a later one.
    Unclear,
    /// This prefix of the log does not hold the opening that it ran under: it may be too short.
    Unheard,
    /// Too much has happened since to tell.
    Forgotten,
}

#[derive(Debug, Clone, Copy)]
struct Opening {
    index: LogIndex,
    by: Serving,
}

/// The recent past of the log, by transaction id.
#[derive(Debug, Default)]
pub struct Outcomes {
    floor: LogIndex,
    commits: VecDeque<(LogIndex, u32)>,
    openings: VecDeque<Opening>,
}

impl Outcomes {
    /// Begins behind `index`, where `serving` was the one that opened last. What is before is not known.
    #[must_use]
    pub fn behind(index: LogIndex, serving: Option<Serving>) -> Self {
        // Where exactly it opened is not known any more, only that it was before.
        let openings = serving.map(|by| Opening { index: LogIndex(0), by }).into_iter().collect();
        Self { floor: index, commits: VecDeque::new(), openings }
    }

    /// Takes the next entry, as far as it counts: what `Decisions::admit` left of it.
    pub fn note(&mut self, index: LogIndex, entry: &Entry) {
        match entry {
            Entry::Open { writer, .. } => {
                self.openings.push_back(Opening { index, by: (*writer).into() });
                if self.openings.len() > OPENINGS_MAX {
                    self.openings.pop_front();
                }
            }
            Entry::Batch { items, .. } => {
                for item in items {
                    if let Item::Commit { xid, .. } = item {
                        self.remember(index, *xid);
                    }
                }
            }
            Entry::Sequences { .. } => {}
        }
    }

    fn remember(&mut self, index: LogIndex, xid: u32) {
        self.commits.push_back((index, xid));
        if self.commits.len() > COMMITS_MAX
            && let Some((oldest, _)) = self.commits.pop_front()
        {
            self.floor = oldest;
        }
    }

    #[must_use]
    pub fn look_up(&self, question: &Question) -> Verdict {
        let is_asked = |opening: &Opening| (opening.by.node, opening.by.epoch) == (question.node.0, question.epoch.0);
        let Some(nth) = self.openings.iter().rposition(is_asked) else { return Verdict::Unheard };
        let opening = self.openings[nth];
        let mut later = self.openings.range(nth + 1..);
        let end = later.clone().next().map(|next| next.index);
        let over = later.find(|next| next.by.instance != opening.by.instance).map(|next| next.index);
        let from = question.after.max(opening.index);
        // From the end: whoever asks does so soon, so this looks at little more than what came since.
        let since = self.commits.iter().rev().take_while(|(index, _)| *index > from);
        let named = since.filter(|(index, xid)| *xid == question.xid && over.is_none_or(|over| *index < over)).map(|(index, _)| *index);
        match (named.last(), over) {
            (Some(index), _) if end.is_none_or(|end| index < end) => Verdict::Committed(index),
            (Some(_), _) => Verdict::Unclear,
            (None, None) => Verdict::Open { instance: opening.by.instance, again: end.is_some() },
            (None, Some(_)) if from >= self.floor => Verdict::Refused,
            (None, Some(_)) => Verdict::Forgotten,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::entry::{Messages, Writer};
    use howdah_protocol::Lsn;

    fn writer(node: u64, epoch: u64) -> Writer {
        Writer { node: NodeId(node), instance: InstanceId(node * 10), epoch: Epoch(epoch) }
    }

    fn open(outcomes: &mut Outcomes, index: u64, writer: Writer) {
        outcomes.note(LogIndex(index), &Entry::Open { writer, time_ms: 0 });
    }

    fn commit(outcomes: &mut Outcomes, index: u64, writer: Writer, xids: impl IntoIterator<Item = u32>) {
        let item = |xid| Item::Commit {
            xid,
            commit_lsn: Lsn(1),
            end_lsn: Lsn(2),
            commit_time_us: 0,
            chunked: false,
            messages: Messages::default(),
        };
        let items = xids.into_iter().map(item).collect();
        outcomes.note(LogIndex(index), &Entry::Batch { writer, time_ms: 0, items });
    }

    fn ask(node: u64, epoch: u64, xid: u32, after: u64) -> Question {
        Question { node: NodeId(node), epoch: Epoch(epoch), xid, after: LogIndex(after) }
    }

    /// Node 1 opens at 1 and commits 7 and 8; node 2 opens at 5 and commits 7 of its own.
    fn two_reigns() -> Outcomes {
        let mut outcomes = Outcomes::default();
        open(&mut outcomes, 1, writer(1, 100));
        commit(&mut outcomes, 2, writer(1, 100), [7]);
        commit(&mut outcomes, 3, writer(1, 100), [8]);
        open(&mut outcomes, 5, writer(2, 200));
        commit(&mut outcomes, 6, writer(2, 200), [7]);
        outcomes
    }

    #[test]
    fn what_is_in_the_log_is_committed_and_what_a_successor_did_not_find_is_refused() {
        let outcomes = two_reigns();
        assert_eq!(outcomes.look_up(&ask(1, 100, 8, 2)), Verdict::Committed(LogIndex(3)));
        assert_eq!(outcomes.look_up(&ask(1, 100, 9, 2)), Verdict::Refused);
        assert_eq!(outcomes.look_up(&ask(2, 200, 7, 5)), Verdict::Committed(LogIndex(6)));
        assert_eq!(outcomes.look_up(&ask(2, 200, 9, 5)), Verdict::Open { instance: InstanceId(20), again: false });
    }

    #[test]
    fn only_the_opening_that_ran_it_can_hold_it_back() {
        let question = ask(1, 100, 8, 2);
        assert!(question.ran_under(NodeId(1), Some(Epoch(100))));
        assert!(!question.ran_under(NodeId(2), Some(Epoch(100))) && !question.ran_under(NodeId(1), Some(Epoch(101))));
        assert!(!question.ran_under(NodeId(1), None), "closed");
    }

    #[test]
    fn the_same_number_before_the_position_or_of_another_postgres_is_another_transaction() {
        let outcomes = two_reigns();
        assert_eq!(outcomes.look_up(&ask(1, 100, 7, 2)), Verdict::Refused, "7 of node 1 was committed before");
        assert_eq!(outcomes.look_up(&ask(1, 100, 7, 1)), Verdict::Committed(LogIndex(2)));
    }

    #[test]
    fn a_log_that_has_not_come_to_the_opening_does_not_refuse() {
        assert_eq!(two_reigns().look_up(&ask(3, 300, 7, 9)), Verdict::Unheard);
        assert_eq!(Outcomes::default().look_up(&ask(1, 100, 7, 0)), Verdict::Unheard);
    }

    #[test]
    fn an_instance_that_opens_again_may_bring_its_tail_or_give_the_number_to_another() {
        let mut outcomes = Outcomes::default();
        open(&mut outcomes, 1, writer(1, 100));
        open(&mut outcomes, 2, writer(1, 101));
        assert_eq!(outcomes.look_up(&ask(1, 100, 7, 1)), Verdict::Open { instance: InstanceId(10), again: true });
        commit(&mut outcomes, 3, writer(1, 101), [7]);
        assert_eq!(outcomes.look_up(&ask(1, 100, 7, 1)), Verdict::Unclear);
        assert_eq!(outcomes.look_up(&ask(1, 101, 7, 2)), Verdict::Committed(LogIndex(3)));
        open(&mut outcomes, 4, writer(2, 200));
        open(&mut outcomes, 5, writer(1, 102));
        commit(&mut outcomes, 6, writer(1, 102), [9]);
        assert_eq!(outcomes.look_up(&ask(1, 100, 9, 1)), Verdict::Refused, "9 came after another had opened");
    }

    #[test]
    fn nothing_is_refused_of_a_past_that_was_forgotten() {
        let mut outcomes = Outcomes::default();
        open(&mut outcomes, 1, writer(1, 100));
        for index in 0..4 {
            commit(&mut outcomes, 2 + index, writer(1, 100), (0..COMMITS_MAX as u32 / 2).map(|xid| xid * 4 + index as u32));
        }
        assert_eq!(outcomes.commits.len(), COMMITS_MAX, "bounded");
        open(&mut outcomes, 9, writer(2, 200));
        assert_eq!(outcomes.look_up(&ask(1, 100, 0, 1)), Verdict::Forgotten);
        assert_eq!(outcomes.look_up(&ask(1, 100, 0, 3)), Verdict::Refused, "everything behind position 3 is known");
        assert_eq!(outcomes.look_up(&ask(1, 100, 6, 3)), Verdict::Committed(LogIndex(4)));
    }

    #[test]
    fn after_a_restart_the_past_begins_at_the_snapshot() {
        let mut outcomes = Outcomes::behind(LogIndex(50), Some(writer(1, 100).into()));
        commit(&mut outcomes, 51, writer(1, 100), [7]);
        open(&mut outcomes, 52, writer(2, 200));
        assert_eq!(outcomes.look_up(&ask(1, 100, 7, 40)), Verdict::Committed(LogIndex(51)));
        assert_eq!(outcomes.look_up(&ask(1, 100, 8, 50)), Verdict::Refused);
    }

    #[test]
    fn a_snapshot_hides_what_came_before_it() {
        let mut outcomes = Outcomes::behind(LogIndex(50), Some(writer(1, 100).into()));
        open(&mut outcomes, 52, writer(2, 200));
        assert_eq!(outcomes.look_up(&ask(1, 100, 8, 40)), Verdict::Forgotten, "it may be at 45");
    }
}
