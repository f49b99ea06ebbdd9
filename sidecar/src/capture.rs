//! The commit gate: what this node's Postgres commits goes into the log, and a COMMIT returns when the log has decided it.
//!
//! ```text
//!              fill()              message()            take()             propose()
//!  walsender ----------> Stream --------------> Assembler -------> encode -----------> log
//!            <----------        <--------------           <--------------------------- decision
//!              status()            confirmed()              decided()
//! ```
//!
//! One task owns the connection, the assembler and the line of proposals. Postgres counts the connection as its one synchronous standby,
//! so it holds every COMMIT, its locks and its rows until the position sent here passes it.
//!
//! Invariants:
//! - A position is sent only when every commit up to it is decided, or needs no decision.
//! - Proposals are made in commit order. The first that is not accepted stops the line: nothing later is confirmed, and the connection
//!   is closed, after which Postgres holds every COMMIT until another gate attaches.
//! - One capture serves one epoch. [`Options::start_after`] is the watermark at the entry that opened this epoch: nothing of an earlier
//!   epoch can enter the log behind it.
//!
//! Must never: start again by itself. Whether this node may still serve is the role's decision.

mod attach;
mod gate;
mod metrics;
mod tail;
#[cfg(test)]
mod tests;

pub use metrics::{COMMITS_BOUNDS, Histogram, LATENCY_BOUNDS_US, Metrics, Snapshot};
pub use tail::{Tail, drain_tail, read_tail};

use crate::core::assemble;
use crate::core::divergence;
use crate::core::entry::Writer;
use crate::pg::connect::{self, Target};
use crate::pg::replication;
use bytes::Bytes;
use howdah_protocol::{LogIndex, Lsn, settings};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// The log, as far as the gate needs it.
pub trait Proposer: Send + Sync + 'static {
    /// Puts an entry (the bytes of [`crate::core::entry::Entry::encode`]) in line, in the order of the calls; the future waits for the
    /// decision. `Ok` means that the entry is decided *and counts*: it was admitted under the epoch of its writer.
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<LogIndex, ProposeError>> + Send + 'static + use<Self>;
}

/// Why a proposal is not decided. Either way the gate does not confirm it, and stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The entry is not in the log and never will be, or it does not count there.
    #[error("the log refused the entry: {0}")]
    Refused(String),
    /// The entry may or may not be decided later.
    #[error("whether the log holds the entry is not known: {0}")]
    Unknown(String),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Replication(#[from] replication::Error),
    #[error(transparent)]
    Assemble(#[from] assemble::Error),
    #[error(transparent)]
    Divergence(#[from] divergence::Error),
    #[error(transparent)]
    Connect(#[from] connect::Error),
    #[error("query of the sidecar: {0}")]
    Query(#[from] tokio_postgres::Error),
    #[error("replication slot \"{0}\" does not exist")]
    NoSlot(String),
    #[error(transparent)]
    Proposal(#[from] ProposeError),
    #[error("PostgreSQL did not count the gate as its synchronous standby within {0:?}; check synchronous_standby_names")]
    NotAttached(Duration),
    #[error("decoding stands still: PostgreSQL sent nothing for {0:?}, although it was asked to; look for locks on catalogs")]
    Stalled(Duration),
    #[error("the slot was not read to the end of the WAL: nothing came for {0:?}")]
    TailTimedOut(Duration),
    #[error("capture has stopped")]
    Stopped,
}

/// Bounds of the gate, each with its unit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries proposed and not decided. Beyond, the connection is not read, and what is decoded meanwhile goes into the next entry.
    pub proposals_in_flight_max: usize,
    /// Bytes proposed or waiting to be. Beyond, the connection is not read, and Postgres waits.
    pub bytes_in_flight_max: usize,
    /// From the start until Postgres counts the gate as its synchronous standby.
    pub attach_timeout: Duration,
    /// A server that is silent for this long is asked for a sign of life.
    pub ping_after: Duration,
    /// A server that is silent for this long, although it was asked, decodes no more. Not too short: the decoding of a large rewrite
    /// (CLUSTER, REFRESH MATERIALIZED VIEW) is silent too.
    pub stall_timeout: Duration,
    pub assemble: assemble::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // What is decoded while one entry is on its way makes the next one: the fewer entries, the less each commit costs. Measured
            // with 3 nodes on 2 cores: 1 costs less CPU per commit than 2 or 4, the more so the more clients there are.
            proposals_in_flight_max: 1,
            bytes_in_flight_max: 64 << 20,
            attach_timeout: Duration::from_secs(30),
            ping_after: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(30),
            assemble: assemble::Limits::default(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub target: Target,
    pub slot: String,
    pub publication: String,
    /// In whose name entries are proposed.
    pub writer: Writer,
    /// End of this server's last commit in the log, as of the entry that opened the writer's epoch.
    pub start_after: Lsn,
    pub limits: Limits,
}

impl Options {
    #[must_use]
    pub fn new(target: Target, writer: Writer, start_after: Lsn) -> Self {
        let (slot, publication) = (settings::SLOT.to_owned(), settings::PUBLICATION.to_owned());
        Self { target, slot, publication, writer, start_after, limits: Limits::default() }
    }
}

/// What the gate is doing. A change of `attached`, `error` or `stopped` wakes those who wait; the numbers are kept current silently.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Postgres counts the gate as its synchronous standby: every COMMIT waits for it.
    pub attached: bool,
    /// Everything up to here was received.
    pub received: Lsn,
    /// Everything up to here was confirmed to Postgres.
    pub confirmed: Lsn,
    /// Entries proposed and not decided.
    pub pending: usize,
    /// When the oldest of them was read. The gate itself waits for its decision as long as it takes: giving up is the role's decision.
    pub waiting_since: Option<Instant>,
    /// Why the gate stopped by itself.
    pub error: Option<Arc<Error>>,
    /// The gate holds no connection any more.
    pub stopped: bool,
}

/// A running gate. Dropping it stops it.
#[derive(Debug)]
pub struct Handle {
    state: watch::Receiver<State>,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
}

/// Starts the gate in a task of its own. How far it got is in [`Handle::state`].
///
/// Every COMMIT waits for this task and for the log behind it, so both belong on one thread: with a thread for each, every commit pays for
/// two more wake-ups (measured: an eighth of the sidecars' CPU time).
pub fn start<P: Proposer>(options: Options, proposer: P) -> Handle {
    let (publish, state) = watch::channel(State::default());
    let (stop, stopped) = oneshot::channel();
    let metrics = Arc::new(Metrics::default());
    let counted = Arc::clone(&metrics);
    tokio::spawn(async move {
        let error = gate::serve(&options, &proposer, &publish, &counted, stopped).await.err();
        gate::finish(&publish, error);
    });
    Handle { state, metrics, stop }
}

impl Handle {
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Waits until every COMMIT waits for this gate.
    pub async fn attached(&self) -> Result<(), Arc<Error>> {
        let mut state = self.state.clone();
        let seen = state.wait_for(|state| state.attached || state.stopped).await;
        match seen.as_deref() {
            Ok(State { error: Some(error), .. }) => Err(Arc::clone(error)),
            Ok(State { stopped: false, .. }) => Ok(()),
            _ => Err(Arc::new(Error::Stopped)),
        }
    }

    /// Lets go of the connection, at once: what is not confirmed by then will not be. Postgres goes on holding its COMMITs.
    pub async fn stop(self) -> State {
        let Self { mut state, stop, .. } = self;
        let _ = stop.send(());
        // It fails only where the task is gone, and then there is nothing left to stop.
        let _ = state.wait_for(|state| state.stopped).await;
        state.borrow().clone()
    }
}
