//! A log in memory that decides when the test says so.

use crate::capture::{ProposeError, Proposer};
use crate::core::assemble::tests::replay::{Replayed, replay};
use bytes::Bytes;
use howdah_protocol::{LogIndex, Lsn};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Decides at once.
    #[default]
    Accept,
    /// Decides when [`Log::release`] says so.
    Hold,
    /// Refuses everything.
    Refuse,
    /// Never answers.
    Lose,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    mode: Mode,
    decided: Vec<Bytes>,
    held: VecDeque<(Bytes, oneshot::Sender<()>)>,
    proposals: usize,
}

impl Log {
    pub(super) fn mode(&self, mode: Mode) {
        self.0.lock().unwrap().mode = mode;
    }

    pub(super) fn held(&self) -> usize {
        self.0.lock().unwrap().held.len()
    }

    /// Proposals so far, whatever became of them.
    pub(super) fn proposals(&self) -> usize {
        self.0.lock().unwrap().proposals
    }

    /// Decides the oldest proposals that are held.
    pub(super) fn release(&self, count: usize) {
        let mut inner = self.0.lock().unwrap();
        for (entry, decided) in inner.held.drain(..count).collect::<Vec<_>>() {
            inner.decided.push(entry);
            let _ = decided.send(());
        }
    }

    /// End of the last transaction that is decided.
    pub(super) fn watermark(&self) -> Lsn {
        self.commits().last().map_or(Lsn(0), |commit| commit.end_lsn)
    }

    /// Every decided transaction, read as a follower does.
    pub(super) fn commits(&self) -> Vec<Replayed> {
        let entries = self.0.lock().unwrap().decided.clone();
        replay(&entries)
    }

    /// The first value of every change that is decided, in order.
    pub(super) fn texts(&self) -> Vec<String> {
        self.commits().iter().flat_map(|commit| commit.changes.iter().map(|change| change.text())).collect()
    }
}

impl Proposer for Log {
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<LogIndex, ProposeError>> + Send + 'static + use<> {
        let mut inner = self.0.lock().unwrap();
        inner.proposals += 1;
        let (decide, decided) = oneshot::channel();
        let mode = inner.mode;
        match mode {
            Mode::Accept => {
                inner.decided.push(entry);
                let _ = decide.send(());
            }
            Mode::Hold => inner.held.push_back((entry, decide)),
            Mode::Refuse | Mode::Lose => {}
        }
        async move {
            match mode {
                Mode::Refuse => Err(ProposeError::Refused("the test said so".to_owned())),
                Mode::Lose => std::future::pending().await,
                _ => decided.await.map(|()| LogIndex(0)).map_err(|_| ProposeError::Unknown("dropped".to_owned())),
            }
        }
    }
}
