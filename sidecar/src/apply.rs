//! Applying: the decided log becomes rows in this node's Postgres.
//!
//! ```text
//! Log --read--> plan (core::coalesce) --steps--> one local transaction with set-based statements + howdah.progress
//!                                                   |
//!                                                Applied { index } (what a new transaction here sees)
//! ```
//!
//! Invariants:
//! - Readers see prefixes of the log: one local transaction per batch of whole entries.
//! - The position is written in the same transaction as the rows, so a crash loses both or none; apply resumes exactly where Postgres is.
//! - Nothing here waits for the gate: the session commits with `synchronous_commit = off`. The log is the durability.
//! - Everything that is written carries the replication origin, so that capture skips it, and fires no triggers.
//! - What this Postgres wrote itself as leader is not written again; only the position moves.
//! - A leader's applier stays within its own reign ([`Handle::stay`]): what the next leader writes may touch rows that this Postgres has
//!   committed and the group has not, and those must be found as they were left.
//!
//! Never: skip an entry that cannot be executed. The position stays, the reason is published, and it is tried again.

mod catalog;
mod ddl;
mod execute;
pub mod fetch;
mod hold;
mod params;
pub mod progress;
mod repair;
mod runner;
mod session;
mod sql;
#[cfg(test)]
pub(crate) mod tests;
mod unblock;

use crate::core::{coalesce, ddl as command};

use crate::pg::connect::{self, Target};
use bytes::Bytes;
pub use hold::{Hold, Holder, Patch};
use howdah_protocol::{InstanceId, LogIndex};
pub use repair::take_back;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

/// The decided log, as apply needs it.
pub trait Log: Send + Sync + 'static {
    /// The last decided entry that this node knows of.
    fn decided(&self) -> LogIndex;

    /// Returns once an entry behind `index` is decided.
    fn decided_past(&self, index: LogIndex) -> impl Future<Output = ()> + Send;

    /// Decided entries from `from` on, in order and without holes, up to about `bytes_max` but at least one where there is one.
    /// `None` stands for Raft's own entries.
    fn read(&self, from: LogIndex, bytes_max: usize) -> impl Future<Output = Result<Vec<(LogIndex, Option<Bytes>)>, LogError>> + Send;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("the log begins at {first}; this node is too far behind and must be seeded again")]
    Purged { first: LogIndex },
    #[error("reading the log: {0}")]
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] connect::Error),
    #[error("{context}: {}", describe(source))]
    Postgres { context: String, source: tokio_postgres::Error },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("log entries cannot be applied: {0}")]
    Plan(#[from] coalesce::Error),
    #[error("table {table} of the log does not exist on this node")]
    MissingTable { table: String },
    #[error("column {column} of table {table} in the log does not exist on this node")]
    MissingColumn { table: String, column: String },
    #[error(transparent)]
    Command(#[from] command::Error),
    #[error("role {role}, as whom the leader executed {tag}, does not exist on this node: {}", describe(source))]
    MissingRole { role: String, tag: String, source: tokio_postgres::Error },
    #[error("`{text}` in the log is no {type_name}")]
    Value { type_name: String, text: String },
    #[error("howdah.progress: {0}")]
    Progress(String),
    #[error("apply does not reach entry {index} in time (it is at {applied}{})", error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    NotReached { index: LogIndex, applied: LogIndex, error: Option<String> },
    #[error("apply is held by somebody else")]
    Held,
    #[error("apply does not stand where it should in time (it is at {applied}{})", error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    NotHeld { applied: LogIndex, error: Option<String> },
    #[error("divergent rows cannot be taken back: {0}")]
    TakeBack(String),
    #[error("the connection to PostgreSQL is lost")]
    Disconnected,
    #[error("apply has stopped")]
    Stopped,
}

impl Error {
    /// The log does not fit this node: trying again cannot help.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Plan(_)
            | Self::Command(_)
            | Self::MissingTable { .. }
            | Self::MissingColumn { .. }
            | Self::Value { .. }
            | Self::TakeBack(_)
            | Self::Progress(_) => true,
            Self::Log(error) => matches!(error, LogError::Purged { .. }),
            Self::Connect(_)
            | Self::Postgres { .. }
            | Self::MissingRole { .. }
            | Self::NotReached { .. }
            | Self::Held
            | Self::NotHeld { .. }
            | Self::Disconnected
            | Self::Stopped => false,
        }
    }

    /// Postgres understood and said no to the content, rather than being in no state to do it.
    fn is_refusal(&self) -> bool {
        // Connection, resources, operator, system, and what a local reader's locks may cause.
        const TRANSIENT: [&str; 7] = ["08", "53", "55", "57", "58", "40", "25"];
        let Self::Postgres { source, .. } = self else { return false };
        source.code().is_some_and(|code| !TRANSIENT.iter().any(|class| code.code().starts_with(class)))
    }

    fn postgres(context: impl Into<String>, source: tokio_postgres::Error) -> Self {
        Self::Postgres { context: context.into(), source }
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else { return error.to_string() };
    let part = |name: &str, value: Option<&str>| value.map(|value| format!("; {name}: {value}")).unwrap_or_default();
    let (detail, location) = (part("detail", db.detail()), part("where", db.where_()));
    format!("{} (SQLSTATE {}){detail}{location}", db.message(), db.code().code())
}

