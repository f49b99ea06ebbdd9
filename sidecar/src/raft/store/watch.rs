//! Knows how long the disk takes, says so when it holds up the log, and ends the process when it does so for too long.
//!
//! While a write on the thread that serves the log does not return, nothing else there runs: no heartbeat, no answer, no hand-over. That is
//! right, since this node can promise nothing now, and the others elect a leader. But somebody must say why. Where fsyncs run on another
//! thread (see `flush`) the node goes on, and hands leadership over by itself (see `core/health`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(500);
const WARN_AFTER: Duration = Duration::from_secs(1);
/// A disk that does not answer for this long has failed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    /// When the writes that are under way began: one, and at most one fsync beside it.
    under_way: Vec<Instant>,
    /// The longest that has ended since somebody asked.
    longest: Duration,
}

impl Times {
    fn waiting(&self) -> Duration {
        self.under_way.iter().map(Instant::elapsed).max().unwrap_or_default()
    }
}

impl Watch {
    /// The watch ends with the last reference to it.
    pub(super) fn start() -> std::io::Result<Arc<Self>> {
        let watch = Arc::new(Self::default());
        let weak = Arc::downgrade(&watch);
        std::thread::Builder::new().name("log-disk-watch".into()).spawn(move || look(&weak))?;
        Ok(watch)
    }

    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        self.times().under_way.push(began);
        let result = work();
        let mut times = self.times();
        // Which of two that began at the same moment makes no difference.
        if let Some(nth) = times.under_way.iter().position(|other| *other == began) {
            times.under_way.swap_remove(nth);
        }
        times.longest = times.longest.max(began.elapsed());
        result
    }

    /// The longest write since this was asked last, the one that is under way included.
    pub(super) fn longest(&self) -> Duration {
        let mut times = self.times();
        std::mem::take(&mut times.longest).max(times.waiting())
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look(watch: &Weak<Watch>) {
    while let Some(elapsed) = watch.upgrade().map(|watch| watch.times().waiting()) {
        if elapsed > GIVE_UP_AFTER {
            tracing::error!(?elapsed, "the log's disk does not answer: giving up; check the disk, then start this node again");
            std::process::abort();
        }
        if elapsed > WARN_AFTER {
            tracing::error!(?elapsed, "the log's disk does not answer: this node decides nothing until it does");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_write_is_seen_while_it_lasts_and_once_afterwards() {
        let watch = Watch::default();
        let (pause, seen) = (Duration::from_millis(20), Mutex::new(Duration::ZERO));
        watch.during(|| {
            watch.during(|| ());
            std::thread::sleep(pause);
            *seen.lock().expect("one thread") = watch.longest();
        });
        assert!(*seen.lock().expect("one thread") >= pause);
        assert!(watch.longest() >= pause);
        assert_eq!(watch.longest(), Duration::ZERO);
    }
}
