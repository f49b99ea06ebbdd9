//! A line of proposals in one term, in order, many in flight.
//!
//! The order of calls is the order in the log, and nothing behind a refused proposal gets in. openraft alone does not promise that: it
//! can refuse one write because its lease has just run out, and take the next one because a heartbeat came back in between. So
//! proposals go to it in batches that it takes or refuses as a whole, and the next batch goes only when the one before was taken:
//! a question about the state, put into the same queue behind the batch, is answered after the batch was looked at. Being *taken* costs
//! microseconds; being *decided* is what many batches wait for at the same time.
//!
//! A batch that was refused for a reason that passes in the same term is offered again. A batch that openraft takes in a later term is
//! void by its own content (`types::Proposal`).

use super::error::ProposeError;
use super::types::{Fatal, Proposal, Raft, TypeConfig};
use crate::core::entry::ENTRY_BYTES_HARD_MAX;
use bytes::Bytes;
use futures::stream::{BoxStream, Fuse, FuturesOrdered};
use futures::{FutureExt, StreamExt};
use howdah_protocol::{LogIndex, NodeId, Term};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::WriteResult;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// One batch is one append to the disk and, roughly, one frame.
const BATCH_LEN_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// A refusal that passes by itself is tried again this often, and for this long.
const RETRY_WAIT: Duration = Duration::from_millis(5);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

type Answer = Result<LogIndex, ProposeError>;
/// Fused: openraft's stream ends early, once, when openraft stops.
type Results = Fuse<BoxStream<'static, Result<WriteResult<TypeConfig>, Fatal>>>;

struct Waiting {
    bytes: Bytes,
    answer: oneshot::Sender<Answer>,
}

/// Proposals wait here until they are decided, so this is what is bounded.
#[derive(Debug)]
struct Room {
    used: AtomicUsize,
    bytes_max: usize,
}

impl Room {
    fn free(&self, len: usize) {
        self.used.fetch_sub(len, Ordering::Relaxed);
    }
}

/// One line. Made for one term by `Handle::proposer`; dropping it lets what is in flight come to its end.
#[derive(Debug)]
pub struct Proposer {
    term: Term,
    /// `None` once something was refused here.
    line: std::sync::Mutex<Option<mpsc::UnboundedSender<Waiting>>>,
    room: Arc<Room>,
}

impl Proposer {
    pub(crate) fn start(raft: Raft, term: Term, bytes_max: usize) -> Self {
        let (line, queue) = mpsc::unbounded_channel();
        let room = Arc::new(Room { used: AtomicUsize::new(0), bytes_max });
        let work = Work { raft, term, room: room.clone(), stopped: None };
        tokio::spawn(work.run(queue));
        Self { term, line: std::sync::Mutex::new(Some(line)), room }
    }

    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Takes its place in the line before it returns; the future says what became of it. It may be dropped: the proposal stays.
    /// An error ends the line, the one for too much in flight too.
    pub fn propose(&self, bytes: Bytes) -> impl Future<Output = Result<LogIndex, ProposeError>> + Send + 'static + use<> {
        let taken = self.enqueue(bytes);
        async move {
            match taken {
                Ok(answer) => answer.await.unwrap_or_else(|_| Err(ProposeError::Unknown("the log has stopped".into()))),
                Err(error) => Err(error),
            }
        }
    }

    fn enqueue(&self, bytes: Bytes) -> Result<oneshot::Receiver<Answer>, ProposeError> {
        let mut line = self.line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(open) = line.as_ref() else { return Err(ProposeError::LineStopped) };
        let (len, in_flight) = (bytes.len(), self.room.used.load(Ordering::Relaxed));
        let refusal = if len > ENTRY_BYTES_HARD_MAX {
            Some(ProposeError::TooLarge { len, max: ENTRY_BYTES_HARD_MAX })
        } else if in_flight > 0 && in_flight + len > self.room.bytes_max {
            Some(ProposeError::Full { in_flight, max: self.room.bytes_max })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            *line = None;
            return Err(refusal);
        }
        self.room.used.fetch_add(len, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        if open.send(Waiting { bytes, answer }).is_err() {
            self.room.free(len);
            *line = None;
            return Err(ProposeError::LineStopped);
        }
        Ok(answered)
    }
}

/// The task behind a line.
struct Work {
    raft: Raft,
    term: Term,
    room: Arc<Room>,
    /// The first refusal: all that comes after it gets it too.
    stopped: Option<ProposeError>,
}

