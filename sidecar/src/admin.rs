//! The HTTP side of a sidecar: status, its stream, metrics, health, and what peers and operators ask for.
//!
//! Answers come from published values. What has to be done goes to the role manager as a command with a place for the answer.

use crate::raft;
use crate::repair;
use crate::seed;
use crate::status::Board;
use crate::verify;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use howdah_protocol::admin::{Checksums, ClusterStatus, Committed, GroupStatus, NodeStatus, Problem, Switchover, SwitchoverRequest};
use howdah_protocol::{GroupId, LogIndex};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

pub mod client;
mod listener;
mod members;
pub mod metrics;
pub mod outcome;

pub use listener::serve;

/// Peers and operators show the cluster's secret in this header.
pub const SECRET_HEADER: &str = "x-howdah-secret";
const REQUEST_BYTES_MAX: usize = 1 << 16;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
const CHECKSUM_WAIT: Duration = Duration::from_secs(10);
/// A stream says something at least this often, so that its reader can tell silence from death.
const STREAM_PULSE: Duration = Duration::from_secs(1);
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What the role manager is asked to do.
#[derive(Debug)]
pub enum Command {
    Switchover { request: SwitchoverRequest, answer: oneshot::Sender<Result<Switchover, Problem>> },
}

/// Everything a request may need.
#[derive(Debug, Clone)]
pub struct Admin {
    pub board: Board,
    pub status: watch::Receiver<NodeStatus>,
    pub group: GroupId,
    pub secret: Arc<str>,
    pub raft: raft::Handle,
    pub commands: mpsc::Sender<Command>,
    pub seed: seed::Source,
    pub asker: outcome::Asker,
    pub repair: repair::Source,
    pub attendant: verify::Attendant,
    pub verifier: verify::Verifier,
    pub metrics: metrics::Metrics,
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path.starts_with("/raft/") {
            return self.raft.serve(request).await.map(|body| body.map_err(std::io::Error::other).boxed_unsync());
        }
        let public = matches!(
            path.as_str(),
            "/healthz"
                | "/readyz"
                | "/metrics"
                | "/v1/status"
                | "/v1/status/stream"
                | "/v1/cluster"
                | "/v1/committed"
                | "/v1/lease"
                | "/v1/outcome"
                | "/v1/members"
        );
        if !public && request.headers().get(SECRET_HEADER).is_none_or(|shown| shown.as_bytes() != self.secret.as_bytes()) {
            return problem(
                StatusCode::UNAUTHORIZED,
                "the cluster's secret is missing or wrong",
                Some("send it in the header x-howdah-secret"),
            );
        }
        match (request.method(), path.as_str()) {
            (&Method::GET, "/healthz") => text("ok\n"),
            (&Method::GET, "/readyz") => self.ready(),
            (&Method::GET, "/metrics") => text(self.metrics.render(&self.status.borrow(), &self.board)),
            (&Method::GET, "/v1/status") => json(StatusCode::OK, &self.now()),
            (&Method::GET, "/v1/status/stream") => self.stream(),
            (&Method::GET, "/v1/cluster") => self.cluster().await,
            (&Method::GET, "/v1/members") => self.members(),
            (&Method::POST, "/v1/members/add") => self.add_member(request).await,
            (&Method::POST, "/v1/members/remove") => self.remove_member(request).await,
            (&Method::GET, "/v1/committed") => self.committed().await,
            (&Method::GET, "/v1/lease") => self.lease(),
            (&Method::GET, "/v1/outcome") => self.outcome(request.uri().query().unwrap_or_default()).await,
            (&Method::GET, "/v1/checksum") => self.checksum(request.uri().query().unwrap_or_default()).await,
            (method, path) if path == "/v1/seed" || path.starts_with("/v1/seed/") => {
                self.seed.answer(method, path, request.uri().query().unwrap_or_default()).await
            }
            (&Method::POST, repair::PATH) => {
                let role = self.status.borrow().role;
                self.repair.answer(role, request).await
            }
            (&Method::POST, verify::ATTEND_PATH) => self.attendant.answer(request).await,
            (&Method::POST, verify::PATH) => self.verifier.answer(request).await,
            (&Method::POST, "/v1/switchover") => self.switchover(request).await,
            _ => problem(StatusCode::NOT_FOUND, &format!("no such call: {} {path}", request.method()), None),
        }
    }

    /// Covers all that anybody has been shown or told by this node: what a proxy asks for when there is no leader to ask.
    fn now(&self) -> NodeStatus {
        let now = self.board.now();
        // Asked last: nothing is applied that is not decided.
        NodeStatus { committed_index: self.raft.decided().borrow().index, ..now }
    }

    fn ready(&self) -> Response<Body> {
        let status = self.now();
        if status.open {
            return text("open\n");
        }
        problem(StatusCode::SERVICE_UNAVAILABLE, &format!("{}: {}", status.role, status.detail), None)
    }

    fn stream(&self) -> Response<Body> {
        let lines: BoxStream<'static, _> = stream::unfold((self.status.clone(), true), |(mut status, first)| async move {
            if !first && tokio::time::timeout(STREAM_PULSE, status.changed()).await.is_ok_and(|changed| changed.is_err()) {
                return None;
            }
            let mut line = serde_json::to_vec(&*status.borrow_and_update()).expect("a status becomes JSON");
            line.push(b'\n');
            Some((Ok(Frame::data(Bytes::from(line))), (status, false)))
        })
        .boxed();
        let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/x-ndjson"));
        response
    }

    async fn cluster(&self) -> Response<Body> {
        let mine = self.now();
        let members = self.raft.members();
        let asked = members.iter().map(|member| &member.admin_addr).filter(|address| **address != mine.admin_address);
        let asked = asked.map(|address| async move {
            let call = client::get_json::<NodeStatus>(address, "/v1/status");
            tokio::time::timeout(PEER_TIMEOUT, call).await.ok().and_then(Result::ok)
        });
        let mut nodes: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        let leader = mine.leader;
        nodes.push(mine);
        nodes.sort_by_key(|node| node.id);
        json(StatusCode::OK, &ClusterStatus { groups: vec![GroupStatus { id: self.group, leader, nodes }] })
    }

    async fn committed(&self) -> Response<Body> {
        match self.raft.read_index().await {
            Ok(index) => json(StatusCode::OK, &Committed { group: self.group, index }),
            Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), Some("ask the leader")),
        }
    }

    async fn checksum(&self, query: &str) -> Response<Body> {
        let index = query.split('&').find_map(|pair| pair.strip_prefix("index=")).unwrap_or("0").parse().map(LogIndex);
        let Ok(index) = index else {
            return problem(StatusCode::BAD_REQUEST, "index is not a number", None);
        };
        let mut applied = self.board.applied.subscribe();
        let reached = tokio::time::timeout(CHECKSUM_WAIT, applied.wait_for(|now| *now >= index)).await;
        let Ok(Ok(index_before)) = reached.map(|reached| reached.map(|now| *now)) else {
            return problem(StatusCode::GATEWAY_TIMEOUT, &format!("index {index} is not applied here after {CHECKSUM_WAIT:?}"), None);
        };
        match crate::checksum::of_tables(&self.seed.target).await {
            Ok(tables) => {
                // Not the applied one: on a leader that says later what is visible already.
                let (node, index_after) = (self.status.borrow().id, self.raft.decided().borrow().index);
                json(StatusCode::OK, &Checksums { node, index_before, index_after, tables })
            }
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), None),
        }
    }

    async fn switchover(&self, request: Request<Incoming>) -> Response<Body> {
        let bytes = body_bytes(request).await;
        let parsed = if bytes.is_empty() { Ok(SwitchoverRequest::default()) } else { serde_json::from_slice(&bytes) };
        let Ok(request) = parsed else {
            return problem(StatusCode::BAD_REQUEST, "the body is not {\"to\": node}", None);
        };
        match self.hand_over(request).await {
            Ok(done) => json(StatusCode::OK, &done),
            Err(refused) => refused,
        }
    }

    /// Asks the role manager, which lets what is under way end first.
    async fn hand_over(&self, request: SwitchoverRequest) -> Result<Switchover, Response<Body>> {
        let (answer, answered) = oneshot::channel();
        if self.commands.try_send(Command::Switchover { request, answer }).is_err() {
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the node is busy with another command", Some("try again")));
        }
        match tokio::time::timeout(COMMAND_TIMEOUT, answered).await {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(refused))) => Err(json(StatusCode::CONFLICT, &refused)),
            _ => Err(problem(StatusCode::GATEWAY_TIMEOUT, "the node did not answer", None)),
        }
    }
}

/// Empty where it is too long or breaks off.
async fn body_bytes(request: Request<Incoming>) -> Bytes {
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

async fn body_json<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Option<T> {
    serde_json::from_slice(&body_bytes(request).await).ok()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn text(body: impl Into<Bytes>) -> Response<Body> {
    Response::new(full(body))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(full(serde_json::to_vec(value).expect("answers are plain structs, which become JSON")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn problem(status: StatusCode, error: &str, hint: Option<&str>) -> Response<Body> {
    json(status, &Problem { error: error.to_owned(), hint: hint.map(str::to_owned) })
}
