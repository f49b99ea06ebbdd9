//! How much of the log is kept.
//!
//! The retained log is what lets a node that was away catch up without being seeded again. It is bounded by bytes on disk, and by age: beyond the bytes the
//! older half is let go of, beyond the age what is older; except for what this node's own applier, or (on the leader) a follower that still
//! answers, has not got yet. A follower that is so far behind that the hard bound is reached is left to be seeded again.
//!
//! Age is time that this process has measured itself: after a restart everything counts as new.

use crate::raft;
use howdah_protocol::LogIndex;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Beyond this many times the bound, nobody is waited for but this node's own applier.
const HARD_FACTOR: u64 = 4;
/// A follower that has not answered for this long is not waited for.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(60);
/// The age is known to this part of its bound.
const AGE_STEPS: u32 = 64;

#[derive(Debug)]
pub struct Retention {
    pub raft: raft::Handle,
    pub log_bytes_max: u64,
    pub log_age_max: Duration,
    /// The first entry that this node's applier still needs.
    pub needed: watch::Receiver<LogIndex>,
}

impl Retention {
    /// Runs until the process ends.
    pub async fn run(self) {
        let (begin, mut ages) = (Instant::now(), Ages::new(self.log_age_max));
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (Ok(bytes), Ok(first)) = (self.raft.log_bytes(), self.raft.first_index()) else { continue };
            let followers = self.raft.peers_progress();
            let slowest_follower = followers
                .iter()
                .filter(|peer| peer.ack_age.is_some_and(|age| age < FOLLOWER_PATIENCE))
                .map(|peer| peer.matched.next())
                .min();
            let decided = self.raft.decided().borrow().index;
            let aged = ages.look(begin.elapsed(), decided);
            let bytes_max = self.log_bytes_max;
            let kept = Kept { bytes, bytes_max, first, decided, aged, needed: *self.needed.borrow(), slowest_follower };
            let Some(upto) = kept.purge_to() else { continue };
            match self.raft.purge_to(upto).await {
                Ok(()) => tracing::info!(%upto, bytes, "let go of the older part of the log"),
                Err(error) => tracing::warn!(%error, "the log was not shortened"),
            }
        }
    }
}

/// Which entry was the last one when.
#[derive(Debug)]
struct Ages {
    max: Duration,
    /// (time, last entry then), oldest first; at most [`AGE_STEPS`] and a few.
    seen: VecDeque<(Duration, LogIndex)>,
}

impl Ages {
    const fn new(max: Duration) -> Self {
        Self { max, seen: VecDeque::new() }
    }

    /// The last entry that is older than the bound, if any.
    fn look(&mut self, now: Duration, decided: LogIndex) -> Option<LogIndex> {
        let mut aged = None;
        while let Some((_, index)) = self.seen.front().filter(|(at, _)| now.saturating_sub(*at) >= self.max) {
            aged = Some(*index);
            self.seen.pop_front();
        }
        if self.seen.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= self.max / AGE_STEPS) {
            self.seen.push_back((now, decided));
        }
        aged
    }
}

/// What the log is, and who needs what of it.
#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    bytes_max: u64,
    first: LogIndex,
    decided: LogIndex,
    /// Up to here everything is older than the bound.
    aged: Option<LogIndex>,
    needed: LogIndex,
    slowest_follower: Option<LogIndex>,
}

impl Kept {
    /// The last entry to let go of, if any.
    fn purge_to(&self) -> Option<LogIndex> {
        let half = LogIndex(self.first.0 + self.decided.0.saturating_sub(self.first.0) / 2);
        let wanted = (self.bytes > self.bytes_max).then_some(half).max(self.aged)?;
        let waits_for = self.slowest_follower.filter(|_| self.bytes <= self.bytes_max.saturating_mul(HARD_FACTOR));
        let keep_from = waits_for.map_or(self.needed, |follower| follower.min(self.needed));
        let upto = wanted.min(LogIndex(keep_from.0.saturating_sub(1)));
        (upto >= self.first).then_some(upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Kept = Kept {
        bytes: 100,
        bytes_max: 100,
        first: LogIndex(10),
        decided: LogIndex(110),
        aged: None,
        needed: LogIndex(111),
        slowest_follower: None,
    };

    #[test]
    fn the_older_half_goes_but_nothing_that_is_needed() {
        let purge = |bytes, needed, slowest: Option<u64>| {
            let kept = Kept { bytes, needed: LogIndex(needed), slowest_follower: slowest.map(LogIndex), ..KEPT };
            kept.purge_to().map(|upto| upto.0)
        };
        assert_eq!(purge(100, 111, None), None);
        assert_eq!(purge(101, 111, None), Some(60));
        assert_eq!(purge(101, 30, None), Some(29));
        assert_eq!(purge(101, 111, Some(20)), Some(19));
        assert_eq!(purge(401, 111, Some(20)), Some(60));
        assert_eq!(purge(101, 10, None), None);
        assert_eq!(purge(101, 0, None), None);
    }

    #[test]
    fn what_is_old_goes_though_there_is_room() {
        let aged = |aged| Kept { aged: Some(LogIndex(aged)), ..KEPT };
        assert_eq!(aged(40).purge_to(), Some(LogIndex(40)));
        assert_eq!(aged(9).purge_to(), None, "gone already");
        assert_eq!(Kept { slowest_follower: Some(LogIndex(20)), ..aged(40) }.purge_to(), Some(LogIndex(19)));
        assert_eq!(Kept { bytes: 101, ..aged(80) }.purge_to(), Some(LogIndex(80)), "whichever takes more");
    }

    #[test]
    fn age_is_counted_from_when_an_entry_was_seen() {
        let mut ages = Ages::new(Duration::from_secs(64));
        let at = |ages: &mut Ages, seconds: u64| ages.look(Duration::from_secs(seconds), LogIndex(seconds * 10)).map(|index| index.0);
        assert_eq!(at(&mut ages, 0), None);
        assert_eq!(at(&mut ages, 30), None);
        assert_eq!(at(&mut ages, 63), None);
        assert_eq!(at(&mut ages, 64), Some(0));
        assert_eq!(at(&mut ages, 100), Some(300));
        for seconds in 101..2000 {
            at(&mut ages, seconds);
            assert!(ages.seen.len() <= 65, "{}", ages.seen.len());
        }
        assert_eq!(at(&mut ages, 5000), Some(19990));
    }
}
