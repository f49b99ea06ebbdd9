//! Sends at the pace that `core::prompt` finds for each follower.
//!
//! openraft makes the next append of a stream when it is asked for one, out of all that the log has by then. So not asking for a moment is
//! all that it takes to send fewer, larger ones.

use super::types::AppendRequest;
use crate::core::prompt::{PACE, Pacer};
use futures::{Stream, StreamExt, stream};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::{Instant, sleep_until};

/// The streams of this node. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pacing(Arc<Mutex<Pacer>>);

impl Pacing {
    fn lock(&self) -> MutexGuard<'_, Pacer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_voters(&self, voters: BTreeSet<u64>) {
        self.lock().set_voters(voters);
    }

    /// A stream to the follower begins.
    pub(super) fn open(&self, node: u64) -> Line {
        let stream = self.lock().opened(node, Instant::now().into_std());
        Line { pacing: self.clone(), node, stream }
    }
}

/// One stream: its requests and its answers share it, and it counts for as long as one of them is there.
#[derive(Debug)]
pub(super) struct Line {
    pacing: Pacing,
    node: u64,
    stream: u64,
}

impl Line {
    pub(super) fn answered(&self) {
        self.pacing.lock().answered(self.node, self.stream, Instant::now().into_std());
    }

    /// Records that a request goes out at `now`.
    fn sent(&self, now: Instant) {
        self.pacing.lock().sent(self.node, self.stream, now.into_std());
    }

    fn may_wait(&self, now: Instant) -> bool {
        self.pacing.lock().may_wait(self.node, self.stream, now.into_std())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.pacing.lock().closed(self.node, self.stream);
    }
}

/// The same requests, at a pace. The first one after a pause goes out at once.
pub(super) fn paced<S>(input: S, line: Arc<Line>) -> impl Stream<Item = AppendRequest> + Send
where
    S: Stream<Item = AppendRequest> + Send + Unpin,
{
    stream::unfold((input, line, None::<Instant>), async |(mut input, line, before)| {
        if let Some(before) = before {
            let now = Instant::now();
            if now < before + PACE && line.may_wait(now) {
                sleep_until(before + PACE).await;
            }
        }
        let request = input.next().await?;
        let now = Instant::now();
        line.sent(now);
        Some((request, (input, line, Some(now))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::store::tests::vote;
    use futures::FutureExt;

    fn requests() -> impl Stream<Item = AppendRequest> + Unpin {
        let one = || AppendRequest { vote: vote(1), prev_log_id: None, entries: Vec::new(), leader_commit: None };
        stream::repeat_with(one)
    }

    #[tokio::test]
    async fn the_follower_that_nobody_waits_for_is_sent_to_at_a_pace() {
        let pacing = Pacing::default();
        pacing.set_voters(BTreeSet::from([1, 2, 3]));
        let (near, far) = (Arc::new(pacing.open(2)), Arc::new(pacing.open(3)));
        let mut at_once = Box::pin(paced(requests(), near.clone()));
        let mut slowly = Box::pin(paced(requests(), far.clone()));
        for _ in 0..2 {
            assert!(at_once.next().now_or_never().is_some());
            near.answered();
        }
        let began = Instant::now();
        for _ in 0..3 {
            assert!(slowly.next().await.is_some());
            far.answered();
            assert!(at_once.next().now_or_never().is_some());
            near.answered();
        }
        assert!(began.elapsed() >= 2 * PACE);
        // Without the near one everything goes to the far one at once.
        drop((at_once, near));
        for _ in 0..3 {
            assert!(slowly.next().now_or_never().is_some());
        }
    }
}
