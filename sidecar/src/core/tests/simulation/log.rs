//! A log as Raft keeps it: per node a copy, a term, and how much is known to be decided. What is appended is on disk at once; whole votes
//! happen in one moment ([`super::world`] holds them). Messages are lost, late and doubled.

use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) term: u64,
    /// None for the entry with which a leader's term begins.
    pub(super) payload: Option<Bytes>,
}

#[derive(Debug, Clone)]
pub(super) enum Message {
    Append { term: u64, prev: usize, prev_term: u64, entries: Vec<Logged>, decided: usize, sent: u64 },
    Ack { term: u64, matched: usize, sent: u64 },
}

#[derive(Debug, Clone, Copy, Default)]
struct Ack {
    matched: usize,
    /// When the leader sent what was acknowledged, by its own clock.
    sent: Option<u64>,
}

/// One node's copy. Indexes count from 1.
#[derive(Debug, Default)]
pub(super) struct Replica {
    pub(super) term: u64,
    pub(super) entries: Vec<Logged>,
    pub(super) decided: usize,
    pub(super) leads: bool,
    pub(super) leader: Option<usize>,
    /// When a leader was last heard, by the own clock.
    pub(super) heard: u64,
    pub(super) sent: u64,
    pub(super) sent_len: usize,
    acks: BTreeMap<usize, Ack>,
}

impl Replica {
    pub(super) fn term_at(&self, index: usize) -> u64 {
        if index == 0 { 0 } else { self.entries[index - 1].term }
    }

    /// Longer or later is more.
    pub(super) fn rank(&self) -> (u64, usize) {
        (self.term_at(self.entries.len()), self.entries.len())
    }

    pub(super) fn begin_term(&mut self, term: u64, leads: bool, leader: usize) {
        (self.term, self.leads, self.leader) = (term, leads, Some(leader));
        self.acks.clear();
        self.sent_len = 0;
        if leads {
            self.entries.push(Logged { term, payload: None });
        }
    }

    /// Where the proposal stands, if this node leads in that term.
    pub(super) fn propose(&mut self, term: u64, payload: Bytes) -> Option<usize> {
        if !self.leads || self.term != term {
            return None;
        }
        self.entries.push(Logged { term, payload: Some(payload) });
        Some(self.entries.len())
    }

    /// The process starts again. It goes on in its term, also as the leader; what is decided it has to learn again.
    pub(super) fn restart(&mut self, clock: u64) {
        self.decided = 0;
        self.acks.clear();
        self.sent_len = 0;
        // Conservative: a voter that restarts forgets its promise to the leader, which the lease's documentation says.
        self.heard = clock;
    }

    pub(super) fn append_for(&self, to: usize, clock: u64) -> Message {
        let prev = self.acks.get(&to).map_or(0, |ack| ack.matched);
        let entries = self.entries[prev..].to_vec();
        Message::Append { term: self.term, prev, prev_term: self.term_at(prev), entries, decided: self.decided, sent: clock }
    }

    /// Answers what goes back to the sender.
    pub(super) fn receive(&mut self, from: usize, message: Message, clock: u64, voters: usize) -> Result<Option<Message>, String> {
        match message {
            Message::Append { term, sent, .. } if term < self.term => Ok(Some(Message::Ack { term: self.term, matched: 0, sent })),
            Message::Append { term, prev, prev_term, entries, decided, sent } => {
                if term > self.term {
                    self.begin_term(term, false, from);
                }
                (self.leader, self.heard) = (Some(from), clock);
                if prev > self.entries.len() || self.term_at(prev) != prev_term {
                    return Err("the model's log has a hole".to_owned());
                }
                let matched = prev + entries.len();
                for (index, entry) in (prev..).zip(entries) {
                    if self.entries.get(index).is_some_and(|own| own.term != entry.term) {
                        if index < self.decided {
                            return Err("the model's log took back what was decided".to_owned());
                        }
                        self.entries.truncate(index);
                    }
                    if index == self.entries.len() {
                        self.entries.push(entry);
                    }
                }
                self.decided = self.decided.max(decided.min(matched));
                Ok(Some(Message::Ack { term, matched, sent }))
            }
            Message::Ack { term, .. } if term > self.term => {
                (self.term, self.leads, self.leader) = (term, false, None);
                Ok(None)
            }
            Message::Ack { term, matched, sent } => {
                if self.leads && term == self.term {
                    let ack = self.acks.entry(from).or_default();
                    (ack.matched, ack.sent) = (ack.matched.max(matched), ack.sent.max(Some(sent)));
                    self.decide(voters);
                }
                Ok(None)
            }
        }
    }

    fn decide(&mut self, voters: usize) {
        let mut matched: Vec<usize> = self.acks.values().map(|ack| ack.matched).chain([self.entries.len()]).collect();
        matched.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(index) = matched.get(voters / 2)
            && self.term_at(*index) == self.term
        {
            self.decided = self.decided.max(*index);
        }
    }

    /// How long ago the leader sent what a majority has acknowledged.
    pub(super) fn acknowledged_age(&self, clock: u64, voters: usize) -> Option<u64> {
        let mut sent: Vec<Option<u64>> = self.acks.values().map(|ack| ack.sent).chain([Some(clock)]).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(voters / 2).copied().flatten().map(|sent| clock - sent)
    }
}
