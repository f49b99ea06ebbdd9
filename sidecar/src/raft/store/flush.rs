//! One fsync at a time, shared by everybody who waits for it.

use super::{Shared, State};
use crate::raft::types::TypeConfig;
use openraft::storage::IOFlushed;
use raft_log::Callback;
use raft_log::api::raft_log_writer::RaftLogWriter;
use std::io;
use std::mem;
use std::sync::{Arc, Weak};
use tokio::sync::oneshot;

/// Who is told the result of an fsync.
pub(crate) enum Waiter {
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<io::Result<()>>),
    /// The fsync matters, nobody waits for it.
    Nobody,
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
            Self::Nobody => {}
        }
    }
}

impl State {
    /// Begins an fsync of all that was written until now, or joins the next one.
    pub(super) fn flush(&mut self, shared: &Arc<Shared>, waiter: Option<Waiter>) -> io::Result<()> {
        self.waiting.push(waiter.unwrap_or(Waiter::Nobody));
        if self.flushing {
            return Ok(());
        }
        self.begin(Arc::downgrade(shared))
    }

    fn begin(&mut self, shared: Weak<Shared>) -> io::Result<()> {
        let waiters = mem::take(&mut self.waiting);
        let done = FlushDone { shared, waiters };
        let begun = self.log().and_then(|log| log.flush(true, Some(done)));
        self.flushing = begun.is_ok();
        begun
    }
}

/// raft-log calls this on its writer thread after an fsync, or drops it when the writer has ended.
#[derive(Debug)]
pub(crate) struct FlushDone {
    /// Weak: the writer thread must not keep the log alive that owns it.
    shared: Weak<Shared>,
    waiters: Vec<Waiter>,
}

impl Callback for FlushDone {
    fn send(mut self, result: io::Result<()>) {
        self.tell(&result);
        let Some(shared) = self.shared.upgrade() else { return };
        next(&shared, &result);
        // The log waits for the writer thread when it is dropped, so the writer must not be the one that drops it.
        if let Some(last) = Arc::into_inner(shared) {
            std::thread::spawn(move || drop(last));
        }
    }
}

/// Begins the fsync of those who came meanwhile. After an error there is none: the writer has ended.
fn next(shared: &Arc<Shared>, result: &io::Result<()>) {
    let mut state = shared.lock();
    state.flushing = false;
    if state.waiting.is_empty() {
        return;
    }
    match result {
        // The error of a writer that ended meanwhile reaches the waiters when their callback is dropped.
        Ok(()) => drop(state.begin(Arc::downgrade(shared))),
        Err(error) => {
            let orphans = mem::take(&mut state.waiting);
            drop(state);
            orphans.into_iter().for_each(|waiter| waiter.tell(Err(again(error))));
        }
    }
}

impl FlushDone {
    fn tell(&mut self, result: &io::Result<()>) {
        for waiter in mem::take(&mut self.waiters) {
            waiter.tell(result.as_ref().copied().map_err(again));
        }
    }
}

impl Drop for FlushDone {
    /// Never answered: the writer ended first.
    fn drop(&mut self) {
        self.tell(&Err(io::Error::other("the log's writer has stopped")));
    }
}

fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
