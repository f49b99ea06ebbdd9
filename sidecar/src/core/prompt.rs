//! Which followers get every append at once, and which get what has come together in a moment.
//!
//! A commit needs a majority, not everybody. What a message costs (two processes woken, a socket, an fsync) does not depend on how much is
//! in it, so under load the followers that nobody waits for are sent to at a pace. Who that is shows in who answers: a follower is paced
//! only while enough others are sent to at once, answer in time, and are not much slower. When one of them stops answering, nobody
//! decides anything: the paced one finds too few of them and goes on at once. A commit is late by one pace at most, and only by then.
//!
//! Only the leader's side knows of this. To Raft a paced follower is one that is slow by a few milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The time between two appends to a paced follower, and how long a follower may owe an answer before others are no longer paced.
pub const PACE: Duration = Duration::from_millis(5);
/// "Much slower": more than twice and this.
const SLOWER_BY: Duration = Duration::from_millis(1);
/// The share of the newest answer in the average is one in so many.
const SMOOTHING: u32 = 8;

/// The appends to all followers of one leader.
#[derive(Debug, Default)]
pub struct Pacer {
    /// The members whose answers make a majority, the leader among them.
    voters: BTreeSet<u64>,
    followers: BTreeMap<u64, Follower>,
}

#[derive(Debug)]
struct Follower {
    /// Tells a stream from the one before it to the same follower.
    stream: u64,
    sent: u64,
    answered: u64,
    /// While answers are owed: when the last one came, or the first message went out.
    owes_since: Instant,
    /// How long an answer takes, on average.
    takes: Duration,
    /// It is sent to at once, and others rely on that.
    prompt: bool,
}

impl Follower {
    fn answers(&self, now: Instant) -> bool {
        self.sent == self.answered || now.saturating_duration_since(self.owes_since) <= PACE
    }
}

impl Pacer {
    pub fn set_voters(&mut self, voters: BTreeSet<u64>) {
        self.voters = voters;
    }

    /// A stream to the follower begins. The stream before it, if any, is void.
    pub fn opened(&mut self, node: u64, now: Instant) -> u64 {
        let stream = self.followers.get(&node).map_or(0, |before| before.stream + 1);
        let takes = self.followers.get(&node).map_or(Duration::ZERO, |before| before.takes);
        self.followers.insert(node, Follower { stream, sent: 0, answered: 0, owes_since: now, takes, prompt: false });
        stream
    }

    fn of(&mut self, node: u64, stream: u64) -> Option<&mut Follower> {
        self.followers.get_mut(&node).filter(|follower| follower.stream == stream)
    }

    /// The stream has ended: nobody may rely on its follower.
    pub fn closed(&mut self, node: u64, stream: u64) {
        if let Some(follower) = self.of(node, stream) {
            follower.prompt = false;
        }
    }

    pub fn sent(&mut self, node: u64, stream: u64, now: Instant) {
        if let Some(follower) = self.of(node, stream) {
            if follower.sent == follower.answered {
                follower.owes_since = now;
            }
            follower.sent += 1;
        }
    }

    pub fn answered(&mut self, node: u64, stream: u64, now: Instant) {
        if let Some(follower) = self.of(node, stream) {
            let took = now.saturating_duration_since(follower.owes_since);
            follower.takes = (follower.takes * (SMOOTHING - 1) + took) / SMOOTHING;
            follower.answered += 1;
            follower.owes_since = now;
        }
    }

    /// Whether the follower's next append may wait for others to join it.
    pub fn may_wait(&mut self, node: u64, stream: u64, now: Instant) -> bool {
        let Some(takes) = self.of(node, stream).map(|follower| follower.takes) else { return false };
        let is_swift = |(id, other): &(&u64, &Follower)| {
            **id != node && self.voters.contains(id) && other.prompt && other.answers(now) && other.takes <= takes * 2 + SLOWER_BY
        };
        let swift = self.followers.iter().filter(is_swift).count();
        // With the leader itself they are a majority.
        let waits = !self.voters.contains(&node) || swift >= self.voters.len() / 2;
        if let Some(follower) = self.of(node, stream) {
            follower.prompt = !waits;
        }
        waits
    }
}

#[cfg(test)]
mod tests;
