//! A follower keeps its sequences at the log's marks and at what its rows hold, as a new leader would set them.
//!
//! Nothing here depends on it: a promotion does the whole work itself. It is for those who read a sequence on a follower, above all `pg_dump`:
//! a database that is made from its dump must not hand out the keys of its own rows again.
//!
//! Must never: run where clients may write (a stage that follows owns the future, and promotion ends what is left of it in the server), hold up
//! apply (it gives way to locks, long before Postgres would call it a deadlock and pick the victim), or cost much, however many sequences there are.

use super::{APPLICATION_NAME, Sequence, list};
use crate::pg::connect::Target;
use crate::raft;
use crate::role::Error;
use howdah_protocol::LogIndex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

/// Nothing waits for the disk: what a crash takes away is set again.
const OPTIONS: &str =
    "-c lock_timeout=20ms -c statement_timeout=1s -c synchronous_commit=off -c session_replication_role=replica -c log_min_messages=fatal";
const EVERY: Duration = Duration::from_secs(1);
/// The pause after a round is so many times as long as the round: with thousands of sequences it is still a small part of a processor.
const PAUSE_PER_ROUND: u32 = 30;
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);

/// Raises the sequences of a node that follows.
#[derive(Debug)]
pub(in crate::role) struct Following {
    target: Target,
    raft: raft::Handle,
    applied: watch::Receiver<LogIndex>,
}

impl Following {
    pub(in crate::role) const fn new(target: Target, raft: raft::Handle, applied: watch::Receiver<LogIndex>) -> Self {
        Self { target, raft, applied }
    }

    /// Runs until it is dropped. A node where nothing is applied is left alone: marks are entries of the log too.
    pub(in crate::role) async fn run(mut self) -> Infallible {
        let mut pause = EVERY;
        self.applied.mark_changed();
        loop {
            tokio::time::sleep(pause).await;
            if self.applied.changed().await.is_err() {
                return std::future::pending().await;
            }
            let begun = Instant::now();
            let round = timeout(ROUND_TIMEOUT, self.round()).await.unwrap_or(Err(Error::Late("raising sequences", ROUND_TIMEOUT)));
            if let Err(error) = round {
                // DDL is being applied, or the server stops; whichever it is, others tell of it.
                tracing::debug!(%error, "sequences of this follower are raised later");
                self.applied.mark_changed();
            }
            pause = EVERY.max(begun.elapsed() * PAUSE_PER_ROUND);
        }
    }

    async fn round(&self) -> Result<(), Error> {
        let (_, decisions) = self.raft.decisions();
        let client = self.target.connect(APPLICATION_NAME, OPTIONS).await?;
        let mut round = Ok(());
        for sequence in list(&client).await? {
            // One that is being dropped does not keep the others.
            if let Err(error) = raise(&client, &sequence, &decisions.sequences).await {
                round = Err(error.into());
            }
        }
        round
    }
}

async fn raise(client: &Client, sequence: &Sequence, marks: &BTreeMap<String, i64>) -> Result<(), tokio_postgres::Error> {
    let is_cheap = sequence.owner.as_ref().is_some_and(|owner| owner.is_indexed);
    let stored = if is_cheap { sequence.stored(client).await? } else { None };
    match sequence.goal(marks.get(&sequence.name).copied(), stored) {
        Some(goal) => sequence.set(client, goal).await,
        None => Ok(()),
    }
}
