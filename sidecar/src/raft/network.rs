//! The sending side of the RPCs, as openraft calls it.

use super::link::{Down, PeerLinks, Purpose, full};
use super::notice;
use super::server::messages::{SnapshotResponse, TransferRequest, TransferResponse, VoteRequest, VoteResponse};
use super::server::{Body, BoxError, HELLO, Identity, SnapshotHead, encode_snapshot, next_frame};
use super::types::{Address, AppendRequest, AppendResult, Snapshot, TypeConfig, Vote};
use super::wire::{FrameReader, WIRE_VERSION, decode_answer, encode_append};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, future, stream};
use howdah_protocol::admin::Problem;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::{OptionalSend, raft};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

type RpcError = RPCError<TypeConfig>;

/// Answers of unary calls are votes and the like.
const ANSWER_LEN_MAX: usize = 64 << 10;
/// A peer that was unreachable is tried again after this; the links connect on their own meanwhile.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// Opening an append stream may take this long. openraft's own limit, a heartbeat, is too tight for a busy machine.
const OPEN_WAIT_MAX: Duration = Duration::from_millis(1000);
/// A peer that is down fails quickly, one that is just coming back does not.
const RECONNECT_WAIT_MAX: Duration = Duration::from_millis(50);
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(10);

/// All peers that were ever asked for.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    identity: Identity,
    down: mpsc::Sender<Down>,
    peers: Arc<Mutex<BTreeMap<u64, Arc<PeerLinks>>>>,
}

impl Network {
    pub(crate) fn new(identity: Identity, down: mpsc::Sender<Down>) -> Self {
        Self { identity, down, peers: Arc::default() }
    }

    /// The links to a peer: opened at the first call, and again where its address has changed.
    pub(crate) fn links(&self, node: u64, addr: &str) -> Arc<PeerLinks> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        match peers.get(&node) {
            Some(links) if links.addr == addr => links.clone(),
            _ => {
                let links = PeerLinks::new(node, addr.to_owned(), self.down.clone());
                peers.insert(node, links.clone());
                links
            }
        }
    }

    pub(crate) fn client(&self, node: u64, addr: &str, purpose: Purpose) -> Client {
        Client { identity: self.identity.clone(), links: self.links(node, addr), purpose }
    }

    /// Closes every connection.
    pub(crate) fn close(&self) {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Address) -> Client {
        self.client(target, &node.admin, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Address) -> Client {
        self.client(target, &node.admin, Purpose::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Address) -> Client {
        self.client(target, &node.admin, Purpose::Append)
    }
}

/// One peer, as seen from this node.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    identity: Identity,
    links: Arc<PeerLinks>,
    /// Where appends go. Everything else goes over the control connection.
    purpose: Purpose,
}

impl Client {
    async fn send(&self, purpose: Purpose, call: &str, body: Body, wait: Duration) -> Result<Response<Incoming>, RpcError> {
        let response = self.exchange(purpose, call, body, [wait.min(RECONNECT_WAIT_MAX), wait]).await?;
        if response.status() == StatusCode::OK {
            self.identity.check_answer(response.headers(), self.links.node).map_err(unreachable)?;
            return Ok(response);
        }
        let status = response.status();
        let why = problem(response, wait).await;
        if status == StatusCode::CONFLICT {
            self.identity.roster.refuse(&format!("node {} says: {why}", self.links.node));
        }
        Err(unreachable(format!("node {} answered {call} with {status}: {why}", self.links.node)))
    }

    /// Asks the peer whether it would take this node in: why not, where it says so. It notes nothing, and one that is silent says nothing.
    pub(crate) async fn greet(&self, wait: Duration) -> Option<String> {
        let response = self.exchange(Purpose::Control, HELLO, full("null"), [wait, wait]).await.ok()?;
        match response.status() {
            StatusCode::FORBIDDEN | StatusCode::CONFLICT => Some(problem(response, wait).await),
            _ => None,
        }
    }

