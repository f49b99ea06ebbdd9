//! How much of the log is kept.
//!
//! The retained log is what lets a node that was away catch up without being seeded again. It is bounded by bytes on disk: beyond that the
//! older half is let go of, except for what this node's own applier, or (on the leader) a follower that still answers, has not got yet. A
//! follower that is so far behind that the hard bound is reached is left to be seeded again.

use crate::raft;
use howdah_protocol::LogIndex;
use std::time::Duration;
use tokio::sync::watch;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Beyond this many times the bound, nobody is waited for but this node's own applier.
const HARD_FACTOR: u64 = 4;
/// A follower that has not answered for this long is not waited for.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Retention {
    pub raft: raft::Handle,
    pub log_bytes_max: u64,
    /// The first entry that this node's applier still needs.
    pub needed: watch::Receiver<LogIndex>,
}

impl Retention {
    /// Runs until the process ends.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (Ok(bytes), Ok(first)) = (self.raft.log_bytes(), self.raft.first_index()) else { continue };
            let followers = self.raft.peers_progress();
            let slowest = followers
                .iter()
                .filter(|peer| peer.ack_age.is_some_and(|age| age < FOLLOWER_PATIENCE))
                .map(|peer| peer.matched.next())
                .min();
            let decided = self.raft.decided().borrow().index;
            let Some(upto) = purge_to(bytes, self.log_bytes_max, first, decided, *self.needed.borrow(), slowest) else { continue };
            match self.raft.purge_to(upto).await {
                Ok(()) => tracing::info!(%upto, bytes, "let go of the older part of the log"),
                Err(error) => tracing::warn!(%error, "the log was not shortened"),
            }
        }
    }
}

/// The last entry to let go of, if any.
fn purge_to(
    bytes: u64,
    bytes_max: u64,
    first: LogIndex,
    decided: LogIndex,
    needed: LogIndex,
    slowest_follower: Option<LogIndex>,
) -> Option<LogIndex> {
    if bytes <= bytes_max {
        return None;
    }
    let half = LogIndex(first.0 + decided.0.saturating_sub(first.0) / 2);
    let waits_for = slowest_follower.filter(|_| bytes <= bytes_max.saturating_mul(HARD_FACTOR));
    let keep_from = waits_for.map_or(needed, |follower| follower.min(needed));
    let upto = half.min(LogIndex(keep_from.0.saturating_sub(1)));
    (upto >= first).then_some(upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_half_goes_but_nothing_that_is_needed() {
        let purge = |bytes, needed, slowest: Option<u64>| {
            purge_to(bytes, 100, LogIndex(10), LogIndex(110), LogIndex(needed), slowest.map(LogIndex)).map(|upto| upto.0)
        };
        assert_eq!(purge(100, 111, None), None);
        assert_eq!(purge(101, 111, None), Some(60));
        assert_eq!(purge(101, 30, None), Some(29));
        assert_eq!(purge(101, 111, Some(20)), Some(19));
        assert_eq!(purge(401, 111, Some(20)), Some(60));
        assert_eq!(purge(101, 10, None), None);
        assert_eq!(purge(101, 0, None), None);
    }
}
