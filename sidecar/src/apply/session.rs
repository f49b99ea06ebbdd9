//! The one session that writes: its settings, its prepared statements, and its pipeline.

use super::catalog::{self, Local};
use super::params::Param;
use super::sql::{self, Shape};
use super::{Error, Options, progress};
use crate::core::coalesce::{Table, TableId};
use futures::stream::{FuturesOrdered, StreamExt};
use howdah_protocol::settings;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio_postgres::{Client, Statement};

pub(super) const APPLICATION_NAME: &str = "howdah-apply";

/// Text must be read as capture wrote it; keys must be found by index whatever the statistics say; and nothing may wait for the gate.
const SETTINGS: &[&str] = &[
    "synchronous_commit=off",
    "session_replication_role=replica",
    "search_path=pg_catalog",
    "client_encoding=UTF8",
    "datestyle=ISO,YMD",
    "intervalstyle=postgres",
    "timezone=UTC",
    "extra_float_digits=3",
    "bytea_output=hex",
    "lc_monetary=C",
    "xmloption=content",
    "statement_timeout=0",
    "lock_timeout=0",
    "idle_in_transaction_session_timeout=0",
    "default_transaction_read_only=off",
    "default_transaction_isolation=read\\ committed",
    "row_security=off",
    "check_function_bodies=off",
    "plan_cache_mode=force_generic_plan",
    "enable_seqscan=off",
    "enable_hashjoin=off",
    "enable_mergejoin=off",
    "jit=off",
    "log_statement=none",
    "log_min_duration_statement=-1",
];

/// [`SETTINGS`] as options of a new session.
pub(super) fn start_up_options() -> String {
    SETTINGS.iter().map(|setting| format!("-c {setting} ")).collect()
}

/// Prepared statements that are kept before all are dropped.
const STATEMENTS_MAX: usize = 2_000;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    /// The server process, to find who blocks it.
    pub(super) pid: i32,
    pub(super) pipeline: Pipeline,
    progress: Statement,
    locals: HashMap<TableId, Arc<Local>>,
    statements: HashMap<TableId, HashMap<Shape, Statement>>,
    statements_count: usize,
}

impl Session {
    pub(super) async fn open(options: &Options) -> Result<Self, Error> {
        let client = options.target.connect(APPLICATION_NAME, &start_up_options()).await?;
        let failed = |context: &'static str| move |source| Error::postgres(context, source);
        // A predecessor whose end Postgres has not noticed yet still owns the origin, and could still commit.
        const PREDECESSORS: &str = "SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity \
            WHERE application_name = $1::pg_catalog.text AND pid <> pg_catalog.pg_backend_pid()";
        client.query(PREDECESSORS, &[&APPLICATION_NAME]).await.map_err(failed("ending a former apply session"))?;
        const SET_UP: &str = "SELECT pg_catalog.pg_replication_origin_session_setup($1::pg_catalog.text)";
        client.query(SET_UP, &[&settings::ORIGIN]).await.map_err(failed("taking the replication origin"))?;
        let pid = client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await.map_err(failed("asking for the process id"))?.get(0);
        let progress = client.prepare(progress::UPDATE).await.map_err(failed("preparing the update of howdah.progress"))?;
        Ok(Self {
            client: Arc::new(client),
            pid,
            pipeline: Pipeline::default(),
            progress,
            locals: HashMap::new(),
            statements: HashMap::new(),
            statements_count: 0,
        })
    }

    /// After DDL: tables are looked up and statements prepared anew.
    pub(super) fn forget(&mut self) {
        self.locals.clear();
        self.statements.clear();
        self.statements_count = 0;
    }

    pub(super) async fn local(&mut self, table: &Arc<Table>) -> Result<Arc<Local>, Error> {
        if let Some(local) = self.locals.get(&table.id) {
            return Ok(Arc::clone(local));
        }
        self.pipeline.drain().await?;
        let local = Arc::new(catalog::look_up(&self.client, table).await?);
        if self.locals.len() >= STATEMENTS_MAX {
            self.forget();
        }
        self.locals.insert(table.id, Arc::clone(&local));
        Ok(local)
    }

