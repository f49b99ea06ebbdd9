//! Standing still at one place of the log, for those who must see or set exactly what is there: comparing nodes, and mending one.
//!
//! ```text
//! hold        apply ends the transaction in flight and stands still, wherever it is
//! advance     it goes on to a cut of the log, which lies within an entry where it must, and stands still again
//! patch       rows are set to the leader's in one local transaction of the apply session; the position stays
//! drop        it goes on
//! ```
//!
//! Readers see the prefix of the log up to the cut, then the same prefix with the patch. Nothing is stored about a hold: a crash in the
//! middle leaves a position in front of the cut or at it, with all of the patch or nothing.
//!
//! Must never: outlive its holder, or stand in the way of a promotion. A holder bounds its time and lets go when the leader changes.

use super::execute::steps;
use super::session::Session;
use super::{Applied, Control, Error};
use crate::core::coalesce::{Cut, Step};
use howdah_protocol::LogIndex;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;

/// Where to stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    Here,
    /// Nothing behind the cut is applied, everything before it is.
    At(Cut),
}

impl Halt {
    pub(super) const fn cut(self) -> Option<Cut> {
        match self {
            Self::Here => None,
            Self::At(cut) => Some(cut),
        }
    }
}

/// What is done in one local transaction: statements first, then steps.
#[derive(Debug, Default)]
pub struct Patch {
    pub statements: Vec<String>,
    pub steps: Vec<Step>,
}

/// A patch on its way to the applier, and where the answer goes.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) patch: Patch,
    pub(super) answer: oneshot::Sender<Result<(), Error>>,
}

/// Of a running applier: lets others hold it.
#[derive(Debug, Clone)]
pub struct Holder {
    pub(super) applied: watch::Receiver<Applied>,
    pub(super) control: Arc<Control>,
}

/// Apply stands still as long as this lives.
#[derive(Debug)]
pub struct Hold {
    applied: watch::Receiver<Applied>,
    control: Arc<Control>,
    _only: OwnedSemaphorePermit,
}

impl Holder {
    /// Returns when apply stands still. One may hold it at a time.
    pub async fn hold(&self, deadline: Instant) -> Result<Hold, Error> {
        let only = Arc::clone(&self.control.holding).try_acquire_owned().map_err(|_| Error::Held)?;
        let mut hold = Hold { applied: self.applied.clone(), control: Arc::clone(&self.control), _only: only };
        hold.stand(Halt::Here, deadline).await?;
        Ok(hold)
    }
}

impl Hold {
    /// Applies up to the cut. The answer is the last entry of which everything is applied, the same on every node that stands at this cut.
    pub async fn advance(&mut self, cut: Cut, deadline: Instant) -> Result<LogIndex, Error> {
        self.stand(Halt::At(cut), deadline).await?;
        Ok(self.applied.borrow().index)
    }

    async fn stand(&mut self, at: Halt, deadline: Instant) -> Result<(), Error> {
        self.control.hold.send_replace(Some(at));
        let standing = tokio::time::timeout_at(deadline, self.applied.wait_for(|applied| applied.held == Some(at))).await;
        match standing.map(|standing| standing.is_ok()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Stopped),
            Err(_) => {
                let now = self.applied.borrow();
                Err(Error::NotHeld { applied: now.index, error: now.error.clone() })
            }
        }
    }

    /// All of it is done or nothing. Must stand still.
    pub async fn patch(&self, patch: Patch, deadline: Instant) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        *self.control.job.lock().expect("no thread panics while it holds the lock") = Some(Job { patch, answer });
        self.control.job_given.notify_one();
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Stopped),
            // It may be done all the same: whoever asked compares again.
            Err(_) => Err(Error::NotHeld { applied: self.applied.borrow().index, error: Some("the patch takes too long".to_owned()) }),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // One that nobody waits for any more is not begun.
        drop(self.control.job.lock().map(|mut job| job.take()));
        self.control.hold.send_replace(None);
    }
}

/// Executes a patch in the apply session, between two of its transactions.
pub(super) async fn execute(session: &mut Session, patch: &Patch) -> Result<(), Error> {
    // Its tables are numbered by whoever made it: nothing that is remembered by such a number may be taken for another's.
    session.forget();
    session.command("BEGIN").await?;
    for statement in &patch.statements {
        session.command(statement).await?;
    }
    steps(session, &patch.steps).await?;
    session.command("COMMIT").await?;
    session.pipeline.drain().await
}

/// After [`execute`], however it ended.
pub(super) async fn clean_up(session: &mut Session, failed: bool) -> Result<(), Error> {
    if failed {
        // What was answered after the failure belongs to the transaction that is rolled back.
        let _ = session.pipeline.drain().await;
        session.command("ROLLBACK").await?;
        session.pipeline.drain().await?;
    }
    session.pipeline.take_rows_missing();
    session.forget();
    Ok(())
}
