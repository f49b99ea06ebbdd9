//! The joining node's side of seeding.

use super::background::Background;
use super::meter::Meter;
use super::plan::Plan;
use super::rows::{Copying, get, next_chunk};
use super::{CHUNK_TIMEOUT, OPTIONS};
use crate::admin::client;
use crate::config::Config;
use crate::core::decisions::{Decisions, Fate};
use crate::pg::connect::Target;
use crate::pg::schema::{self, Origin};
use crate::raft;
use crate::status::Board;
use bytes::Bytes;
use howdah_protocol::LogIndex;
use howdah_protocol::admin::{NodeStatus, SeedingStage};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;

const PLAN_BYTES_MAX: usize = 64 << 20;
const DECIDE_TIMEOUT: Duration = Duration::from_secs(60);
/// A log that does not grow for this long, though the leader's is longer, ends the attempt.
const LOG_TIMEOUT: Duration = Duration::from_secs(60);
const RESTORE_JOBS: &str = "2";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error(transparent)]
    Server(#[from] crate::pg::server::Error),
    #[error(transparent)]
    Schema(#[from] schema::Error),
    #[error(transparent)]
    Connect(#[from] crate::pg::connect::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error("the leader's roles cannot be taken over: {0}")]
    Roles(String),
    #[error("the leader's data broke off: {0}")]
    Broken(String),
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("the log did not come to rest: {0}")]
    Undecided(&'static str),
    #[error("pg_restore failed: {0}")]
    Restore(String),
    #[error("copying into {table}: {source}")]
    Rows { table: String, source: tokio_postgres::Error },
}

/// Fills this node's fresh, settled Postgres from the leader.
#[derive(Debug)]
pub struct Sink<'a> {
    pub config: &'a Config,
    pub target: &'a Target,
    pub raft: &'a raft::Handle,
    pub board: &'a Board,
}

impl Sink<'_> {
    /// Returns where the node then stands in the log. Dropping the future ends the attempt.
    pub async fn fill(&self, leader: &str) -> Result<Origin, Error> {
        let meter = Arc::new(Meter::start(self.board.seeding.clone()));
        self.wait_for_log(leader).await?;
        // Before the snapshot is taken: what is decided now is in it.
        let (index, mut decisions) =
            wait_decided(self.raft, "a large transaction does not end", |decisions| decisions.unfinished.is_empty()).await?;
        let plan = self.ask(leader).await?;
        let (lsn, instance, id) = (plan.lsn, plan.instance, plan.id);
        let by = decisions.serving.filter(|serving| serving.instance == instance).ok_or(Error::Undecided("the leader changed"))?;
        let known = |now: &Decisions| now.fate(by, lsn) != Fate::Open;
        let (_, after) = wait_decided(self.raft, "the snapshot's last commits are not decided", known).await?;
        if after.fate(by, lsn) != Fate::Decided {
            return Err(Error::Undecided("the leader changed"));
        }
        meter.plan(&plan);
        self.take(leader, plan, &meter).await?;
        let now = meter.now();
        tracing::info!(id, rows = now.rows_done, bytes = now.bytes_done, seconds = now.seconds, "all rows and indexes are here");
        let watermark = decisions.watermark(instance).max(lsn);
        decisions.watermarks.insert(instance, watermark);
        let origin = Origin { applied: index, decisions };
        // Commits with a flush, and so makes everything before it durable.
        schema::set_origin(self.target, &origin).await?;
        Ok(origin)
    }

    /// A new node begins with an empty log. What the leader keeps of it comes before the rows do, so that the mark is seen at once.
    async fn wait_for_log(&self, leader: &str) -> Result<(), Error> {
        let status = tokio::time::timeout(CHUNK_TIMEOUT, client::get_json::<NodeStatus>(leader, "/v1/status")).await;
        let goal = status.map_err(|_| Error::Broken("the leader does not answer".into()))??.committed_index;
        let mut decided = self.raft.decided();
        while decided.borrow_and_update().index < goal {
            match tokio::time::timeout(LOG_TIMEOUT, decided.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(Error::Undecided("the leader's log does not come")),
            }
        }
        Ok(())
    }

    async fn ask(&self, leader: &str) -> Result<Plan, Error> {
        let path = format!("/v1/seed?node={}", self.config.node);
        let asked = tokio::time::timeout(CHUNK_TIMEOUT, client::post(leader, &path, &self.config.secret, Bytes::new())).await;
        let response = asked.map_err(|_| Error::Broken("the leader does not answer".into()))??;
        let body = tokio::time::timeout(CHUNK_TIMEOUT, Limited::new(response.into_body(), PLAN_BYTES_MAX).collect()).await;
        let body = body.map_err(|_| Error::Broken("the plan does not come".into()))?.map_err(|error| Error::Broken(error.to_string()))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| Error::Broken(format!("the plan: {error}")))
    }

    /// Schema, rows, and what rests on rows, in this order.
    async fn take(&self, leader: &str, plan: Plan, meter: &Arc<Meter>) -> Result<(), Error> {
        meter.stage(SeedingStage::Schema);
        let archive = Archive { path: self.config.data_dir.join("seed.dump") };
        let schema = get(leader, &format!("/v1/seed/schema?id={}", plan.id), &self.config.secret).await?;
        archive.receive(schema).await?;
        let session = self.target.connect("howdah-seed", &format!("{OPTIONS} -c session_replication_role=replica")).await?;
        crate::apply::apply_roles(&session, &plan.roles).await.map_err(|error| Error::Roles(error.to_string()))?;
        self.restore(&archive, "pre-data").await?;

        meter.stage(SeedingStage::Rows);
        let (id, sequences) = (plan.id, plan.sequences.clone());
        let copying = Copying {
            version: version(&session).await?,
            plan,
            leader: leader.to_owned(),
            secret: self.config.secret.clone(),
            target: self.target.clone(),
            meter: meter.clone(),
        };
        copying.run(&Background::start()?).await?;
        self.end(leader, id).await;

        meter.stage(SeedingStage::Indexes);
        self.restore(&archive, "post-data").await?;
        for sequence in sequences {
            session.batch_execute(&sequence.set()).await?;
        }
        // The first readers should not get plans for empty tables.
        session.batch_execute("ANALYZE").await?;
        Ok(())
    }

    /// Lets the leader forget its snapshot. It would by itself, later.
    async fn end(&self, leader: &str, id: u64) {
        let path = format!("/v1/seed/end?id={id}");
        let ended = tokio::time::timeout(CHUNK_TIMEOUT, client::post(leader, &path, &self.config.secret, Bytes::new())).await;
        if !matches!(ended, Ok(Ok(_))) {
            tracing::debug!("the leader was not told that the rows are here");
        }
    }

    async fn restore(&self, archive: &Archive, section: &str) -> Result<(), Error> {
        // Event triggers are each node's own: leave the leader's out.
        let mut list = tokio::process::Command::new(self.config.postgres.bin_dir.join("pg_restore"));
        let contents = list.args(["--list", "--section", section]).arg(&archive.path).kill_on_drop(true).output().await?;
        let contents: String = String::from_utf8_lossy(&contents.stdout)
            .lines()
            .filter(|line| !line.contains(" EVENT TRIGGER ") && !line.contains(" PUBLICATION "))
            .fold(String::new(), |all, line| all + line + "\n");
        fs::write(archive.list(), contents)?;

        let mut command = tokio::process::Command::new(self.config.postgres.bin_dir.join("pg_restore"));
        command
            .args(["--exit-on-error", "--jobs", RESTORE_JOBS, "--section", section, "--use-list"])
            .arg(archive.list())
            .args(["--host", &self.target.host.display().to_string(), "--port", &self.target.port.to_string()])
            .args(["--username", &self.target.user, "--dbname", &self.target.database])
            .arg(&archive.path)
            .env("PGOPTIONS", "-c session_replication_role=replica -c synchronous_commit=local -c default_transaction_read_only=off")
            .env("PGPASSWORD", self.target.password.as_deref().unwrap_or_default());
        let failed = |error: crate::pg::server::Error| Error::Restore(error.to_string());
        crate::pg::server::run_long("pg_restore", command).await.map_err(failed)
    }
}