    /// Sends a request, and takes whatever comes back. `waits`: for a connection, and for the answer.
    async fn exchange(&self, purpose: Purpose, call: &str, body: Body, waits: [Duration; 2]) -> Result<Response<Incoming>, RpcError> {
        let [connection, wait] = waits;
        let Some(mut sender) = self.links.link(purpose).sender(connection).await else {
            return Err(unreachable(format!("no connection to node {}", self.links.node)));
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        let uri = format!("http://{}/raft/{WIRE_VERSION}/{call}", self.links.addr);
        *request.uri_mut() = uri.parse().map_err(|error| unreachable(format!("{uri}: {error}")))?;
        *request.headers_mut() = self.identity.request_headers(self.links.node);
        timeout(wait, sender.send_request(request)).await.map_err(|_| late(call, wait))?.map_err(network)
    }

    /// A small call and its answer, over the control connection.
    pub(crate) async fn call<Q: Serialize, A: DeserializeOwned>(&self, call: &str, query: &Q, wait: Duration) -> Result<A, RpcError> {
        let body = serde_json::to_vec(query).map_err(|error| unreachable(error.to_string()))?;
        self.call_bytes(call, body.into(), wait).await
    }

    async fn call_bytes<A: DeserializeOwned>(&self, call: &str, body: Bytes, wait: Duration) -> Result<A, RpcError> {
        let response = self.send(Purpose::Control, call, full(body), wait).await?;
        let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect();
        let body = timeout(wait, body).await.map_err(|_| late(call, wait))?.map_err(|error| network_text(error.to_string()))?;
        serde_json::from_slice(&body.to_bytes()).map_err(network)
    }

    async fn open_stream<S>(self, input: S) -> Result<BoxStream<'static, Result<AppendResult, RpcError>>, RpcError>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        // openraft's request stream holds a lock that the next stream needs. The transport drops it when it is cancelled here, also
        // while it is waiting for something to send.
        let (cancel, cancelled) = oneshot::channel::<()>();
        let complete = Arc::new(AtomicBool::new(false));
        let body = request_body(input, cancelled, complete.clone());
        let response = self.send(self.purpose, "append", body, OPEN_WAIT_MAX).await?;
        let answers = Answers { body: response.into_body(), reader: FrameReader::default(), complete, _cancel: cancel };
        Ok(Box::pin(stream::unfold(Some(answers), Answers::next)))
    }
}

/// What a refusal says.
async fn problem(response: Response<Incoming>, wait: Duration) -> String {
    let body = timeout(wait, Limited::new(response.into_body(), ANSWER_LEN_MAX).collect()).await;
    let text = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let problem = serde_json::from_slice::<Problem>(&text);
    problem.map_or_else(|_| String::from_utf8_lossy(&text).into_owned(), |problem| problem.error)
}

fn request_body<S>(input: S, cancelled: oneshot::Receiver<()>, complete: Arc<AtomicBool>) -> Body
where
    S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
{
    let end = stream::once(async move {
        complete.store(true, Ordering::Release);
        None
    });
    let frames = notice::merge(input)
        .map(|request| Some(encode_append(&request)))
        .chain(end)
        .take_until(cancelled)
        .filter_map(|frame| future::ready(frame.map(|frame| frame.map(Frame::data).map_err(BoxError::from))));
    StreamBody::new(frames).boxed_unsync()
}

/// Answers to the frames of one append stream. Dropping it ends the request stream too.
struct Answers {
    body: Incoming,
    reader: FrameReader,
    /// All requests went out, so the peer may end the stream.
    complete: Arc<AtomicBool>,
    _cancel: oneshot::Sender<()>,
}

impl Answers {
    async fn next(state: Option<Self>) -> Option<(Result<AppendResult, RpcError>, Option<Self>)> {
        let mut this = state?;
        match next_frame(&mut this.body, &mut this.reader).await {
            Ok(Some(frame)) => match decode_answer(frame) {
                Ok(answer) => Some((Ok(answer), Some(this))),
                Err(error) => Some((Err(network(error)), None)),
            },
            Ok(None) if this.complete.load(Ordering::Acquire) => None,
            Ok(None) => Some((Err(network_text("the peer ended the append stream")), None)),
            Err(error) => Some((Err(network(error)), None)),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Bytes;

    async fn append_entries(&mut self, rpc: AppendRequest, option: RPCOption) -> Result<raft::AppendEntriesResponse<TypeConfig>, RpcError> {
        let wait = option.hard_ttl();
        let once = async {
            let mut answers = self.clone().open_stream(stream::iter([rpc])).await?;
            answers.next().await.unwrap_or_else(|| Err(network_text("the append was not answered")))
        };
        timeout(wait, once).await.map_err(|_| late("append", wait))?.map(Into::into)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        self.clone().open_stream(input).map(|opened| opened.map(|answers| answers as BoxStream<'s, _>)).boxed()
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        // Until the hard limit: the answer waits for an fsync of the peer.
        self.call("vote", &rpc, option.hard_ttl()).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        self.call("pre-vote", &rpc, option.soft_ttl()).await
    }

    async fn transfer_leader(&mut self, request: TransferRequest, option: RPCOption) -> Result<TransferResponse, RpcError> {
        // The target answers once its log is on disk, which openraft gives it an election time-out for.
        self.call("transfer-leader", &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let head = SnapshotHead { vote, meta: snapshot.meta };
        let body = encode_snapshot(&head, &snapshot.snapshot).map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        tokio::select! {
            answer = self.call_bytes("snapshot", body, SNAPSHOT_WAIT_MAX) => Ok(answer?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let waits = std::iter::successors(Some(BACKOFF_MIN), |wait| Some((*wait * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(waits))
    }
}

fn unreachable(text: String) -> RpcError {
    Unreachable::from_string(text).into()
}

fn network<E: std::error::Error + 'static>(error: E) -> RpcError {
    NetworkError::new(&error).into()
}

fn network_text(text: impl ToString) -> RpcError {
    NetworkError::from_string(text).into()
}

fn late(call: &str, wait: Duration) -> RpcError {
    network_text(format!("{call}: no answer in {wait:?}"))
}
