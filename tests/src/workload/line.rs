//! A client's line to the proxy: connects, runs one transaction at a time, and says what became of it.

use crate::history::{Outcome, Process};
use anyhow::{Result, bail};
use howdah_ctl::load::outcome::{Phase, of_failure};
use rand::Rng;
use rand::rngs::StdRng;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Client, Error, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// The proxy holds a statement for at most ten seconds, twice where it has to ask anew.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Thinking time between two transactions: enough clients run beside each other to keep the machine busy.
const THINK_MS: std::ops::Range<u64> = 2..20;

/// What all clients have in common.
#[derive(Debug)]
pub struct Shared {
    pub(super) began: Instant,
    url: String,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    committed: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    flights: Mutex<Vec<Weak<Flight>>>,
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub acknowledged: u64,
    /// Of those, the ones that wrote.
    pub committed: u64,
    pub refused: u64,
    pub unknown: u64,
}

/// What a connection is doing, for whoever wants to hit it in the middle of a COMMIT.
pub(super) struct Flight {
    token: CancelToken,
    committing: AtomicBool,
}

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flight").field("committing", &self.committing).finish_non_exhaustive()
    }
}

impl Flight {
    /// Call it before the COMMIT, or the statement that is its own commit, is sent.
    pub(super) fn commits(&self) {
        self.committing.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(url: &str) -> Self {
        Self {
            began: Instant::now(),
            url: url.to_owned(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            flights: Mutex::default(),
        }
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// When the histories began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            acknowledged: count(&self.acknowledged),
            committed: count(&self.committed),
            refused: count(&self.refused),
            unknown: count(&self.unknown),
        }
    }

    /// Cancel requests for every connection that is in the middle of a COMMIT right now.
    #[must_use]
    pub fn commits_in_flight(&self) -> Vec<CancelToken> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|flight| flight.strong_count() > 0);
        let living = flights.iter().filter_map(Weak::upgrade);
        living.filter(|flight| flight.committing.load(Ordering::Relaxed)).map(|flight| flight.token.clone()).collect()
    }

    pub(super) async fn think(&self, random: &mut StdRng) {
        tokio::time::sleep(Duration::from_millis(random.random_range(THINK_MS))).await;
    }
}

#[derive(Debug)]
struct Session {
    client: Client,
    connection: JoinHandle<()>,
    flight: Arc<Flight>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A connection that is made anew when it is lost. While it lives, and no outcome is unknown, its client is one process of the history.
#[derive(Debug)]
pub(crate) struct Line {
    shared: Arc<Shared>,
    consistency: &'static str,
    session: Option<Session>,
    process: Option<Process>,
}

impl Line {
    pub(super) fn new(shared: &Arc<Shared>, consistency: &'static str) -> Self {
        Self { shared: Arc::clone(shared), consistency, session: None, process: None }
    }

    /// Connects where it has to. `None` when the run is over.
    pub(super) async fn ready(&mut self, new_process: impl Fn() -> Process) -> Option<Process> {
        while !self.shared.is_stopping() {
            if self.session.is_some() || self.connect().await {
                return Some(*self.process.get_or_insert_with(new_process));
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
        None
    }

    async fn connect(&mut self) -> bool {
        self.process = None;
        let connecting = async {
            let (client, connection) = tokio_postgres::connect(&self.shared.url, NoTls).await.ok()?;
            // It ends with the session; what ended it shows in the statement that fails.
            let connection = tokio::spawn(async move { drop(connection.await) });
            let flight = Arc::new(Flight { token: client.cancel_token(), committing: AtomicBool::new(false) });
            let session = Session { client, connection, flight };
            session.client.batch_execute(&format!("SET howdah.consistency = '{}'", self.consistency)).await.ok()?;
            Some(session)
        };
        self.session = timeout(CONNECT_TIMEOUT, connecting).await.ok().flatten();
        if let Some(session) = &self.session {
            self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&session.flight));
        }
        self.session.is_some()
    }

    /// Runs one transaction. `work` tells the flight before it commits; what fails before that has not happened.
    pub(super) async fn run<T>(&mut self, work: impl AsyncFnOnce(&Client, &Flight) -> Result<T, Error>) -> Outcome<T> {
        let Some(session) = &self.session else { return Outcome::Failed };
        let result = timeout(TRANSACTION_TIMEOUT, work(&session.client, &session.flight)).await;
        let committing = session.flight.committing.swap(false, Ordering::Relaxed);
        let phase = if committing { Phase::Committing } else { Phase::Open };
        let (outcome, usable) = match result {
            Ok(Ok(answer)) => {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.shared.committed.fetch_add(u64::from(committing), Ordering::Relaxed);
                return Outcome::Ok(answer);
            }
            // Given up in the middle: the connection may still carry the statement, so it goes.
            Err(_) => (of_failure(phase, None), false),
            Ok(Err(error)) => {
                let outcome = of_failure(phase, error.code().map(tokio_postgres::error::SqlState::code));
                let answered = error.as_db_error().is_some() && !session.client.is_closed();
                // Ends the failed transaction; only a warning where there is none.
                let rollback = timeout(TRANSACTION_TIMEOUT, session.client.batch_execute("ROLLBACK"));
                (outcome, answered && matches!(rollback.await, Ok(Ok(()))))
            }
        };
        if !usable {
            self.session = None;
        }
        if outcome == howdah_ctl::core::ledger::Outcome::Unknown {
            self.process = None;
            self.shared.unknown.fetch_add(1, Ordering::Relaxed);
            return Outcome::Unknown;
        }
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        Outcome::Failed
    }

    /// For the last look, when nothing is broken: an answer, or an error.
    pub(super) async fn surely<T>(&mut self, work: impl AsyncFnOnce(&Client, &Flight) -> Result<T, Error>) -> Result<T> {
        if self.session.is_none() && !self.connect().await {
            bail!("no connection to the proxy");
        }
        match self.run(work).await {
            Outcome::Ok(answer) => Ok(answer),
            Outcome::Failed | Outcome::Unknown => bail!("a read failed though nothing is broken"),
        }
    }
}

/// The rows of a statement that is sent by the simple protocol.
pub(super) async fn rows(client: &Client, sql: &str) -> Result<Vec<SimpleQueryRow>, Error> {
    let messages = client.simple_query(sql).await?;
    Ok(messages.into_iter().filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None }).collect())
}

/// A column that is a number by its definition.
pub(super) fn number<N: std::str::FromStr>(row: &SimpleQueryRow, column: usize) -> N
where
    N::Err: std::fmt::Debug,
{
    row.get(column).expect("not null by its definition").parse().expect("a number by its definition")
}