/// A batch that openraft has taken.
struct InFlight {
    waiting: VecDeque<Waiting>,
    results: Results,
}

impl Work {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Waiting>) {
        let mut in_flight = FuturesOrdered::new();
        let mut batch = Vec::new();
        let mut open = true;
        while open || !in_flight.is_empty() {
            tokio::select! {
                received = receive(&mut queue, &mut batch), if open => {
                    open = received;
                    if let Some(taken) = self.offer(std::mem::take(&mut batch)).await {
                        let (term, room) = (self.term, self.room.clone());
                        in_flight.push_back(taken.finish(term, room));
                    }
                }
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            }
        }
    }

    /// Offers a batch until openraft takes it or refuses it for good.
    async fn offer(&mut self, batch: Vec<Waiting>) -> Option<InFlight> {
        if batch.is_empty() {
            return None;
        }
        if self.stopped.is_some() {
            self.refuse(batch, ProposeError::LineStopped);
            return None;
        }
        let deadline = Instant::now() + RETRY_WAIT_MAX;
        let refusal = loop {
            if let Some(refusal) = self.term_is_over() {
                break refusal;
            }
            match self.attempt(&batch).await {
                Ok(Ok(results)) => return Some(InFlight { waiting: batch.into(), results }),
                Ok(Err(forward)) if forward.reason == ForwardReason::NotLeader || Instant::now() > deadline => {
                    break ProposeError::NotLeader { term: self.term, leader: forward.leader_id.map(NodeId) };
                }
                Ok(Err(_)) => sleep(RETRY_WAIT).await,
                Err(fatal) => break ProposeError::Unknown(fatal.to_string()),
            }
        };
        tracing::debug!(term = %self.term, %refusal, "a line of proposals has stopped");
        self.refuse(batch, refusal);
        None
    }

    fn term_is_over(&self) -> Option<ProposeError> {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let over = server.vote.leader_id.term > self.term.0;
        over.then(|| ProposeError::NotLeader { term: self.term, leader: server.current_leader.map(NodeId) })
    }

    /// `Ok(Err)` where openraft refused the whole batch.
    async fn attempt(&self, batch: &[Waiting]) -> Result<Result<Results, ForwardToLeader<TypeConfig>>, Fatal> {
        let proposals = batch.iter().map(|waiting| Proposal { term: self.term.0, bytes: waiting.bytes.clone() });
        let mut results = self.raft.client_write_many(proposals.collect::<Vec<_>>()).await?;
        self.raft.with_raft_state(|_| ()).await?;
        // A refusal has been delivered by now. Anything else belongs to the stream again.
        match results.next().now_or_never() {
            Some(Some(Ok(Err(ClientWriteError::ForwardToLeader(forward))))) => Ok(Err(forward)),
            Some(first) => Ok(Ok(futures::stream::iter(first).chain(results).boxed().fuse())),
            None => Ok(Ok(results.fuse())),
        }
    }

    fn refuse(&mut self, batch: Vec<Waiting>, error: ProposeError) {
        for waiting in batch {
            self.room.free(waiting.bytes.len());
            // Nobody listens where the caller did not want to know.
            drop(waiting.answer.send(Err(error.clone())));
        }
        self.stopped.get_or_insert(error);
    }
}

/// Waits for one proposal and takes what is queued behind it, up to the bounds of a batch. `false` when the line was dropped.
async fn receive(queue: &mut mpsc::UnboundedReceiver<Waiting>, batch: &mut Vec<Waiting>) -> bool {
    let Some(first) = queue.recv().await else { return false };
    let mut bytes = first.bytes.len();
    batch.push(first);
    while batch.len() < BATCH_LEN_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.bytes.len();
        batch.push(next);
    }
    true
}

impl InFlight {
    async fn finish(mut self, term: Term, room: Arc<Room>) {
        while let Some(waiting) = self.waiting.pop_front() {
            let answer = match self.results.next().await {
                Some(Ok(Ok(written))) if written.response.counted => Ok(LogIndex(written.log_id.index)),
                Some(Ok(Ok(_))) => Err(ProposeError::NotLeader { term, leader: None }),
                Some(Ok(Err(error))) => Err(ProposeError::Unknown(error.to_string())),
                Some(Err(fatal)) => Err(ProposeError::Unknown(fatal.to_string())),
                None => Err(ProposeError::Unknown("the log has stopped".into())),
            };
            room.free(waiting.bytes.len());
            drop(waiting.answer.send(answer));
        }
    }
}
