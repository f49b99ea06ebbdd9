//! One filling, on the node that gives its rows: the snapshot that all its streams share, the locks that keep it true, and the plan.
//!
//! A transaction (the keeper) holds the snapshot, and with it an ACCESS SHARE lock on every table that is copied: so nobody rewrites, empties or
//! drops one meanwhile, which would show through the snapshot. Between the snapshot and the locks somebody may have; that is looked for, and then
//! the attempt is void. They do not keep a schema from being renamed, by which a table's name comes to mean another: so each stream makes sure
//! that what it read is the table of the plan, and not only one that has its name. A follower whose applier waits for such a lock ends the keeper after a while, and so the attempt: a COPY that waits behind the
//! applier then finds the table empty, without an error. So what a stream has read counts only if the keeper still stands when it is through.

use super::keeper::{Keeper, begin};
use super::plan::{self, Form, Plan};
use super::throttle::Throttle;
use super::{CHUNK_TIMEOUT, OPTIONS};
use crate::apply;
use crate::pg::connect::{self, Target};
use crate::pg::replication;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use howdah_protocol::NodeId;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_postgres::Client;

const CHUNK_BYTES: usize = 256 << 10;
/// A filling of which nothing was heard for this long is over.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);
pub(super) const SOURCE_NAME: &str = "howdah-seed-source";

pub(super) type Chunk = io::Result<Bytes>;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Connect(#[from] connect::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Replication(#[from] replication::Error),
    #[error(transparent)]
    Apply(#[from] apply::Error),
    #[error("this node's rows are not to be given on: {0}")]
    Unfit(String),
    #[error("cannot run pg_dump: {0}")]
    Dump(#[from] io::Error),
    #[error("a table was rewritten or renamed, or its schema was, behind the snapshot")]
    Rewritten,
    #[error("there is no such piece")]
    NoPiece,
    #[error("the session that kept the snapshot and the locks has gone: {0}")]
    Unkept(String),
    #[error("the joining node has gone, or takes nothing any more")]
    Gone,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) node: NodeId,
    pub(super) plan: Plan,
    target: Target,
    snapshot: String,
    throttle: Throttle,
    streams: Arc<Semaphore>,
    streams_max: usize,
    used: Mutex<Instant>,
    /// The snapshot and the locks end with this connection.
    keeper: Client,
}

impl Session {
    pub(super) async fn open(target: &Target, node: NodeId, connections: usize, throttle: Throttle, keeper: Keeper) -> Result<Self, Error> {
        let Keeper { client: keeper, position, node: giver } = keeper;
        if let Some(lock) = plan::lock(&keeper).await? {
            keeper.batch_execute(&lock).await?;
        }
        let (tables, rewritten) = plan::tables(&keeper).await?;
        let sequences = plan::sequences(&keeper).await?;
        if rewritten || plan::misnamed(&keeper).await? {
            return Err(Error::Rewritten);
        }
        let snapshot = keeper.query_one("SELECT pg_catalog.pg_export_snapshot()", &[]).await?.get(0);
        let plan = Plan {
            id: rand::random::<u64>() >> 1,
            position,
            instance: giver.instance,
            version: giver.version,
            connections,
            roles: giver.roles,
            pieces: plan::pieces(&tables),
            tables,
            sequences,
        };
        // One more than the pieces need: the schema.
        let streams_max = connections + 1;
        Ok(Self {
            node,
            plan,
            target: target.clone(),
            snapshot,
            throttle,
            streams: Arc::new(Semaphore::new(streams_max)),
            streams_max,
            used: Mutex::new(Instant::now()),
            keeper,
        })
    }

    /// Leave for one more stream; none where there are as many as there may be.
    pub(super) fn stream(&self) -> Option<OwnedSemaphorePermit> {
        self.touch();
        self.streams.clone().try_acquire_owned().ok()
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The joining node lives, and still wants it. False where there is nothing to want any more.
    pub(super) fn keep(&self) -> bool {
        self.touch();
        !self.keeper.is_closed()
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.streams.available_permits() == self.streams_max && now.saturating_duration_since(used) > IDLE_MAX
    }

    /// Rows of one piece, as COPY writes them.
    pub(super) async fn copy(&self, piece: usize, form: Form, send: &mpsc::Sender<Chunk>) -> Result<(), Error> {
        let piece = self.plan.pieces.get(piece).ok_or(Error::NoPiece)?;
        let client = self.target.connect(SOURCE_NAME, OPTIONS).await?;
        client.batch_execute(&begin(&self.snapshot)).await?;
        let table = &self.plan.tables[piece.table];
        let mut rows = pin!(client.copy_out(&table.copy_out(piece, form)).await?);
        let mut gathered = BytesMut::with_capacity(2 * CHUNK_BYTES);
        while let Some(row) = rows.try_next().await? {
            gathered.extend_from_slice(&row);
            if gathered.len() >= CHUNK_BYTES {
                self.pass_on(gathered.split().freeze(), send).await?;
            }
        }
        self.pass_on(gathered.freeze(), send).await?;
        if !table.was_read(&client).await? {
            return Err(Error::Rewritten);
        }
        self.check_kept().await
    }

    /// Whoever had a lock granted before this, and read at the snapshot, has read what the snapshot's rows are.
    async fn check_kept(&self) -> Result<(), Error> {
        match tokio::time::timeout(CHUNK_TIMEOUT, self.keeper.simple_query("SELECT 1")).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::Unkept(error.to_string())),
            Err(_) => Err(Error::Unkept(format!("it does not answer within {CHUNK_TIMEOUT:?}"))),
        }
    }

    async fn pass_on(&self, chunk: Bytes, send: &mpsc::Sender<Chunk>) -> Result<(), Error> {
        self.throttle.take(chunk.len()).await;
        self.touch();
        match tokio::time::timeout(CHUNK_TIMEOUT, send.send(Ok(chunk))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Gone),
        }
    }

    /// Everything but rows and the values of sequences, as an archive of `pg_dump`.
    pub(super) async fn schema(&self, bin_dir: &Path, send: &mpsc::Sender<Chunk>) -> Result<(), Error> {
        let mut command = Command::new(bin_dir.join("pg_dump"));
        command
            .args(["--format=custom", "--section=pre-data", "--section=post-data"])
            .args(["--exclude-schema=howdah", "--no-publications", "--no-subscriptions"])
            .arg(format!("--snapshot={}", self.snapshot))
            .args(["--host", &self.target.host.display().to_string(), "--port", &self.target.port.to_string()])
            .args(["--username", &self.target.user, "--dbname", &self.target.database])
            .env("PGOPTIONS", "-c statement_timeout=0")
            .env("PGPASSWORD", self.target.password.as_deref().unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut output = child.stdout.take().ok_or_else(|| io::Error::other("pg_dump has no output"))?;
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            if output.read_buf(&mut chunk).await? == 0 {
                break;
            }
            self.pass_on(chunk.freeze(), send).await?;
        }
        let status = child.wait().await?;
        if !status.success() {
            return Err(io::Error::other(format!("it ended with {status}")).into());
        }
        self.check_names().await?;
        self.check_kept().await
    }

    /// `pg_dump` names tables as the snapshot does, and what rests on them, as the definitions of indexes, by the newest catalog. A session of its
    /// own, because one may go on with an old catalog in its cache for as long as its transaction lasts.
    async fn check_names(&self) -> Result<(), Error> {
        let client = self.target.connect(SOURCE_NAME, OPTIONS).await?;
        if plan::names_stand(&client, &self.plan.tables).await? { Ok(()) } else { Err(Error::Rewritten) }
    }
}
