//! The receiving side of the RPCs: requests below `/raft/v1/` on the listener that also serves the admin API.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `POST append` | a stream of append frames | a stream of answer frames, in order |
//! | `POST vote`, `pre-vote`, `transfer-leader` | JSON | JSON |
//! | `POST snapshot` | length and JSON of the vote and the position, then the snapshot's bytes | JSON |
//! | `POST suspect` | JSON `Suspect` | JSON `Testimony` |
//! | `POST hello` | `null` | `null`: this node would take the sender in; nothing is noted |
//! | `POST meet` | JSON `Known` | JSON `Known`: the logs that each of the two knows |
//! | `POST fit` | `null` | how well this node can soon lead |
//!
//! Every request names cluster, group, sender, receiver, both's logs and the secret in its headers; every answer names its node and log. A node
//! of another cluster, or one that was given a wrong address (403), or with another log than it had (409, 410), is told so and not believed.

use super::fitness::Fitness;
use super::link::{CONNECTION_WINDOW_LEN, H2_FRAME_LEN_MAX, STREAM_WINDOW_LEN, full};
use super::roster::{Distrust, Incarnation, Roster};
use super::snapshot::SNAPSHOT_LEN_MAX;
use super::types::{AppendRequest, Raft, Snapshot, SnapshotMeta, TypeConfig, Vote};
use super::vigil::{Suspect, Vigil};
use super::wire::{FrameReader, WIRE_VERSION, decode_append, encode_answer};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use howdah_protocol::admin::Problem;
use howdah_protocol::{GroupId, NodeId};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Body of requests and answers between the nodes.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// JSON bodies are votes and the like.
const JSON_LEN_MAX: usize = 64 << 10;
const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// A leader sends a heartbeat many times in this time, on another stream; an append stream may be idle for as long as nobody writes.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(2);
const H2_STREAMS_MAX: u32 = 256;

pub(crate) const HELLO: &str = "hello";

const CLUSTER: HeaderName = HeaderName::from_static("howdah-cluster");
const GROUP: HeaderName = HeaderName::from_static("howdah-group");
const FROM: HeaderName = HeaderName::from_static("howdah-from");
const TO: HeaderName = HeaderName::from_static("howdah-to");
/// The sender's log.
const LOG: HeaderName = HeaderName::from_static("howdah-log");
/// The log that the sender knows the receiver by, if it does.
const TO_LOG: HeaderName = HeaderName::from_static("howdah-to-log");
const SECRET: HeaderName = HeaderName::from_static("howdah-secret");

/// When a cut connection comes back, all calls that were given up meanwhile arrive at once. With the default of 20 that would end it again.
const H2_RESETS_MAX: usize = 1024;

/// Settings that the append streams need of the listener's HTTP/2. The listener should also set `TCP_NODELAY` on what it accepts.
pub fn configure_http(builder: &mut auto::Builder<TokioExecutor>) {
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_LEN)
        .initial_connection_window_size(CONNECTION_WINDOW_LEN)
        .max_frame_size(H2_FRAME_LEN_MAX)
        .max_send_buf_size(STREAM_WINDOW_LEN as usize)
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_MAX)
        .keep_alive_interval(H2_KEEP_ALIVE)
        .keep_alive_timeout(H2_KEEP_ALIVE);
}

/// Who this node is to its peers, and what proves it.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) secret: String,
    pub(crate) roster: Roster,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} of group {} of cluster {:?}", self.node, self.group, self.cluster)
    }
}

impl Identity {
    /// Headers of a request to `to`.
    pub(crate) fn request_headers(&self, to: u64) -> HeaderMap {
        let mut headers = self.answer_headers();
        headers.insert(TO, to.into());
        headers.insert(SECRET, text(&self.secret));
        if let Some(log) = self.roster.of(to) {
            headers.insert(TO_LOG, log.0.into());
        }
        headers
    }

