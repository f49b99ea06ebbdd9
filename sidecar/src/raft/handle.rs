//! What the rest of the sidecar calls.

use super::error::{Error, ReadError};
use super::fitness::Fitness;
use super::machine::{Decided, Machine};
use super::network::Network;
use super::options::{Options, Peer};
use super::proposer::Proposer;
use super::role::{Member, PeerProgress, Progress, RaftRole};
use super::server::{Body, Server};
use super::store::LogStore;
use super::types::{Address, Raft, counted};
use crate::core::decisions::Decisions;
use crate::core::entry::Entry;
use crate::core::lease;
use crate::core::outcomes::{Question, Verdict};
use bytes::Bytes;
use howdah_protocol::{InstanceId, LogIndex, NodeId, Term};
use hyper::body::Incoming;
use hyper::{Request, Response};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{ChangeMembers, Instant, ReadPolicy};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A majority that does not answer a read in this time is not there.
const READ_INDEX_WAIT_MAX: Duration = Duration::from_secs(2);
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(20);
const PURGE_WAIT_MAX: Duration = Duration::from_secs(5);
const MEMBERSHIP_WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes of the log that are looked at in one piece.
const LOOK_BYTES: usize = 1 << 20;

/// The log of this node. Clones share it.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) raft: Raft,
    pub(crate) store: LogStore,
    pub(crate) machine: Machine,
    pub(crate) network: Network,
    pub(crate) server: Server,
    pub(crate) fitness: Fitness,
    pub(crate) role: watch::Receiver<RaftRole>,
    /// A hand-over has begun: an election that goes around the lease may come at any time.
    pub(crate) yields: AtomicBool,
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Kept open, and so locked, for as long as the log is.
    pub(crate) folder: Mutex<Option<super::marker::Folder>>,
}

impl Drop for Inner {
    /// Without this the tasks would keep openraft, and with it the folder, for ever.
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        self.network.close();
    }
}

impl Handle {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// A line of proposals of this node as the leader of `term`. One line at a time: two would interleave.
    #[must_use]
    pub fn proposer(&self, term: Term) -> Proposer {
        Proposer::start(self.inner.raft.clone(), term, self.inner.options.in_flight_bytes_max)
    }

    /// How far the log is decided. Goes forward only.
    #[must_use]
    pub fn decided(&self) -> watch::Receiver<Decided> {
        self.inner.machine.decided()
    }

    /// All that the log has decided up to the index.
    #[must_use]
    pub fn decisions(&self) -> (LogIndex, Decisions) {
        self.inner.machine.decisions()
    }

    /// What the decided log says about a transaction.
    #[must_use]
    pub fn outcome(&self, question: &Question) -> Verdict {
        self.inner.machine.outcome(question)
    }

