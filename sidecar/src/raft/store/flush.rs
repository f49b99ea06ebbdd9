//! One fsync at a time, shared by everybody who waits for it.
//!
//! It runs on the thread that serves the log. Handing an fsync to another thread and hearing back costs more than a fast disk takes for it,
//! and on both ends nobody could do much meanwhile: a leader's task for it lets all others run first, so its followers are at work
//! already, and a follower has nothing to answer before its fsync is done. A disk that is slow, on average, is different: its fsyncs do run on
//! another thread.

use super::{Shared, State};
use crate::raft::types::TypeConfig;
use openraft::storage::IOFlushed;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A disk whose fsyncs take this long on average is a slow one.
const SLOW: Duration = Duration::from_millis(2);
/// The share of the newest fsync in the average is one in so many; a single one counts for no more than this.
const SMOOTHING: u32 = 16;
const COUNTED_MAX: Duration = Duration::from_millis(20);

/// Who is told the result of an fsync.
pub(super) enum Waiter {
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiter")
    }
}

impl Waiter {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Raft(callback) => callback.io_completed(result),
            // A caller that gave up has no use for the answer.
            Self::Caller(sender) => drop(sender.send(result)),
        }
    }
}

pub(super) fn tell(waiters: Vec<Waiter>, result: &io::Result<()>) {
    for waiter in waiters {
        waiter.tell(result.as_ref().copied().map_err(again));
    }
}

pub(super) fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Serves waiters until there are none.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        // Whoever can run does so first: a leader's followers get the entries before its own disk does.
        tokio::task::yield_now().await;
        let (waiters, position, file, slow) = {
            let mut state = shared.lock();
            let State { waiting, flushing, log, average } = &mut *state;
            if waiting.is_empty() {
                *flushing = false;
                return;
            }
            let waiters = mem::take(waiting);
            match log {
                Ok(log) => {
                    let (position, file) = log.end();
                    (waiters, position, file, *average > SLOW)
                }
                Err(error) => {
                    let error = Err(again(error));
                    drop(state);
                    tell(waiters, &error);
                    continue;
                }
            }
        };
        let began = Instant::now();
        let result = if slow {
            let watch = shared.watch.clone();
            tokio::task::spawn_blocking(move || watch.during(|| file.sync())).await.unwrap_or_else(|error| Err(io::Error::other(error)))
        } else {
            shared.watch.during(|| file.sync())
        };
        shared.lock().synced(position, &result, began.elapsed());
        tell(waiters, &result);
    }
}

impl State {
    fn synced(&mut self, position: u64, result: &io::Result<()>, took: Duration) {
        self.average = (self.average * (SMOOTHING - 1) + took.min(COUNTED_MAX)) / SMOOTHING;
        match (result, &mut self.log) {
            (Ok(()), Ok(log)) => log.synced(position),
            (Err(error), Ok(_)) => self.log = Err(again(error)),
            (_, Err(_)) => {}
        }
    }
}
