//! A write load that keeps books: each transaction writes a unique id, and each client notes what it was told about it.
//!
//! The demo, the tests and the failover benchmark use it to say "0 lost" from a count instead of from trust. A client notes an outcome only from what
//! it can know: a COMMIT whose answer did not come, or came as "unknown", is [`Outcome::Unknown`] and never retried under the same id.

mod client;
pub mod outcome;
mod script;

pub use script::Script;

use crate::core::ledger::{Audit, Ledger, Outcome, TransactionId};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

/// A transaction takes milliseconds; during a failover the proxy holds it for at most ten seconds.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}{}", server_said(.source))]
    Sql { what: &'static str, source: tokio_postgres::Error },
    #[error("{what}: no answer within {} s", .after.as_secs())]
    TimedOut { what: &'static str, after: Duration },
    #[error("a client task failed: {0}")]
    Client(#[from] tokio::task::JoinError),
}

/// tokio-postgres prints "db error"; what the server said is one level down.
fn server_said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map(|said| format!(": {said}")).unwrap_or_default()
}

#[derive(Debug, Clone)]
pub struct Options {
    pub url: String,
    pub clients: u32,
    pub script: Script,
    /// Same seed, same sequence of accounts per client.
    pub seed: u64,
}

/// A running load. Dropping it stops the clients at their next transaction.
#[derive(Debug)]
pub struct Load {
    started: Instant,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<client::Books>>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    stop: AtomicBool,
    /// Latencies of what was acknowledged since the last [`Load::window`], in microseconds.
    latencies: Mutex<Vec<u64>>,
    refused: AtomicU64,
    unknown: AtomicU64,
    acknowledged: AtomicU64,
}

/// What happened since the last look.
#[derive(Debug, Clone, Default)]
pub struct Window {
    pub latencies_us: Vec<u64>,
    /// Totals since the start.
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
}

/// The books of all clients, closed.
#[derive(Debug)]
pub struct Report {
    pub started: Instant,
    acks: Vec<Duration>,
    pub ledger: Ledger,
}

/// Makes the empty table of ids, dropping what an earlier load left.
pub async fn prepare(url: &str) -> Result<(), Error> {
    const TABLE: &str = "DROP TABLE IF EXISTS howdah_load; \
         CREATE TABLE howdah_load (client int NOT NULL, seq bigint NOT NULL, PRIMARY KEY (client, seq))";
    within("making the table of ids", TRANSACTION_TIMEOUT, async {
        let session = Session::open(url).await?;
        session.client.batch_execute(TABLE).await
    })
    .await
}

impl Load {
    #[must_use]
    pub fn start(options: &Options) -> Self {
        let shared = Arc::new(Shared::default());
        let started = Instant::now();
        let clients =
            (1..=options.clients).map(|number| tokio::spawn(client::run(number, options.clone(), started, Arc::clone(&shared)))).collect();
        Self { started, shared, clients }
    }

    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Takes the latencies measured since the last call.
    #[must_use]
    pub fn window(&self) -> Window {
        let latencies_us = std::mem::take(&mut *self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        Window {
            latencies_us,
            acknowledged: self.shared.acknowledged.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            unknown: self.shared.unknown.load(Ordering::Relaxed),
        }
    }

    /// Lets every client end its transaction, and collects the books.
    pub async fn stop(mut self) -> Result<Report, Error> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut report = Report { started: self.started, acks: Vec::new(), ledger: Ledger::default() };
        for client in std::mem::take(&mut self.clients) {
            let books = client.await?;
            report.acks.extend(books.acks);
            report.ledger.merge(books.ledger);
        }
        Ok(report)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, outcome: Outcome, latency: Duration) {
        let counter = match outcome {
            Outcome::Acknowledged => {
                let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                self.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(us);
                &self.acknowledged
            }
            Outcome::Refused => &self.refused,
            Outcome::Unknown => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Report {
    /// Moments of all acknowledged commits, since the start, client by client.
    #[must_use]
    pub fn acks(&self) -> &[Duration] {
        &self.acks
    }

    /// Reads all ids back through `url` and compares them with the books.
    pub async fn audit(&self, url: &str) -> Result<Audit, Error> {
        Ok(self.ledger.audit(&read_back(url).await?))
    }
}

/// The ids that the database behind `url` holds.
pub async fn read_back(url: &str) -> Result<HashSet<TransactionId>, Error> {
    within("reading the ids back", READ_BACK_TIMEOUT, async {
        let session = Session::open(url).await?;
        let rows = session.client.query("SELECT client, seq FROM howdah_load", &[]).await?;
        Ok(rows.iter().map(|row| TransactionId { client: row.get(0), seq: row.get(1) }).collect())
    })
    .await
}

async fn within<T>(what: &'static str, after: Duration, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(after, work).await {
        Ok(result) => result.map_err(|source| Error::Sql { what, source }),
        Err(_) => Err(Error::TimedOut { what, after }),
    }
}

/// A connection whose task ends with it.
pub(crate) struct Session {
    pub(crate) client: tokio_postgres::Client,
    task: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Session {
    pub(crate) async fn open(url: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        Ok(Self { client, task: tokio::spawn(connection) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}
