//! Says so when the disk holds up the thread that serves the log, and ends the process when it does so for too long.
//!
//! While an fsync does not return, nothing else on its thread runs: no heartbeat, no answer, no hand-over. That is right, since this node can
//! promise nothing now, and the others elect a leader. But somebody must say why.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(500);
const WARN_AFTER: Duration = Duration::from_secs(1);
/// A disk that does not answer for this long has failed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Watch {
    since: Mutex<Option<Instant>>,
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
        self.set(Some(Instant::now()));
        let result = work();
        self.set(None);
        result
    }

    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn elapsed(&self) -> Duration {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, |since| since.elapsed())
    }
}

fn look(watch: &Weak<Watch>) {
    while let Some(elapsed) = watch.upgrade().map(|watch| watch.elapsed()) {
        if elapsed > GIVE_UP_AFTER {
            tracing::error!(?elapsed, "the log's disk does not answer: giving up; check the disk, then start this node again");
            std::process::abort();
        }
        if elapsed > WARN_AFTER {
            tracing::error!(?elapsed, "the log's disk does not answer: this node does nothing until it does");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