/// An identifier, quoted.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[derive(Debug, Clone)]
pub struct Options {
    pub target: Target,
    /// This Postgres: what it wrote itself is skipped.
    pub instance: InstanceId,
    /// Entries of about so many bytes are applied in one local transaction.
    pub batch_bytes_max: usize,
    /// A short wait for more entries while nobody waits for the position: fewer, larger transactions cost less.
    pub linger: Duration,
    /// Sessions of this node that block apply for longer are cancelled.
    pub max_apply_delay: Duration,
    /// Rows that are taken from the leader at one place of the log, and left out before it.
    pub replacement: Option<Arc<coalesce::Replacement>>,
}

impl Options {
    #[must_use]
    pub const fn new(target: Target, instance: InstanceId) -> Self {
        Self {
            target,
            instance,
            batch_bytes_max: 4 << 20,
            linger: Duration::from_millis(50),
            max_apply_delay: Duration::from_secs(30),
            replacement: None,
        }
    }
}

/// How far this node's Postgres is.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The last entry whose effects a new transaction sees. 0 until the position has been read.
    pub index: LogIndex,
    /// When it got there.
    pub at: Instant,
    /// The log must be kept from this entry on for this node to go on.
    pub needs_from: LogIndex,
    pub transactions: u64,
    pub batches: u64,
    /// Batches that had to be applied row by row.
    pub fallbacks: u64,
    /// Rows that an update or a delete should have found and did not. Not 0 means that this node differs from the leader.
    pub rows_missing: u64,
    /// Why apply does not get on. Cleared when it does.
    pub error: Option<String>,
    /// The error is final: the log does not fit this node.
    pub stopped: bool,
    /// Where it stands still because somebody holds it.
    pub held: Option<hold::Halt>,
}

/// A running applier. Dropping it stops the applier without waiting.
#[derive(Debug)]
pub struct Handle {
    applied: watch::Receiver<Applied>,
    control: Arc<Control>,
    task: tokio::task::JoinHandle<()>,
    watch: tokio::task::JoinHandle<()>,
}

/// What others ask of the applier.
#[derive(Debug)]
struct Control {
    /// Nothing behind this entry is applied.
    pause_at: watch::Sender<Option<LogIndex>>,
    stop: watch::Sender<bool>,
    /// Nothing behind the opening of another instance is applied.
    stay: watch::Sender<bool>,
    /// The whole group waits for this node: whoever blocks apply is ended soon.
    hurry: watch::Sender<bool>,
    /// Where to stand still, for the one that holds the permit.
    hold: watch::Sender<Option<hold::Halt>>,
    holding: Arc<Semaphore>,
    /// What the holder wants done.
    job: Mutex<Option<hold::Job>>,
    job_given: Notify,
    /// Tasks that wait for a position: no lingering meanwhile.
    waiting: AtomicUsize,
    wanted: Notify,
    lag: runner::Lag,
}