    fn answer_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CLUSTER, text(&self.cluster));
        headers.insert(GROUP, self.group.0.into());
        headers.insert(FROM, self.node.0.into());
        headers.insert(LOG, self.roster.own().0.into());
        headers
    }

    /// `greets`: a node that has no log yet only asks.
    fn check_request(&self, headers: &HeaderMap, greets: bool) -> Result<(), Refusal> {
        let stranger = |error| Refusal(StatusCode::FORBIDDEN, error);
        if !same_secret(headers.get(SECRET).map_or(b"", HeaderValue::as_bytes), self.secret.as_bytes()) {
            return Err(stranger("the cluster secret does not match".into()));
        }
        self.expect(headers, &CLUSTER, &self.cluster).map_err(stranger)?;
        self.expect(headers, &GROUP, &self.group.to_string()).map_err(stranger)?;
        self.expect(headers, &TO, &self.node.to_string()).map_err(stranger)?;
        if headers.contains_key(TO_LOG) && number(headers, &TO_LOG).map_err(stranger)? != self.roster.own().0 {
            let gone = Distrust::OtherLog { node: self.node }.to_string();
            self.roster.refuse(&gone);
            return Err(Refusal(StatusCode::GONE, gone));
        }
        let (from, log) = (number(headers, &FROM).map_err(stranger)?, number(headers, &LOG).map_err(stranger)?);
        let believed = if greets { self.roster.look(from, Incarnation(log)) } else { self.roster.admit(from, Incarnation(log)) };
        believed.map_err(|error| Refusal(StatusCode::CONFLICT, error.to_string()))
    }

    /// What answered is the node that was meant.
    pub(crate) fn check_answer(&self, headers: &HeaderMap, from: u64) -> Result<(), String> {
        self.expect(headers, &CLUSTER, &self.cluster)?;
        self.expect(headers, &GROUP, &self.group.to_string())?;
        self.expect(headers, &FROM, &from.to_string())?;
        self.roster.admit(from, Incarnation(number(headers, &LOG)?)).map_err(|error| error.to_string())
    }

    fn expect(&self, headers: &HeaderMap, name: &HeaderName, expected: &str) -> Result<(), String> {
        let found = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        if found == expected { Ok(()) } else { Err(format!("{name} is \"{found}\", expected \"{expected}\" ({self:?})")) }
    }
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("Options::check admits only printable ASCII")
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<u64, String> {
    let found = headers.get(name).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    found.ok_or_else(|| format!("{name} is missing or no number"))
}

/// Takes the same time wherever the difference is.
fn same_secret(found: &[u8], expected: &[u8]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Serves the RPCs of one node.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) identity: Identity,
    pub(crate) raft: Raft,
    pub(crate) vigil: Arc<Vigil>,
    pub(crate) fitness: Fitness,
}

/// An answer that is not 200.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl Server {
    pub(crate) async fn serve(&self, request: Request<Incoming>) -> Response<Body> {
        let mut response = match self.dispatch(request).await {
            Ok(body) => Response::new(body),
            Err(Refusal(status, error)) => {
                let problem = Problem { error, hint: None };
                let body = serde_json::to_vec(&problem).expect("a Problem is strings");
                let mut response = Response::new(full(body));
                *response.status_mut() = status;
                response
            }
        };
        response.headers_mut().extend(self.identity.answer_headers());
        response
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Result<Body, Refusal> {
        let path = request.uri().path().strip_prefix("/raft/").and_then(|rest| rest.strip_prefix(WIRE_VERSION)).unwrap_or("").to_owned();
        let greets = path.strip_prefix('/') == Some(HELLO);
        if let Err(refusal) = self.identity.check_request(request.headers(), greets) {
            tracing::warn!(error = refusal.1, "refused a request of another node");
            return Err(refusal);
        }
        if greets {
            return json(Ok::<_, io::Error>(()));
        }
        if request.method() != Method::POST {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "only POST".into()));
        }
        match path.as_str() {
            "/append" => Ok(self.append(request.into_body())),
            "/vote" => json(self.raft.vote(body_json(request).await?).await),
            "/pre-vote" => json(self.raft.pre_vote(body_json(request).await?).await),
            "/transfer-leader" => json(self.raft.handle_transfer_leader(body_json(request).await?).await),
            "/suspect" => {
                let suspect: Suspect = body_json(request).await?;
                json(Ok::<_, io::Error>(self.vigil.testify(suspect).await))
            }
            "/meet" => {
                self.identity.roster.learn(&body_json(request).await?)?;
                json(Ok::<_, io::Error>(self.identity.roster.known()))
            }
            "/fit" => json(Ok::<_, io::Error>(self.fitness.fit())),
            "/snapshot" => {
                let (head, snapshot) = decode_snapshot(body_bytes(request, SNAPSHOT_LEN_MAX + JSON_LEN_MAX).await?)?;
                let snapshot = Snapshot { meta: head.meta, snapshot };
                json(self.raft.install_full_snapshot(head.vote, snapshot).await)
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, format!("no such call; this node speaks {WIRE_VERSION}"))),
        }
    }

    /// The answer's headers go out at once; frames are answered as openraft takes them, in order, many at a time.
    fn append(&self, body: Incoming) -> Body {
        let answers = self.raft.stream_append(append_requests(body));
        let frames = answers.map(|answer| match answer {
            Ok(answer) => encode_answer(&answer).map(Frame::data).map_err(BoxError::from),
            Err(fatal) => Err(BoxError::from(fatal.to_string())),
        });
        StreamBody::new(frames).boxed_unsync()
    }
}

