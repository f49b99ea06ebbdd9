//! The joining node's side of seeding.

use super::alive::KEEP_EVERY;
use super::background::Background;
use super::meter::Meter;
use super::plan::Plan;
use super::rows::{Copying, get, next_chunk};
use super::start::Begun;
use super::{Giver, OPTIONS};
use crate::admin::client;
use crate::apply::progress::{self, Progress};
use crate::config::Config;
use crate::pg::connect::Target;
use crate::pg::schema;
use crate::raft;
use crate::status::Board;
use howdah_protocol::admin::SeedingStage;
use hyper::body::Incoming;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_postgres::Client;

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
    #[error("the roles cannot be taken over: {0}")]
    Roles(String),
    #[error("the data broke off: {0}")]
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

/// Fills this node's fresh, settled Postgres.
#[derive(Debug)]
pub struct Sink<'a> {
    pub config: &'a Config,
    pub target: &'a Target,
    pub raft: &'a raft::Handle,
    pub board: &'a Board,
}

impl Sink<'_> {
    /// From the first of the followers that is ready to, or else from the leader. Returns where the node then stands in the log. Dropping the
    /// future ends the attempt.
    pub async fn fill(&self, leader: &Giver, followers: &[Giver]) -> Result<Progress, Error> {
        let meter = Arc::new(Meter::start(self.board.seeding.clone()));
        let Begun { giver, plan, origin } = self.begin(leader, followers).await?;
        let (node, id) = (giver.node, plan.id);
        tracing::info!(%node, leads = giver == *leader, id, index = %origin.applied, "is filled");
        meter.plan(node, &plan);
        let taken = self.take(&giver.address, plan, &meter).await;
        if taken.is_err() {
            self.end(&giver.address, id).await;
        }
        taken?;
        let now = meter.now();
        tracing::info!(id, rows = now.rows_done, bytes = now.bytes_done, seconds = now.seconds, "all rows and indexes are here");
        // Commits with a flush, and so makes everything before it durable.
        schema::set_origin(self.target, origin.applied, &progress::encode(&origin.state)).await?;
        Ok(origin)
    }

    /// Schema, rows, and what rests on rows, in this order.
    async fn take(&self, giver: &str, plan: Plan, meter: &Arc<Meter>) -> Result<(), Error> {
        let archive = Archive { path: self.config.data_dir.join("seed.dump") };
        let (id, sequences) = (plan.id, plan.sequences.clone());
        let options = format!("{OPTIONS} -c session_replication_role=replica -c synchronous_commit=off");
        let session = self.target.connect("howdah-seed", &options).await?;
        self.kept(giver, id).during(KEEP_EVERY, Box::pin(self.take_rows(giver, plan, &archive, &session, meter))).await?;
        self.end(giver, id).await;

        meter.stage(SeedingStage::Indexes);
        self.restore(&archive, "post-data").await?;
        for sequence in sequences {
            session.batch_execute(&sequence.set()).await?;
        }
        // The first readers should not get plans for empty tables.
        session.batch_execute("ANALYZE").await?;
        Ok(())
    }

    /// All that the giver is needed for.
    async fn take_rows(&self, giver: &str, plan: Plan, archive: &Archive, session: &Client, meter: &Arc<Meter>) -> Result<(), Error> {
        meter.stage(SeedingStage::Schema);
        let schema = get(giver, &format!("/v1/seed/schema?id={}", plan.id), &self.config.secret).await?;
        archive.receive(schema).await?;
        crate::apply::apply_roles(session, &plan.roles).await.map_err(|error| Error::Roles(error.to_string()))?;
        self.restore(archive, "pre-data").await?;

        meter.stage(SeedingStage::Rows);
        let copying = Copying {
            version: version(session).await?,
            plan,
            giver: giver.to_owned(),
            secret: self.config.secret.clone(),
            target: self.target.clone(),
            meter: meter.clone(),
        };
        copying.run(&Background::start()?).await
    }

    /// Nothing of it, nor of the rows, is waited for on the disk, which with thousands of objects would be most of the time: a crash before the end
    /// leaves the node without an origin, to be filled anew, and the end (`set_origin`) flushes the WAL of all of it.
    async fn restore(&self, archive: &Archive, section: &str) -> Result<(), Error> {
        // Event triggers are each node's own: leave the giver's out.
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
            .env("PGOPTIONS", "-c session_replication_role=replica -c synchronous_commit=off -c default_transaction_read_only=off")
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

pub(crate) fn header<T: std::str::FromStr>(response: &hyper::Response<Incoming>, name: &str) -> Result<T, Error> {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| Error::Broken(format!("the answer has no valid {name}")))
}
