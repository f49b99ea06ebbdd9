//! What a prefix of the log decides: who may write, and up to which commit of each Postgres the log holds.
//!
//! Every node runs this over the same entries and comes to the same answer. It runs twice on a node: over the decided log (for the
//! gate), and over the applied prefix (for Postgres, stored with the rows).
//!
//! Invariants: positions only go forward. A batch counts only if its writer is the one that opened last: what a deposed leader still
//! had in flight is void everywhere. A transaction that the log holds already is void the second time.

use crate::core::entry::{Entry, Item, Writer};
use bytes::Bytes;
use howdah_protocol::{InstanceId, LogIndex, Lsn};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decisions {
    /// The writer that opened last.
    pub serving: Option<Serving>,
    /// For each Postgres that ever led: the end LSN of its last commit in the log.
    pub watermarks: BTreeMap<InstanceId, Lsn>,
    /// High-water marks of sequences, by qualified name.
    pub sequences: BTreeMap<String, i64>,
    /// Transactions of the present writer of which the log holds chunks, but no end yet.
    #[serde(default)]
    pub unfinished: BTreeSet<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    pub node: u64,
    pub instance: InstanceId,
    pub epoch: u64,
}

/// What became of the commits in a snapshot of the leader's Postgres that the log did not hold yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Open,
    Decided,
    /// Another has opened since, even if the same node did so again later: its Postgres may have been repaired in between.
    Void,
}

impl From<Writer> for Serving {
    fn from(writer: Writer) -> Self {
        Self { node: writer.node.0, instance: writer.instance, epoch: writer.epoch.0 }
    }
}

impl Decisions {
    #[must_use]
    pub fn watermark(&self, instance: InstanceId) -> Lsn {
        self.watermarks.get(&instance).copied().unwrap_or_default()
    }

    /// Whether this prefix of the log holds all that `me` ever wrote as a leader, `known` being a longer prefix, and another has opened since:
    /// then what a follower's Postgres holds at this position is this prefix and nothing else.
    #[must_use]
    pub fn holds_all_of(&self, me: InstanceId, known: &Self) -> bool {
        let mine = |decisions: &Self| decisions.serving.is_some_and(|serving| serving.instance == me);
        !mine(self) && !mine(known) && self.watermark(me) == known.watermark(me)
    }

    /// Of a snapshot up to `lsn` that was asked for when `by` was the last opening known; behind it a mark was committed.
    #[must_use]
    pub fn fate(&self, by: Serving, lsn: Lsn) -> Fate {
        if self.serving != Some(by) {
            Fate::Void
        } else if self.watermark(by.instance) > lsn {
            Fate::Decided
        } else {
            Fate::Open
        }
    }

    /// Takes the next entry of the log and leaves in it what counts: the items of a void batch, and transactions that the log already
    /// holds, are taken out.
    pub fn admit(&mut self, entry: &mut Entry) {
        match entry {
            Entry::Open { writer, .. } => {
                self.serving = Some((*writer).into());
                self.unfinished.clear();
            }
            Entry::Sequences { marks } => {
                for (name, value) in marks {
                    let mark = self.sequences.entry(name.clone()).or_insert(*value);
                    *mark = (*value).max(*mark);
                }
            }
            Entry::Batch { writer, items, .. } => {
                if self.serving != Some((*writer).into()) {
                    items.clear();
                    return;
                }
                let watermark = self.watermarks.entry(writer.instance).or_default();
                let unfinished = &mut self.unfinished;
                items.retain(|item| match item {
                    Item::Commit { xid, end_lsn, chunked, .. } => {
                        if *chunked {
                            unfinished.remove(xid);
                        }
                        let new = end_lsn > watermark;
                        *watermark = (*end_lsn).max(*watermark);
                        new
                    }
                    Item::Chunk { xid, .. } => {
                        unfinished.insert(*xid);
                        true
                    }
                    Item::Abort { xid } => {
                        unfinished.remove(xid);
                        true
                    }
                    Item::SubAbort { .. } => true,
                });
            }
        }
    }
}

