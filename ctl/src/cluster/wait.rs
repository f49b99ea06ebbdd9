//! Waiting for a state of the cluster, always with a deadline, and with what was seen instead in the error.

use super::{Cluster, Error, Observed, Process};
use crate::admin;
use howdah_protocol::admin::{NodeStatus, Role};
use howdah_protocol::{LogIndex, NodeId};
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

const POLL: Duration = Duration::from_millis(50);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

impl Cluster {
    /// Until a leader is open and a statement gets through the proxy. A process that ends meanwhile ends the wait.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(error) = self.any_ended() {
                return Err(error);
            }
            let observed = self.observe().await;
            let leads = observed.leader().is_some();
            if leads && admin::ready(&self.info.proxy_admin.to_string()).await && self.serves().await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = if leads { "a first answer from the proxy" } else { "a leader's opening" };
                return Err(self.timed_out(what, limit, &observed, leads));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Until `condition` holds for what the nodes say.
    pub async fn wait_until(&self, what: &str, limit: Duration, mut condition: impl FnMut(&Observed) -> bool) -> Result<Observed, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let observed = self.observe().await;
            if condition(&observed) {
                return Ok(observed);
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out(what, limit, &observed, false));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Until the node's sidecar answers.
    pub(super) async fn wait_answering(&mut self, node: NodeId, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(error) = self.any_ended() {
                return Err(error);
            }
            let observed = self.observe().await;
            if observed.node(node).is_some() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out(&format!("an answer of node {node}"), limit, &observed, false));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Until the node is open and has applied what the leader had decided when this was called. It may lead itself by then.
    pub async fn wait_caught_up(&self, node: NodeId, limit: Duration) -> Result<(), Error> {
        let mut goal: Option<LogIndex> = None;
        let reached = move |observed: &Observed| {
            let leader = observed.leader().map(|leader| leader.id);
            goal = goal.or_else(|| observed.leader().map(|leader| leader.committed_index));
            // Not one that only believes it leads.
            let serves = |status: &&NodeStatus| status.open && (status.role == Role::Follower || leader == Some(status.id));
            match (observed.node(node).filter(serves), goal) {
                (Some(status), Some(goal)) => status.applied_index >= goal,
                _ => false,
            }
        };
        self.wait_until(&format!("node {node} open and caught up"), limit, reached).await.map(|_| ())
    }

    /// Until there is one open leader and every other node is an open follower that has applied all that is decided: nothing is under way.
    pub async fn wait_settled(&self, limit: Duration) -> Result<(), Error> {
        let nodes = self.info.nodes.len();
        let settled = move |observed: &Observed| {
            let Some(leader) = observed.leader() else { return false };
            let followers = observed.answers().filter(|node| node.role == Role::Follower && node.open);
            followers.filter(|node| node.applied_index >= leader.committed_index).count() == nodes - 1
        };
        self.wait_until("all followers caught up", limit, settled).await.map(|_| ())
    }

    fn any_ended(&mut self) -> Option<Error> {
        self.proxy.iter_mut().chain(self.nodes.iter_mut().flatten()).find_map(Process::ended)
    }

    /// Processes that ended by themselves since the last call, as errors that say how; they can be started again.
    pub fn take_ended(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        for slot in self.nodes.iter_mut().chain([&mut self.proxy]) {
            if let Some(error) = slot.as_mut().and_then(Process::ended) {
                errors.push(error);
                *slot = None;
            }
        }
        errors
    }

    async fn serves(&self) -> bool {
        let probe = async {
            let (client, connection) = tokio_postgres::connect(&self.info.proxy_url(), NoTls).await?;
            let connection = tokio::spawn(connection);
            let answer = client.simple_query("SELECT 1").await;
            connection.abort();
            answer
        };
        matches!(tokio::time::timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(_)))
    }

    fn timed_out(&self, what: &str, after: Duration, observed: &Observed, proxy_is_late: bool) -> Error {
        let mut detail = format!(":\n{}", observed.in_words());
        let late = if proxy_is_late { self.proxy.as_ref() } else { self.nodes.iter().flatten().next() };
        if let Some((log, tail)) = late.map(Process::log_tail) {
            detail.push_str(&format!("\nthe end of {}:\n{tail}", log.display()));
        }
        Error::TimedOut { what: what.to_owned(), after, detail }
    }
}