    /// For how long from now nobody else can have been elected by the time-outs; zero on a node that does not lead. Elections that go
    /// around the lease are the exception (see `vigil`, and [`Handle::transfer_leader`]): both follow the end of the leader's service.
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        let me = self.inner.options.node;
        if !self.inner.role.borrow().is_leader || self.inner.yields.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        let alone = self.members().iter().filter(|member| member.voter).all(|member| member.node == me);
        let age = if alone { Some(Duration::ZERO) } else { self.progress().quorum_ack_age };
        lease::left(self.inner.options.timings.election_max, age)
    }

    /// Set when a leader's snapshot took this node past entries that it never had: its Postgres must be seeded again, from an index
    /// at or after this one. It is `None` after a restart; then [`ReadError::Purged`] says the same.
    #[must_use]
    pub fn snapshot_installed(&self) -> watch::Receiver<Option<LogIndex>> {
        self.inner.machine.installed()
    }

    #[must_use]
    pub fn role(&self) -> watch::Receiver<RaftRole> {
        self.inner.role.clone()
    }

    #[must_use]
    pub fn progress(&self) -> Progress {
        let data = self.inner.raft.data_metrics();
        let data = data.borrow_watched();
        let leads = self.inner.role.borrow().leader == Some(self.inner.options.node);
        Progress {
            last_log_index: LogIndex(data.last_log.map_or(0, |id| id.index)),
            quorum_ack_age: data.last_quorum_acked.filter(|_| leads).map(|at| at.elapsed()),
        }
    }

    /// On the leader: how far each other node has the log. Empty elsewhere.
    #[must_use]
    pub fn peers_progress(&self) -> Vec<PeerProgress> {
        let data = self.inner.raft.data_metrics();
        let data = data.borrow_watched();
        let (Some(replication), Some(acks)) = (&data.replication, &data.heartbeat) else { return Vec::new() };
        let peer = |(node, matched): (&u64, &Option<super::types::LogId>)| PeerProgress {
            node: NodeId(*node),
            matched: LogIndex(matched.map_or(0, |id| id.index)),
            ack_age: acks.get(node).copied().flatten().map(|at| at.elapsed()),
        };
        replication.iter().filter(|(node, _)| **node != self.inner.options.node.0).map(peer).collect()
    }

    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let server = self.inner.raft.server_metrics();
        let server = server.borrow_watched();
        let membership = server.membership_config.membership();
        let voters: BTreeSet<_> = membership.voter_ids().collect();
        let member = |(node, address): (&u64, &Address)| Member {
            node: NodeId(*node),
            admin_addr: address.admin.clone(),
            sql_addr: address.sql.clone(),
            voter: voters.contains(node),
        };
        membership.nodes().map(member).collect()
    }

    /// How much disk the entries take that can be read.
    pub fn log_bytes(&self) -> Result<u64, ReadError> {
        Ok(self.inner.store.bytes()?)
    }

    /// The longest write of the log since this was asked last, the one that is under way included.
    #[must_use]
    pub fn slowest_write(&self) -> Duration {
        self.inner.store.slowest_write()
    }

    /// The oldest entry that can be read.
    pub fn first_index(&self) -> Result<LogIndex, ReadError> {
        Ok(LogIndex(self.inner.store.purged()?.map_or(0, |purged| purged.index + 1)))
    }

    /// Decided entries from `from` on, about `bytes_max` of them and at least one where there is one. `None` stands for entries
    /// without content: blank ones, changes of membership, and what a deposed leader proposed.
    pub fn read(&self, from: LogIndex, bytes_max: usize) -> Result<Vec<(LogIndex, Option<Bytes>)>, ReadError> {
        let decided = self.inner.machine.decided().borrow().index;
        let first = self.first_index()?;
        if from < first {
            return Err(ReadError::Purged { first });
        }
        if from > decided {
            return Ok(Vec::new());
        }
        let entries = self.inner.store.read(from.0, decided.0 + 1, bytes_max)?;
        if entries.first().is_some_and(|entry| entry.log_id.index != from.0) {
            // Purged since the look above.
            return Err(ReadError::Purged { first: self.first_index()? });
        }
        Ok(entries.iter().map(|entry| (LogIndex(entry.log_id.index), counted(entry).cloned())).collect())
    }

    /// Whether the log here holds an opening of `instance` behind `after`, decided or not.
    pub fn holds_opening(&self, instance: InstanceId, after: LogIndex) -> Result<bool, ReadError> {
        let mut from = after.next().0;
        loop {
            let entries = self.inner.store.read(from, u64::MAX, LOOK_BYTES)?;
            let Some(last) = entries.last() else { return Ok(false) };
            from = last.log_id.index + 1;
            if entries.iter().filter_map(counted).filter_map(Entry::opening).any(|writer| writer.instance == instance) {
                return Ok(true);
            }
        }
    }

    /// An index such that whoever has applied it sees all that was acknowledged before this call. Asks a majority whether this node
    /// still leads: a lease would not do, since an early election goes around it.
    pub async fn read_index(&self) -> Result<LogIndex, Error> {
        let asked = timeout(READ_INDEX_WAIT_MAX, self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
        match asked.map_err(|_| Error::NoQuorum)? {
            Ok((read, _)) => Ok(LogIndex(read.log_id().index)),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(Error::NotLeader(forward.leader_id.map(NodeId)))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Error::NoQuorum),
            Err(RaftError::Fatal(fatal)) => Err(Error::Stopped(fatal.to_string())),
        }
    }

    /// Lets go of entries up to and including `upto`, as far as they are decided. What they decided is kept in a snapshot first.
    /// A follower that still needs them must then be seeded again, so ask [`Handle::peers_progress`] before.
    /// While they are being sent to one they stay, and go as soon as that ends: this is an error after a while.
    pub async fn purge_to(&self, upto: LogIndex) -> Result<(), Error> {
        let upto = upto.min(self.inner.machine.decided().borrow().index);
        let stopped = |fatal: super::types::Fatal| Error::Stopped(fatal.to_string());
        let raft = &self.inner.raft;
        let mut data = raft.data_metrics();
        if data.borrow_watched().snapshot.is_none_or(|snapshot| snapshot.index < upto.0) {
            raft.trigger().snapshot().await.map_err(stopped)?;
            let written = async {
                while data.borrow_and_update().snapshot.is_none_or(|snapshot| snapshot.index < upto.0) {
                    data.changed().await.map_err(|_| Error::Stopped("while writing a snapshot".into()))?;
                }
                Ok(())
            };
            timeout(SNAPSHOT_WAIT_MAX, written).await.map_err(|_| Error::Stopped("the snapshot was not written in time".into()))??;
        }
        raft.trigger().purge_log(upto.0).await.map_err(stopped)?;
        let purged = async {
            while data.borrow_and_update().purged.is_none_or(|purged| purged.index < upto.0) {
                data.changed().await.map_err(|_| Error::Stopped("while shortening the log".into()))?;
            }
            Ok(())
        };
        timeout(PURGE_WAIT_MAX, purged).await.map_err(|_| Error::BeingSent)?
    }

    /// Every node that is or was a member.
    #[must_use]
    pub fn ids_used(&self) -> BTreeSet<NodeId> {
        self.inner.machine.ids_used().into_iter().map(NodeId).collect()
    }

    /// Adds a node that follows without a vote. Returns once that is decided; the node may still be far behind.
    pub async fn add_learner(&self, peer: Peer) -> Result<(), Error> {
        let address = Address { admin: peer.admin_addr, sql: peer.sql_addr };
        self.change_members(ChangeMembers::AddNodes([(peer.node.0, address)].into())).await
    }

    /// Gives a learner its vote.
    pub async fn add_voter(&self, node: NodeId) -> Result<(), Error> {
        self.change_members(ChangeMembers::AddVoterIds([node.0].into())).await
    }

    /// Takes a node out of the group, whether or not it votes.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), Error> {
        let votes = self.members().iter().any(|member| member.node == node && member.voter);
        let gone = [node.0].into();
        self.change_members(if votes { ChangeMembers::RemoveVoters(gone) } else { ChangeMembers::RemoveNodes(gone) }).await
    }

    async fn change_members(&self, change: ChangeMembers<u64, Address>) -> Result<(), Error> {
        let changed = timeout(MEMBERSHIP_WAIT_MAX, self.inner.raft.change_membership(change, false)).await;
        let changed = changed.map_err(|_| Error::Membership("no majority took it in time; it may still be decided".into()))?;
        changed.map(|_| ()).map_err(|error| Error::Membership(error.to_string()))
    }

    /// Answers a request of another node: everything below `/raft/`.
    pub async fn serve(&self, request: Request<Incoming>) -> Response<Body> {
        self.inner.server.serve(request).await
    }

    /// Stops, writes out what is pending and releases the folder. Does not hand the leadership over.
    pub async fn shutdown(&self) {
        for task in self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "openraft did not end cleanly");
        }
        self.inner.network.close();
        let store = self.inner.store.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::warn!(%error, "the log was not closed cleanly");
        }
        self.inner.folder.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