/// Ends at the first frame that is not whole and sound. Whoever sent it sees the stream end without an answer, and starts again.
fn append_requests(body: Incoming) -> impl Stream<Item = AppendRequest> + Send {
    stream::unfold((body, FrameReader::default()), |(mut body, mut reader)| async move {
        match next_frame(&mut body, &mut reader).await.and_then(|frame| frame.map(decode_append).transpose()) {
            Ok(request) => request.map(|request| (request, (body, reader))),
            Err(error) => {
                tracing::debug!(%error, "an append stream was cut");
                None
            }
        }
    })
}

/// The next frame of a body; `None` where it ends between two frames.
pub(crate) async fn next_frame(body: &mut Incoming, reader: &mut FrameReader) -> io::Result<Option<Bytes>> {
    loop {
        if let Some(frame) = reader.next()? {
            return Ok(Some(frame));
        }
        let Some(piece) = body.frame().await else { return Ok(None) };
        let piece = piece.map_err(io::Error::other)?;
        if let Some(data) = piece.data_ref() {
            reader.push(data);
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotHead {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
}

pub(crate) fn encode_snapshot(head: &SnapshotHead, snapshot: &[u8]) -> io::Result<Bytes> {
    let head = serde_json::to_vec(head)?;
    let mut out = BytesMut::with_capacity(4 + head.len() + snapshot.len());
    out.put_u32(u32::try_from(head.len()).map_err(io::Error::other)?);
    out.put_slice(&head);
    out.put_slice(snapshot);
    Ok(out.freeze())
}

fn decode_snapshot(mut bytes: Bytes) -> io::Result<(SnapshotHead, Bytes)> {
    let short = || super::codec::invalid("a snapshot ends before its content does");
    let len = bytes.try_get_u32().map_err(|_| short())? as usize;
    if bytes.len() < len {
        return Err(short());
    }
    let head = serde_json::from_slice(&bytes.split_to(len))?;
    Ok((head, bytes))
}

async fn body_bytes(request: Request<Incoming>, len_max: usize) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), len_max).collect();
    let late = |_| Refusal(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".into());
    let collected = timeout(BODY_WAIT_MAX, body).await.map_err(late)?;
    Ok(collected.map_err(|error| Refusal(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?.to_bytes())
}

async fn body_json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let bytes = body_bytes(request, JSON_LEN_MAX).await?;
    Ok(serde_json::from_slice(&bytes).map_err(io::Error::from)?)
}

fn json<T: Serialize, E: std::fmt::Display>(result: Result<T, E>) -> Result<Body, Refusal> {
    let value = result.map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(full(serde_json::to_vec(&value).map_err(io::Error::from)?))
}

/// Everything that travels as JSON.
pub(crate) mod messages {
    use super::TypeConfig;

    pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
    pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
    pub(crate) type TransferRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
    pub(crate) type TransferResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
    pub(crate) type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;
}
