//! Keeps a node that cannot soon lead from standing in the way, whatever its stage is busy with.
//!
//! - It does not stand for election by itself (`raft::Handle::set_stage`, `set_health`), but every [`STAND_EVERY`] it looks whether there is a leader at all:
//!   where nobody else can be elected, for want of the log, it must be this one, which then brings the log to the others.
//! - Found leading, it hands on to a node that can do better, and keeps trying. Where nobody can it goes on leading: somebody has to keep the log
//!   going, and leadership that went round would stop it again and again.

use super::Stage;
use crate::core::health::Fit;
use crate::raft;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Long enough for every fit node to be elected first, if one can be...
const STAND_EVERY: Duration = Duration::from_secs(2);
/// ...and up to so much longer, so that two such nodes do not stand against each other again and again.
const STAND_SPREAD: Duration = Duration::from_secs(1);
/// Between two attempts to hand on, also if leadership came back at once.
const HAND_ON_PAUSE: Duration = Duration::from_millis(200);

/// Ends with the value.
#[derive(Debug)]
pub(super) struct Standby(JoinHandle<()>);

impl Standby {
    pub(super) fn start(raft: raft::Handle) -> Self {
        Self(tokio::spawn(async move {
            match run(&raft).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "the log is not kept from this node any more"),
            }
        }))
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs until the log stops.
async fn run(raft: &raft::Handle) -> Result<(), raft::Error> {
    let (mut condition, mut role) = (raft.condition(), raft.role());
    let mut told = false;
    loop {
        if condition.wait_for(|condition| !condition.stands()).await.is_err() || role.borrow_and_update().stopped.is_some() {
            return Ok(());
        }
        if role.borrow().is_leader {
            match raft.hand_on().await {
                Ok(to) => tracing::warn!(%to, "this node should not lead now: handed leadership on"),
                Err(error) if !told => {
                    tracing::info!(%error, "this node leads and should not, and there is nobody better to hand on to yet")
                }
                Err(_) => {}
            }
            told = true;
            tokio::time::sleep(HAND_ON_PAUSE).await;
            continue;
        }
        told = false;
        tokio::select! {
            changed = role.changed() => if changed.is_err() {
                return Ok(());
            },
            // Whichever way: it is looked again above.
            _ = condition.changed() => {}
            () = tokio::time::sleep(STAND_EVERY + STAND_SPREAD.mul_f64(rand::random())) => raft.stand_if_leaderless().await?,
        }
    }
}

/// What the end of a stage says of the node's fitness; `None` where it says nothing.
pub(super) const fn fitness_after<E>(ended: &Result<Stage, E>) -> Option<Fit> {
    match ended {
        // What failed may fail again. Reconciling comes before everything else, and finds out.
        Err(_) => Some(Fit::Unable),
        Ok(Stage::Start | Stage::Repair | Stage::Seed) => Some(Fit::Unable),
        Ok(Stage::Follow | Stage::Promote | Stage::Lead) => Some(Fit::Fit),
        Ok(Stage::Reconcile | Stage::Demote | Stage::Stop) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reconciled_node_is_fit_again() {
        let ended = [Err(()), Ok(Stage::Demote), Ok(Stage::Reconcile), Ok(Stage::Seed), Ok(Stage::Reconcile), Ok(Stage::Follow)];
        let mut fit = Fit::Fit;
        let seen = ended.map(|ended| {
            fit = fitness_after(&ended).unwrap_or(fit);
            fit
        });
        let no = Fit::Unable;
        assert_eq!(seen, [no, no, no, no, no, Fit::Fit]);
    }
}
