//! The joining node's side of seeding.

use super::{INSTANCE_HEADER, LSN_HEADER};
use crate::admin::client;
use crate::config::Config;
use crate::core::decisions::{Decisions, Fate};
use crate::pg::connect::Target;
use crate::pg::schema::{self, Origin};
use crate::raft;
use howdah_protocol::{InstanceId, LogIndex, Lsn};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

const ROLES_BYTES_MAX: usize = 16 << 20;
/// Silence on the dump's connection for this long ends the attempt.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
const DECIDE_TIMEOUT: Duration = Duration::from_secs(60);
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
    #[error("the leader's roles cannot be taken over: {0}")]
    Roles(String),
    #[error("the dump broke off: {0}")]
    Broken(String),
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("the log did not come to rest: {0}")]
    Undecided(&'static str),
    #[error("pg_restore failed: {0}")]
    Restore(String),
}

/// Fills this node's fresh, settled Postgres from the leader.
#[derive(Debug)]
pub struct Sink<'a> {
    pub config: &'a Config,
    pub target: &'a Target,
    pub raft: &'a raft::Handle,
}

impl Sink<'_> {
    /// Returns where the node then stands in the log.
    pub async fn fill(&self, leader_admin: &str) -> Result<Origin, Error> {
        // Before the snapshot is taken: what is decided now is in it.
        let (index, mut decisions) =
            wait_decided(self.raft, "a large transaction does not end", |decisions| decisions.unfinished.is_empty()).await?;
        let response = tokio::time::timeout(CHUNK_TIMEOUT, client::get(leader_admin, "/v1/seed", Some(&self.config.secret)))
            .await
            .map_err(|_| Error::Broken("the leader does not answer".into()))??;
        let lsn: Lsn = header(&response, LSN_HEADER)?;
        let instance = InstanceId(header(&response, INSTANCE_HEADER)?);
        let by = decisions.serving.filter(|serving| serving.instance == instance).ok_or(Error::Undecided("the leader changed"))?;
        let archive = Archive::new(self.config.data_dir.join("seed.dump"));
        let roles = receive(response.into_body(), &archive).await?;
        self.restore(&roles, &archive).await?;
        let known = |now: &Decisions| now.fate(by, lsn) != Fate::Open;
        let (_, after) = wait_decided(self.raft, "the snapshot's last commits are not decided", known).await?;
        if after.fate(by, lsn) != Fate::Decided {
            return Err(Error::Undecided("the leader changed"));
        }
        let watermark = decisions.watermark(instance).max(lsn);
        decisions.watermarks.insert(instance, watermark);
        let origin = Origin { applied: index, decisions };
        schema::set_origin(self.target, &origin).await?;
        Ok(origin)
    }

    async fn restore(&self, roles: &str, archive: &Archive) -> Result<(), Error> {
        let client = self.target.connect("howdah-seed", "-c session_replication_role=replica").await?;
        crate::apply::apply_roles(&client, roles).await.map_err(|error| Error::Roles(error.to_string()))?;
        let failed = |error: crate::pg::server::Error| Error::Restore(error.to_string());

        // Event triggers are each node's own: leave the leader's out.
        let mut list = std::process::Command::new(self.config.postgres.bin_dir.join("pg_restore"));
        let contents = list.arg("--list").arg(&archive.path).output()?;
        let contents: String = String::from_utf8_lossy(&contents.stdout)
            .lines()
            .filter(|line| !line.contains(" EVENT TRIGGER ") && !line.contains(" PUBLICATION "))
            .fold(String::new(), |all, line| all + line + "\n");
        let contents_path = archive.path.with_extension("list");
        fs::write(&contents_path, contents)?;

        let mut command = tokio::process::Command::new(self.config.postgres.bin_dir.join("pg_restore"));
        command
            .args(["--exit-on-error", "--jobs", RESTORE_JOBS, "--use-list"])
            .arg(&contents_path)
            .args(["--host", &self.target.host.display().to_string(), "--port", &self.target.port.to_string()])
            .args(["--username", &self.target.user, "--dbname", &self.target.database])
            .arg(&archive.path)
            .env("PGOPTIONS", "-c session_replication_role=replica -c synchronous_commit=local -c default_transaction_read_only=off");
        crate::pg::server::run_long("pg_restore", command).await.map_err(failed)
    }
}

/// The dump on disk, removed when it is no longer needed.
struct Archive {
    path: PathBuf,
}

impl Archive {
    fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        for path in [self.path.clone(), self.path.with_extension("list")] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove a seeding file");
            }
        }
    }
}

/// Writes the archive and returns the roles that stand before it.
async fn receive(mut body: Incoming, archive: &Archive) -> Result<String, Error> {
    let mut file = BufWriter::new(fs::File::create(&archive.path)?);
    let mut head: Vec<u8> = Vec::new();
    let mut roles: Option<String> = None;
    while !body.is_end_stream() {
        let frame = tokio::time::timeout(CHUNK_TIMEOUT, Pin::new(&mut body).frame())
            .await
            .map_err(|_| Error::Broken(format!("nothing came for {CHUNK_TIMEOUT:?}")))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Error::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if roles.is_some() {
            file.write_all(&data)?;
            continue;
        }
        head.extend_from_slice(&data);
        let Some(length) = head.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) else { continue };
        if length > ROLES_BYTES_MAX {
            return Err(Error::Broken(format!("roles of {length} bytes")));
        }
        if head.len() >= 4 + length {
            roles = Some(String::from_utf8_lossy(&head[4..4 + length]).into_owned());
            file.write_all(&head[4 + length..])?;
        }
    }
    file.flush()?;
    roles.ok_or_else(|| Error::Broken("it ended before the roles did".into()))
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
