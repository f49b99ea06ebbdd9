//! Questions to sidecars about positions: what the group has committed, what a node may have shown.
//!
//! All sessions that wait share one question. An answer is given only to those who asked before the question was sent: it must cover
//! what they wrote.

use super::Routes;
use super::http::Client;
use crate::clock;
use crate::metrics::Metrics;
use howdah_protocol::admin::{Committed, NodeStatus};
use howdah_protocol::{LogIndex, NodeId};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Sessions that wait for an answer at one time.
const QUEUE_MAX: usize = 16 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Positions {
    questions: mpsc::Sender<oneshot::Sender<Option<Committed>>>,
}

impl Positions {
    /// Starts the task that asks.
    pub(crate) fn start(routes: Routes, metrics: Arc<Metrics>) -> Self {
        let (questions, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(ask(routes, metrics, receiver));
        Self { questions }
    }

    /// The leader's committed index, asked for after this call began; `None` where there is no leader to answer.
    pub(crate) async fn committed(&self) -> Option<Committed> {
        let (answer, receiver) = oneshot::channel();
        self.questions.try_send(answer).ok()?;
        receiver.await.ok()?
    }

    /// An upper bound of what this node has shown to anybody until now, asked for after this call began.
    ///
    /// Its committed index, not its applied one: a batch is visible a moment before the applied index says so.
    pub(crate) async fn shown_by(&self, routes: &mut Routes, node: NodeId) -> Option<LogIndex> {
        let address = routes.view().node(node)?.status.admin_address.clone();
        let status: NodeStatus = Client::default().get(&address, "/v1/status").await.ok()?;
        (status.id == node).then(|| status.committed_index.max(status.applied_index))
    }
}

async fn ask(mut routes: Routes, metrics: Arc<Metrics>, mut questions: mpsc::Receiver<oneshot::Sender<Option<Committed>>>) {
    let mut client = Client::default();
    let mut waiting = Vec::new();
    while questions.recv_many(&mut waiting, QUEUE_MAX).await > 0 {
        metrics.committed_questions_total.add(1);
        let leader = routes.view().leader(clock::now()).map(|node| node.status.admin_address.clone());
        let answer = match leader {
            Some(address) => client.get::<Committed>(&address, "/v1/committed").await,
            None => {
                answer_all(&mut waiting, None);
                continue;
            }
        };
        if let Err(error) = &answer {
            tracing::debug!(%error, "no committed index");
        }
        answer_all(&mut waiting, answer.ok());
    }
}

fn answer_all(waiting: &mut Vec<oneshot::Sender<Option<Committed>>>, answer: Option<Committed>) {
    for one in waiting.drain(..) {
        // A session that went away does not wait.
        let _ = one.send(answer);
    }
}
