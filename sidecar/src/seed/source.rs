//! The leader's side of seeding: a dump at an exported snapshot, as the body of an HTTP answer.
//!
//! Body: length of the roles' JSON (u32, big endian), that JSON, then a `pg_dump` archive until the end. A dump that fails in the middle
//! ends the body with an error, which HTTP carries as a broken body: the other side never takes half a dump for a whole one.

use super::{INSTANCE_HEADER, LSN_HEADER, MARK_PREFIX};
use crate::admin::{Body, problem};
use crate::pg::connect::Target;
use crate::pg::replication;
use bytes::Bytes;
use futures::stream;
use howdah_protocol::admin::Role;
use howdah_protocol::{InstanceId, Lsn};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const CHUNK_BYTES: usize = 256 << 10;

/// Gives dumps of this node's Postgres, one at a time.
#[derive(Debug, Clone)]
pub struct Source {
    pub target: Target,
    bin_dir: PathBuf,
    running: Arc<Semaphore>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Connect(#[from] crate::pg::connect::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Replication(#[from] replication::Error),
    #[error("cannot run pg_dump: {0}")]
    Dump(#[from] io::Error),
}

/// What must live until the dump has been read to its end.
struct Dump {
    output: ChildStdout,
    child: Child,
    /// The temporary slot, and with it the snapshot, ends with this connection.
    _snapshot: replication::ExportedSlot,
    _permit: OwnedSemaphorePermit,
}

impl Source {
    #[must_use]
    pub fn new(target: Target, bin_dir: PathBuf) -> Self {
        Self { target, bin_dir, running: Arc::new(Semaphore::new(1)) }
    }

    pub(crate) async fn answer(&self, role: Role) -> Response<Body> {
        if role != Role::Leader {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "only the leader seeds", Some("ask the leader"));
        }
        let Ok(permit) = self.running.clone().try_acquire_owned() else {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "another node is being seeded", Some("try again later"));
        };
        match self.start(permit).await {
            Ok(response) => response,
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), None),
        }
    }

    async fn start(&self, permit: OwnedSemaphorePermit) -> Result<Response<Body>, Error> {
        let client = self.target.connect("howdah-seed", "").await?;
        let row = client.query_one("SELECT instance, howdah.roles_state()::text FROM howdah.node", &[]).await?;
        let instance = InstanceId(row.get::<_, i64>(0).unsigned_abs());
        let roles: String = row.get(1);

        let snapshot = replication::export_slot(&self.target, "howdah_seed").await?;
        client.execute("SELECT pg_logical_emit_message(true, $1::text, '')", &[&MARK_PREFIX]).await?;

        let mut command = Command::new(self.bin_dir.join("pg_dump"));
        command
            .args(["--format=custom", "--compress=1", "--exclude-schema=howdah", "--no-publications", "--no-subscriptions"])
            .arg(format!("--snapshot={}", snapshot.snapshot))
            .args(["--host", &self.target.host.display().to_string(), "--port", &self.target.port.to_string()])
            .args(["--username", &self.target.user, "--dbname", &self.target.database])
            .env("PGOPTIONS", "-c statement_timeout=0")
            .env("PGPASSWORD", self.target.password.as_deref().unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("pg_dump has no output"))?;
        let mut head = u32::try_from(roles.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
        head.extend_from_slice(roles.as_bytes());
        let lsn = snapshot.consistent;
        Ok(response(instance, lsn, head, Dump { output, child, _snapshot: snapshot, _permit: permit }))
    }
}

fn response(instance: InstanceId, lsn: Lsn, head: Vec<u8>, dump: Dump) -> Response<Body> {
    let first = Some(Bytes::from(head));
    let chunks = stream::unfold((first, Some(dump)), |(head, dump)| async move {
        let mut dump = dump?;
        if let Some(head) = head {
            return Some((Ok(Frame::data(head)), (None, Some(dump))));
        }
        match next_chunk(&mut dump).await {
            Ok(Some(chunk)) => Some((Ok(Frame::data(chunk)), (None, Some(dump)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), (None, None))),
        }
    });
    Response::builder()
        .header(LSN_HEADER, lsn.to_string())
        .header(INSTANCE_HEADER, instance.to_string())
        .body(StreamBody::new(chunks).boxed_unsync())
        .expect("both headers are plain ASCII")
}

/// The next part of the dump; none when pg_dump has ended well.
async fn next_chunk(dump: &mut Dump) -> io::Result<Option<Bytes>> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let len = dump.output.read(&mut chunk).await?;
    if len > 0 {
        chunk.truncate(len);
        return Ok(Some(chunk.into()));
    }
    let status = dump.child.wait().await?;
    if status.success() { Ok(None) } else { Err(io::Error::other(format!("pg_dump ended with {status}"))) }
}