/// Starts applying. It reconnects by itself when Postgres restarts.
pub fn start<L: Log>(options: Options, log: L) -> Handle {
    let at = Instant::now();
    let (publish, applied) = watch::channel(Applied {
        index: LogIndex(0),
        at,
        needs_from: LogIndex(0),
        transactions: 0,
        batches: 0,
        fallbacks: 0,
        rows_missing: 0,
        error: None,
        stopped: false,
        held: None,
    });
    let control = Arc::new(Control {
        pause_at: watch::Sender::new(None),
        stop: watch::Sender::new(false),
        stay: watch::Sender::new(false),
        hurry: watch::Sender::new(false),
        hold: watch::Sender::new(None),
        holding: Arc::new(Semaphore::new(1)),
        job: Mutex::new(None),
        job_given: Notify::new(),
        waiting: AtomicUsize::new(0),
        wanted: Notify::new(),
        lag: runner::Lag::default(),
    });
    let log = Arc::new(log);
    let watch = tokio::spawn(runner::watch_decided(Arc::clone(&log), Arc::clone(&control)));
    let task = tokio::spawn(runner::run(options, log, publish, Arc::clone(&control)));
    Handle { applied, control, task, watch }
}

impl Handle {
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    #[must_use]
    pub fn holder(&self) -> Holder {
        Holder { applied: self.applied.clone(), control: Arc::clone(&self.control) }
    }

    /// Age of the oldest decided entry that is not applied; zero when there is none.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.control.lag.of(self.applied.borrow().index)
    }

    /// Returns once a new transaction on this node sees entry `index`, or apply has stopped for good.
    pub async fn wait_for(&self, index: LogIndex, deadline: Instant) -> Result<(), Error> {
        let mut applied = self.applied.clone();
        if applied.borrow().index >= index {
            return Ok(());
        }
        self.control.waiting.fetch_add(1, Ordering::Relaxed);
        self.control.wanted.notify_one();
        let reached = tokio::time::timeout_at(deadline, applied.wait_for(|applied| applied.index >= index || applied.stopped)).await;
        let reached = reached.map(|reached| reached.map(|applied| applied.index >= index));
        self.control.waiting.fetch_sub(1, Ordering::Relaxed);
        match reached {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopped),
            Ok(Ok(false)) | Err(_) => {
                let now = applied.borrow();
                Err(Error::NotReached { index, applied: now.index, error: now.error.clone() })
            }
        }
    }

    /// Applies nothing behind `index` until [`Handle::resume`]. Where apply is further already, it stays where it is: see
    /// [`Handle::applied`]. A batch that is being applied may end behind `index`.
    pub fn pause(&self, index: LogIndex) {
        self.control.pause_at.send_replace(Some(index));
    }

    pub fn resume(&self) {
        self.control.pause_at.send_replace(None);
    }

    /// Whether to stop in front of the next opening of another instance. On while this node may write; off once it is known that everything
    /// that it wrote is decided.
    pub fn stay(&self, within_own_reign: bool) {
        self.control.stay.send_replace(within_own_reign);
    }

    /// The whole group waits for what is applied here: from now on, or no more, sessions that block apply are ended after a second.
    pub fn hurry(&self, hurry: bool) {
        self.control.hurry.send_replace(hurry);
    }

    /// Ends after the batch in flight.
    pub async fn stop(mut self) {
        const STOP_TIMEOUT: Duration = Duration::from_secs(10);
        self.control.stop.send_replace(true);
        if tokio::time::timeout(STOP_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.control.stop.send_replace(true);
        self.task.abort();
        self.watch.abort();
    }
}

/// Makes this node's roles equal to the state that `howdah.roles_state()` gave on another, in JSON.
pub async fn apply_roles(client: &tokio_postgres::Client, json: &str) -> Result<(), Error> {
    let state = serde_json::from_str(json).map_err(|error| Error::Progress(format!("roles of the leader: {error}")))?;
    ddl::make_roles(client, &state).await
}