/// The schema on disk, removed when it is no longer needed.
struct Archive {
    path: PathBuf,
}

impl Archive {
    fn list(&self) -> PathBuf {
        self.path.with_extension("list")
    }

    async fn receive(&self, mut body: Incoming) -> Result<(), Error> {
        let mut file = BufWriter::new(fs::File::create(&self.path)?);
        while let Some(chunk) = next_chunk(&mut body).await? {
            file.write_all(&chunk)?;
        }
        Ok(file.flush()?)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        for path in [self.path.clone(), self.list()] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove a seeding file");
            }
        }
    }
}

async fn version(session: &Client) -> Result<u32, Error> {
    let row = session.query_one("SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4", &[]).await?;
    Ok(row.get::<_, i32>(0).unsigned_abs() / 10_000)
}

/// Waits until what the log has decided is `good`, and answers it with the index up to which it is.
pub(crate) async fn wait_decided(
    raft: &raft::Handle,
    what: &'static str,
    good: impl Fn(&Decisions) -> bool,
) -> Result<(LogIndex, Decisions), Error> {
    let mut decided = raft.decided();
    let deadline = tokio::time::Instant::now() + DECIDE_TIMEOUT;
    loop {
        decided.borrow_and_update();
        let (index, decisions) = raft.decisions();
        if good(&decisions) {
            return Ok((index, decisions));
        }
        match tokio::time::timeout_at(deadline, decided.changed()).await {
            Ok(Ok(())) => {}
            _ => return Err(Error::Undecided(what)),
        }
    }
}

pub(crate) fn header<T: std::str::FromStr>(response: &hyper::Response<Incoming>, name: &str) -> Result<T, Error> {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| Error::Broken(format!("the answer has no valid {name}")))
}