/// How many of the entries come before the reign of `me`, the writer that opened last, ends; all where it has not begun.
#[must_use]
pub fn within_reign(me: InstanceId, before: &Decisions, entries: &[(LogIndex, Option<Bytes>)]) -> usize {
    let mut reigns = before.serving.is_some_and(|serving| serving.instance == me);
    let ends = |(_, payload): &(LogIndex, Option<Bytes>)| {
        let Some(writer) = payload.as_ref().and_then(Entry::opening) else { return false };
        let ends = reigns && writer.instance != me;
        reigns = writer.instance == me;
        ends
    };
    entries.iter().position(ends).unwrap_or(entries.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::entry::Messages;
    use howdah_protocol::{Epoch, NodeId};

    fn writer(node: u64, epoch: u64) -> Writer {
        Writer { node: NodeId(node), instance: InstanceId(node * 10), epoch: Epoch(epoch) }
    }

    fn batch(writer: Writer, ends: &[u64]) -> Entry {
        let commit = |end: &u64| Item::Commit {
            xid: 1,
            commit_lsn: Lsn(end - 1),
            end_lsn: Lsn(*end),
            commit_time_us: 0,
            chunked: false,
            messages: Messages::default(),
        };
        Entry::Batch { writer, time_ms: 0, items: ends.iter().map(commit).collect() }
    }

    fn admitted(decisions: &mut Decisions, mut entry: Entry) -> usize {
        decisions.admit(&mut entry);
        let Entry::Batch { items, .. } = entry else { return 0 };
        items.len()
    }

    #[test]
    fn only_the_writer_that_opened_last_counts() {
        let mut decisions = Decisions::default();
        assert_eq!(admitted(&mut decisions, batch(writer(1, 1), &[10])), 0);
        admitted(&mut decisions, Entry::Open { writer: writer(1, 1), time_ms: 0 });
        assert_eq!(admitted(&mut decisions, batch(writer(1, 1), &[10])), 1);
        admitted(&mut decisions, Entry::Open { writer: writer(2, 2), time_ms: 0 });
        assert_eq!(admitted(&mut decisions, batch(writer(1, 1), &[20])), 0);
        assert_eq!(decisions.watermark(InstanceId(10)), Lsn(10));
    }

    #[test]
    fn a_snapshot_is_void_once_another_has_opened_also_if_its_own_opens_again() {
        let mut decisions = Decisions::default();
        let mut open = |writer: Writer| admitted(&mut decisions, Entry::Open { writer, time_ms: 0 });
        open(writer(1, 1));
        let by = writer(1, 1).into();
        assert_eq!(decisions.fate(by, Lsn(10)), Fate::Open);
        admitted(&mut decisions, batch(writer(1, 1), &[10]));
        assert_eq!(decisions.fate(by, Lsn(10)), Fate::Open, "the mark is still to come");
        admitted(&mut decisions, batch(writer(1, 1), &[11]));
        assert_eq!(decisions.fate(by, Lsn(10)), Fate::Decided);
        for again in [writer(2, 2), writer(1, 3)] {
            admitted(&mut decisions, Entry::Open { writer: again, time_ms: 0 });
            assert_eq!(decisions.fate(by, Lsn(10)), Fate::Void);
        }
    }

    #[test]
    fn a_followers_rows_are_its_position_only_behind_its_own_reign() {
        let me = InstanceId(10);
        let mut log = vec![
            Entry::Open { writer: writer(2, 1), time_ms: 0 },
            batch(writer(2, 1), &[10]),
            Entry::Open { writer: writer(1, 2), time_ms: 0 },
            batch(writer(1, 2), &[20]),
            Entry::Open { writer: writer(2, 3), time_ms: 0 },
            // What a deposed leader still had in flight is not in the log.
            batch(writer(1, 2), &[30]),
            batch(writer(2, 3), &[40]),
        ];
        let mut prefixes = vec![Decisions::default()];
        for entry in log.drain(..) {
            let mut next = prefixes[prefixes.len() - 1].clone();
            admitted(&mut next, entry);
            prefixes.push(next);
        }
        let holds = |known: &Decisions| prefixes.iter().map(|prefix| prefix.holds_all_of(me, known)).collect::<Vec<_>>();
        // Before it opened nothing is its own; afterwards only what lies behind the other's opening will do.
        assert_eq!(holds(&prefixes[2])[..3], [true, true, true]);
        assert_eq!(holds(&prefixes[4])[..5], [false; 5]);
        assert_eq!(holds(&prefixes[7]), [false, false, false, false, false, true, true, true]);
    }

    #[test]
    fn a_transaction_enters_once() {
        let mut decisions = Decisions::default();
        admitted(&mut decisions, Entry::Open { writer: writer(1, 1), time_ms: 0 });
        assert_eq!(admitted(&mut decisions, batch(writer(1, 1), &[10, 20])), 2);
        assert_eq!(admitted(&mut decisions, batch(writer(1, 1), &[10, 20, 30])), 1);
    }

    #[test]
    fn unfinished_transactions_are_known_until_they_end_or_their_writer_does() {
        let mut decisions = Decisions::default();
        let chunk =
            |xid| Entry::Batch { writer: writer(1, 1), time_ms: 0, items: vec![Item::Chunk { xid, messages: Messages::default() }] };
        admitted(&mut decisions, Entry::Open { writer: writer(1, 1), time_ms: 0 });
        admitted(&mut decisions, chunk(7));
        admitted(&mut decisions, chunk(8));
        admitted(&mut decisions, Entry::Batch { writer: writer(1, 1), time_ms: 0, items: vec![Item::Abort { xid: 7 }] });
        assert_eq!(decisions.unfinished, [8].into());
        admitted(&mut decisions, Entry::Open { writer: writer(2, 2), time_ms: 0 });
        assert!(decisions.unfinished.is_empty());
    }

    #[test]
    fn sequence_marks_only_rise() {
        let mut decisions = Decisions::default();
        for value in [5, 3, 9] {
            admitted(&mut decisions, Entry::Sequences { marks: vec![("s".into(), value)] });
        }
        assert_eq!(decisions.sequences["s"], 9);
    }
}
