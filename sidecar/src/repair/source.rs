//! The leader's side of a repair: rows by their keys at one snapshot, whose place in this server's WAL goes into the answer's header.
//!
//! As for a dump (`seed/source.rs`), a mark is committed behind the snapshot, so that the asking node learns when all that the snapshot holds
//! is decided. An answer that breaks off has no last line; one that cannot be
//! given, such as for a key that this table does not have, ends with the reason.

use super::{ASK_BYTES_MAX, Ask, CHUNK_TIMEOUT, Line, STATEMENT_ROWS_MAX};
use crate::admin::{Body, problem};
use crate::apply;
use crate::core::coalesce::Cut;
use crate::pg::connect::{self, Target};
use crate::pg::replication;
use crate::seed::{INSTANCE_HEADER, LSN_HEADER, MARK_PREFIX};
use bytes::Bytes;
use futures::{StreamExt, stream};
use howdah_protocol::admin::Role;
use howdah_protocol::{InstanceId, Lsn};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_postgres::Client;

const APPLICATION_NAME: &str = "howdah-repair-source";
/// Parts of an answer that wait for the network.
const CHUNKS_MAX: usize = 4;
const CHUNK_BYTES: usize = 256 << 10;

/// Gives rows of this node's Postgres, to one node at a time.
#[derive(Debug, Clone)]
pub struct Source {
    target: Target,
    running: Arc<Semaphore>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Connect(#[from] connect::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Replication(#[from] replication::Error),
    #[error(transparent)]
    Apply(#[from] apply::Error),
    #[error("the asking node has gone, or takes nothing any more")]
    Gone,
}

impl Source {
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, running: Arc::new(Semaphore::new(1)) }
    }

    pub(crate) async fn answer(&self, role: Role, request: Request<Incoming>) -> Response<Body> {
        if role != Role::Leader {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "only the leader has the rows for a repair", Some("ask the leader"));
        }
        let Ok(permit) = self.running.clone().try_acquire_owned() else {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "another node is being repaired", Some("try again later"));
        };
        let body = tokio::time::timeout(CHUNK_TIMEOUT, Limited::new(request.into_body(), ASK_BYTES_MAX).collect()).await;
        let ask = body.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice::<Ask>(&body.to_bytes()).ok());
        let Some(ask) = ask else {
            return problem(StatusCode::BAD_REQUEST, "the body is not the keys of a repair", None);
        };
        match self.start(ask, permit).await {
            Ok(response) => response,
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), None),
        }
    }

    async fn start(&self, ask: Ask, permit: OwnedSemaphorePermit) -> Result<Response<Body>, Error> {
        let client = apply::fetch::open(&self.target, APPLICATION_NAME).await?;
        let Cut { instance, lsn } = begin_at_cut(&self.target, &client, "howdah_repair").await?;
        let (send, receive) = mpsc::channel(CHUNKS_MAX);
        tokio::spawn(async move {
            let _permit = permit;
            let failed = write(&client, &ask, &send).await.err();
            if let Some(error) = failed {
                tracing::warn!(%error, "the rows for a repair were not all sent");
                // The last word, or an answer that breaks off; where nobody takes it, it is broken already.
                drop(send.try_send(last_word(&error)));
            }
        });
        Ok(response(instance, lsn, receive))
    }
}

/// Begins a transaction in the session, at a snapshot that holds exactly what is before the cut in the log. A mark is put behind it, so that
/// the log passes the cut soon whatever else is written.
pub(crate) async fn begin_at_cut(target: &Target, client: &Client, slot: &str) -> Result<Cut, Error> {
    let instance = client.query_one("SELECT instance FROM howdah.node", &[]).await?;
    let instance = InstanceId(instance.get::<_, i64>(0).unsigned_abs());
    let snapshot = replication::export_slot(target, slot).await?;
    // Another session: this one sees the snapshot only.
    let marker = target.connect(APPLICATION_NAME, "").await?;
    marker.execute("SELECT pg_logical_emit_message(true, $1::text, '')", &[&MARK_PREFIX]).await?;
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'", snapshot.snapshot);
    client.batch_execute(&begin).await?;
    // The transaction holds the snapshot by itself now.
    Ok(Cut { instance, lsn: snapshot.consistent })
}

type Chunk = Result<Bytes, io::Error>;

fn response(instance: InstanceId, lsn: Lsn, receive: mpsc::Receiver<Chunk>) -> Response<Body> {
    let chunks = stream::unfold(receive, |mut receive| async move {
        let chunk = receive.recv().await?;
        Some((chunk.map(Frame::data), receive))
    });
    Response::builder()
        .header(LSN_HEADER, lsn.to_string())
        .header(INSTANCE_HEADER, instance.to_string())
        .body(StreamBody::new(chunks).boxed_unsync())
        .expect("both headers are plain ASCII")
}

fn last_word(error: &Error) -> Chunk {
    match error {
        Error::Apply(error) if error.is_fatal() => {
            let line = Line::Refused { why: error.to_string() };
            let mut text = serde_json::to_vec(&line).expect("lines are plain data");
            text.push(b'\n');
            Ok(text.into())
        }
        error => Err(io::Error::other(error.to_string())),
    }
}

/// Lines that are gathered into chunks.
struct Out<'a> {
    send: &'a mpsc::Sender<Chunk>,
    buffer: Vec<u8>,
}

impl Out<'_> {
    async fn line(&mut self, line: &Line) -> Result<(), Error> {
        serde_json::to_writer(&mut self.buffer, line).expect("lines are plain data, and a Vec takes everything");
        self.buffer.push(b'\n');
        if self.buffer.len() >= CHUNK_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        match tokio::time::timeout(CHUNK_TIMEOUT, self.send.send(Ok(chunk))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Gone),
        }
    }
}

async fn write(client: &Client, ask: &Ask, send: &mpsc::Sender<Chunk>) -> Result<(), Error> {
    let (mut out, mut count) = (Out { send, buffer: Vec::new() }, 0);
    for (nth, asked) in ask.tables.iter().enumerate() {
        let Some(table) = apply::fetch::describe(client, &asked.schema, &asked.table, &asked.key).await? else { continue };
        let columns = table.relation.columns.iter().map(|column| column.name.clone()).collect();
        out.line(&Line::Table { nth, columns }).await?;
        for keys in asked.keys.chunks(STATEMENT_ROWS_MAX) {
            // In the order of the table's key, which is that of its columns.
            let at = |name: &usize| asked.key.iter().position(|key| *key == table.relation.columns[*name].name);
            let by_key = table.key.iter().filter_map(at);
            let order: Vec<usize> = if asked.key.is_empty() { vec![0] } else { by_key.collect() };
            let value = |key: &[String], at: usize| Bytes::from(key.get(at).cloned().unwrap_or_default());
            let keys: Vec<Vec<Bytes>> = keys.iter().map(|key| order.iter().map(|at| value(key, *at)).collect()).collect();
            let rows = if asked.key.is_empty() {
                apply::fetch::rows_by_hash(client, &table, &asked.columns, &keys).await?.boxed()
            } else {
                apply::fetch::rows(client, &table, &keys).await?.boxed()
            };
            let mut rows = pin!(rows);
            while let Some(row) = rows.next().await {
                count += 1;
                out.line(&Line::Row(row?)).await?;
            }
        }
    }
    out.line(&Line::End { rows: count }).await?;
    out.flush().await
}
