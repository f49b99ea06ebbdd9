//! The side of seeding that gives the rows, as HTTP: the leader, or a follower, which has them at a known place of the log too.
//!
//! | call | answer |
//! |---|---|
//! | `POST /v1/seed?node=N` | of the leader: the plan of a filling of node N, which is open from now on |
//! | `POST /v1/seed?node=N&from=X` | of a follower: the same, of rows at entry X of the log or behind |
//! | `GET /v1/seed/schema?id=I` | everything but rows: an archive of `pg_dump` |
//! | `GET /v1/seed/rows?id=I&piece=P&form=binary` | rows of a piece of the plan, as COPY writes them |
//! | `POST /v1/seed/keep?id=I` | the filling goes on, though nothing is asked of it for now; 410 where it is over |
//! | `POST /v1/seed/end?id=I` | the filling is over |
//!
//! A stream that fails in the middle ends its body with an error, which HTTP carries as a broken body: the other side never takes a half for
//! the whole. One node is filled at a time. A filling ends when its node says so, begins another, or is silent for a minute.

use super::CHUNK_TIMEOUT;
use super::background::Background;
use super::keeper::{self, Ground};
use super::plan::Form;
use super::session::{Chunk, Error, Session};
use super::throttle::Throttle;
use crate::admin::{Body, full, problem};
use crate::config::Seed;
use crate::core::pace::Limits;
use crate::pg::connect::Target;
use crate::raft;
use crate::status::Board;
use futures::stream;
use howdah_protocol::admin::Role;
use howdah_protocol::{LogIndex, NodeId};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Method, Response, StatusCode};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// Parts of a stream that wait for the network.
const CHUNKS_MAX: usize = 4;
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Fills other nodes from this one's Postgres, one at a time.
#[derive(Debug, Clone)]
pub struct Source {
    pub target: Target,
    bin_dir: PathBuf,
    limits: Seed,
    ground: Ground,
    opening: Arc<Semaphore>,
    running: Arc<Mutex<Option<Running>>>,
}

/// A filling and the thread on which it is done.
#[derive(Debug, Clone)]
struct Running {
    session: Arc<Session>,
    background: Arc<Background>,
}

impl Source {
    #[must_use]
    pub fn new(target: Target, bin_dir: PathBuf, limits: Seed, raft: raft::Handle, board: Board) -> Self {
        let ground = Ground { raft, board };
        Self { target, bin_dir, limits, ground, opening: Arc::new(Semaphore::new(1)), running: Arc::default() }
    }

    pub(crate) async fn answer(&self, method: &Method, path: &str, query: &str) -> Response<Body> {
        match (method, path) {
            (&Method::POST, "/v1/seed") => match number(query, "node") {
                Some(node) => self.begin(NodeId(node), number(query, "from").map(LogIndex)).await,
                None => problem(StatusCode::BAD_REQUEST, "which node is to be filled?", Some("ask for /v1/seed?node=N")),
            },
            (&Method::GET, "/v1/seed/schema") => self.stream(query, |running, send| {
                let bin_dir = self.bin_dir.clone();
                async move { running.schema(&bin_dir, &send).await }
            }),
            (&Method::GET, "/v1/seed/rows") => {
                let form = if value(query, "form") == Some("binary") { Form::Binary } else { Form::Text };
                let piece = number(query, "piece").and_then(|piece| usize::try_from(piece).ok()).unwrap_or(usize::MAX);
                self.stream(query, move |running, send| async move { running.copy(piece, form, &send).await })
            }
            (&Method::POST, "/v1/seed/keep") => match self.numbered(query).filter(|running| running.session.keep()) {
                Some(_) => Response::new(full("{}")),
                None => over(),
            },
            (&Method::POST, "/v1/seed/end") => {
                self.end(|running| number(query, "id") == Some(running.session.plan.id));
                Response::new(full("{}"))
            }
            _ => problem(StatusCode::NOT_FOUND, &format!("no such call: {method} {path}"), None),
        }
    }