    /// Sends a statement of the given shape; its result comes through the pipeline.
    pub(super) async fn send(&mut self, table: &Arc<Table>, shape: Shape, params: Vec<Param>, rows: Rows) -> Result<(), Error> {
        let statement = self.statement(table, shape).await?;
        let context = format!("applying to {}", table.name());
        let client = Arc::clone(&self.client);
        let run = async move { client.execute_raw(&statement, params).await.map_err(|source| Error::postgres(context, source)) };
        self.pipeline.push(rows, run).await
    }

    async fn statement(&mut self, table: &Arc<Table>, shape: Shape) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(&table.id).and_then(|shapes| shapes.get(&shape)) {
            return Ok(statement.clone());
        }
        let local = self.local(table).await?;
        // An earlier failure must be reported, not the "transaction is aborted" that it causes here.
        self.pipeline.drain().await?;
        let text = sql::text(table, &local, &shape);
        let failed = |source| Error::postgres(format!("preparing `{text}`"), source);
        let statement = self.client.prepare(&text).await.map_err(failed)?;
        if self.statements_count >= STATEMENTS_MAX {
            self.forget();
        }
        self.statements_count += 1;
        self.statements.entry(table.id).or_default().insert(shape, statement.clone());
        Ok(statement)
    }

    pub(super) async fn command(&mut self, text: &str) -> Result<(), Error> {
        self.text(text.to_owned()).await
    }

    /// Sends a statement without parameters.
    pub(super) async fn text(&mut self, text: String) -> Result<(), Error> {
        let client = Arc::clone(&self.client);
        let run = async move { client.batch_execute(&text).await.map(|()| 0).map_err(|source| Error::postgres(text, source)) };
        self.pipeline.push(Rows::Any, run).await
    }

    pub(super) async fn progress(&mut self, index: i64, state: String) -> Result<(), Error> {
        let (client, statement) = (Arc::clone(&self.client), self.progress.clone());
        let run = async move {
            let updated = client.execute(&statement, &[&index, &state]).await;
            match updated.map_err(|source| Error::postgres("writing howdah.progress", source))? {
                1 => Ok(1),
                _ => Err(Error::Progress(format!("the row is gone or beyond {index}: something else wrote it"))),
            }
        };
        self.pipeline.push(Rows::Any, run).await
    }
}

/// What is expected of a statement's row count.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rows {
    Any,
    /// Each of so many rows should have been there.
    Found(u64),
}

type Sent = Pin<Box<dyn Future<Output = (Rows, Result<u64, Error>)> + Send>>;

/// Statements that were sent and not answered yet.
#[derive(Default)]
pub(super) struct Pipeline {
    sent: FuturesOrdered<Sent>,
    /// The first failure; what follows it in the same transaction is void.
    failed: Option<Error>,
    rows_missing: u64,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("sent", &self.sent.len()).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Statements in flight before sending waits for answers.
    const SENT_MAX: usize = 256;

    /// Sends at once: a request goes out when its future is first polled, and requests go out in that order.
    async fn push(&mut self, rows: Rows, run: impl Future<Output = Result<u64, Error>> + Send + 'static) -> Result<(), Error> {
        while self.sent.len() >= Self::SENT_MAX {
            if let Some(answer) = self.sent.next().await {
                self.note(answer);
            }
        }
        self.sent.push_back(Box::pin(async move { (rows, run.await) }));
        while let Poll::Ready(Some(answer)) = futures::poll!(self.sent.next()) {
            self.note(answer);
        }
        if self.failed.is_some() { self.drain().await } else { Ok(()) }
    }

    /// Waits for all answers; the first failure of them. May be dropped and called again.
    pub(super) async fn drain(&mut self) -> Result<(), Error> {
        while let Some(answer) = self.sent.next().await {
            self.note(answer);
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Rows that were not found since the last call.
    pub(super) fn take_rows_missing(&mut self) -> u64 {
        std::mem::take(&mut self.rows_missing)
    }

    fn note(&mut self, (rows, result): (Rows, Result<u64, Error>)) {
        match (rows, result) {
            (Rows::Found(expected), Ok(found)) => self.rows_missing += expected.saturating_sub(found),
            (Rows::Any, Ok(_)) => {}
            (_, Err(error)) => drop(self.failed.get_or_insert(error)),
        }
    }
}
