//! Saves messages: an append without entries tells a follower only how far the log is committed, and under load the next one with entries,
//! which says the same and more, is about to follow.
//!
//! openraft sends such a notice as soon as an entry is committed. Here it waits for a moment, if appends came close together just now, and is
//! dropped when another request follows. openraft takes the answer to that one for the answer to all before it. A follower under load hears
//! of a commit later by the pause between two appends; without load it hears at once.

use super::types::AppendRequest;
use futures::stream::{self, Fuse};
use futures::{Stream, StreamExt};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Appends that follow each other faster than this are load; and a notice waits no longer. Timers have a grain of a millisecond.
const HOLD: Duration = Duration::from_millis(3);

struct Merge<S> {
    input: Fuse<S>,
    /// When entries were sent last, and how long after the ones before.
    sent: Option<Instant>,
    busy: bool,
}

/// The same requests, without the notices that are not needed.
pub(super) fn merge<S>(input: S) -> impl Stream<Item = AppendRequest> + Send
where
    S: Stream<Item = AppendRequest> + Send + Unpin,
{
    stream::unfold(Merge { input: input.fuse(), sent: None, busy: false }, Merge::next)
}

impl<S: Stream<Item = AppendRequest> + Unpin> Merge<S> {
    async fn next(mut self) -> Option<(AppendRequest, Self)> {
        let mut request = self.input.next().await?;
        let now = Instant::now();
        if request.entries.is_empty() && self.busy {
            // The last notice of a burst ends it.
            self.busy = false;
            while request.entries.is_empty()
                && let Ok(Some(next)) = timeout_at(now + HOLD, self.input.next()).await
            {
                request = next;
            }
        }
        if !request.entries.is_empty() {
            let now = Instant::now();
            self.busy = self.sent.replace(now).is_some_and(|before| now - before < HOLD);
        }
        Some((request, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::store::tests::{entry, vote};
    use crate::raft::types::log_id;
    use tokio::sync::mpsc;

    fn request(commit: u64, entries: &[u64]) -> AppendRequest {
        let entries = entries.iter().map(|index| entry(1, *index, 1)).collect();
        AppendRequest { vote: vote(1), prev_log_id: None, entries, leader_commit: Some(log_id(1, commit)) }
    }

    fn merged(requests: mpsc::UnboundedReceiver<AppendRequest>) -> impl Stream<Item = (u64, usize)> + Unpin {
        let input = stream::unfold(requests, |mut requests| async { Some((requests.recv().await?, requests)) });
        let seen = |request: AppendRequest| (request.leader_commit.map_or(0, |id| id.index), request.entries.len());
        Box::pin(merge(Box::pin(input)).map(seen))
    }

    #[tokio::test]
    async fn under_load_the_next_append_brings_the_commit() {
        let (send, requests) = mpsc::unbounded_channel();
        for n in 1..=5 {
            send.send(request(n - 1, &[n])).unwrap();
            send.send(request(n, &[])).unwrap();
        }
        drop(send);
        let seen: Vec<_> = merged(requests).collect().await;
        // The first append is no load yet, and nothing follows the last notice.
        assert_eq!(seen, [(0, 1), (1, 0), (1, 1), (2, 1), (3, 1), (4, 1), (5, 0)]);
    }

    #[tokio::test]
    async fn a_notice_that_nothing_follows_goes_after_a_moment() {
        let (send, requests) = mpsc::unbounded_channel();
        let mut merged = merged(requests);
        let began = Instant::now();
        for next in [request(0, &[1]), request(1, &[2]), request(2, &[])] {
            send.send(next).unwrap();
        }
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(tokio::time::timeout(Duration::from_secs(20), merged.next()).await.unwrap().unwrap());
        }
        assert_eq!(seen, [(0, 1), (1, 1), (2, 0)]);
        assert!(began.elapsed() >= HOLD);
    }
}