    async fn begin(&self, node: NodeId, from: Option<LogIndex>) -> Response<Body> {
        // Who asks must know which kind of position it gets.
        if self.ground.role() != if from.is_some() { Role::Follower } else { Role::Leader } {
            let hint = "ask the leader, or a follower for rows from an entry on";
            return problem(StatusCode::SERVICE_UNAVAILABLE, "this node has another role", Some(hint));
        }
        let busy = || problem(StatusCode::SERVICE_UNAVAILABLE, "another node is being seeded", Some("try again later"));
        let Ok(_opening) = self.opening.try_acquire() else { return busy() };
        // Whoever asks again has given up what it asked for before.
        self.end(|running| running.session.node == node || running.session.is_idle(Instant::now()));
        if self.running().is_some() {
            return busy();
        }
        let opened = self.open(node, from).await;
        match opened {
            Ok(running) => {
                let plan = serde_json::to_vec(&running.session.plan).expect("a plan is plain data");
                let id = running.session.plan.id;
                *self.lock() = Some(running);
                tokio::spawn(self.clone().end_when_idle(id));
                Response::new(full(plan))
            }
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), None),
        }
    }

    async fn open(&self, node: NodeId, from: Option<LogIndex>) -> Result<Running, Error> {
        let background = Arc::new(Background::start()?);
        let rate = |megabytes: u32| u64::from(megabytes) << 20;
        let limits = Limits { most: rate(self.limits.megabytes_per_second), floor: rate(self.limits.megabytes_per_second_busy) };
        let (target, ground, connections) = (self.target.clone(), self.ground.clone(), usize::from(self.limits.connections));
        let opening = background.handle().spawn(async move {
            let keeper = match from {
                None => keeper::of_leader(&target).await?,
                Some(from) => keeper::of_follower(&target, from, &ground).await?,
            };
            Session::open(&target, node, connections, Throttle::new(limits), keeper).await
        });
        let session = opening.await.map_err(io::Error::other)??;
        let (tables, bytes) = (session.plan.tables.len(), session.plan.tables.iter().map(|table| table.bytes).sum::<u64>());
        tracing::info!(%node, tables, bytes, role = %self.ground.role(), "fills a node");
        Ok(Running { session: Arc::new(session), background })
    }

    fn stream<F>(&self, query: &str, work: impl FnOnce(Arc<Session>, mpsc::Sender<Chunk>) -> F) -> Response<Body>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let Some(running) = self.numbered(query) else { return over() };
        let Some(permit) = running.session.stream() else {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "this filling has all the streams that it may have", None);
        };
        let (send, receive) = mpsc::channel(CHUNKS_MAX);
        let work = work(running.session.clone(), send.clone());
        running.background.spawn(async move {
            let _permit = permit;
            if let Err(error) = work.await {
                tracing::warn!(%error, "a stream of a filling broke off");
                // Where nobody takes it, it is broken already.
                drop(tokio::time::timeout(CHUNK_TIMEOUT, send.send(Err(io::Error::other(error.to_string())))).await);
            }
        });
        let chunks = stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?.map(Frame::data), receive)) });
        Response::new(StreamBody::new(chunks).boxed_unsync())
    }

    async fn end_when_idle(self, id: u64) {
        while self.running().is_some_and(|running| running.session.plan.id == id) {
            tokio::time::sleep(LOOK_EVERY).await;
            self.end(|running| running.session.is_idle(Instant::now()));
        }
    }

    fn end(&self, which: impl FnOnce(&Running) -> bool) {
        let ended = self.lock().take_if(|running| which(running));
        if let Some(running) = ended {
            tracing::info!(node = %running.session.node, "the filling of a node is over");
        }
    }

    /// The filling that is asked for, if it is not over.
    fn numbered(&self, query: &str) -> Option<Running> {
        self.running().filter(|running| number(query, "id") == Some(running.session.plan.id))
    }

    fn running(&self) -> Option<Running> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn over() -> Response<Body> {
    problem(StatusCode::GONE, "this filling is over", Some("begin anew"))
}

fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn number(query: &str, name: &str) -> Option<u64> {
    value(query, name)?.parse().ok()
}
