//! What the rest of the sidecar sees of openraft's state.

use super::machine::Decided;
use super::types::Raft;
use howdah_protocol::{LogIndex, NodeId, Term};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Who leads. Changes rarely; a change is published at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RaftRole {
    pub term: Term,
    pub leader: Option<NodeId>,
    /// This node leads, and an entry of its term is decided: it has every decided entry of every earlier term.
    pub is_leader: bool,
    /// The log has stopped for good and why; only a restart of the sidecar helps.
    pub stopped: Option<Arc<str>>,
}

/// Numbers that change all the time, read when wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub last_log_index: LogIndex,
    /// How long ago a majority was last known to follow this leader. `None` on a follower.
    pub quorum_ack_age: Option<Duration>,
}

/// How far a follower has the leader's log on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    pub node: NodeId,
    pub matched: LogIndex,
    /// How long ago it last answered.
    pub ack_age: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub admin_addr: String,
    pub sql_addr: String,
    /// Votes and counts for the majority; a learner only follows.
    pub voter: bool,
}

/// Publishes the role until openraft ends, and then why it ended. A node that others do not take in ends too, as long as nothing was ever
/// decided with it: then it is the one with the wrong log. Later it may be they, and a group does not end because one stranger says so.
pub(crate) async fn follow(
    raft: Raft,
    mut decided: watch::Receiver<Decided>,
    mut refused: watch::Receiver<Option<Arc<str>>>,
    publish: watch::Sender<RaftRole>,
) {
    let mut server = raft.server_metrics();
    loop {
        let stranger = if decided.borrow().index == LogIndex(0) { refused.borrow_and_update().clone() } else { None };
        if let Some(why) = stranger {
            return stop(why, &publish);
        }
        let (leads, role) = {
            let server = server.borrow_and_update();
            let decided = decided.borrow_and_update();
            let leads = server.state == ServerState::Leader;
            let term = Term(server.vote.leader_id.term);
            let leader = server.current_leader.map(NodeId);
            (leads, RaftRole { term, leader, is_leader: leads && decided.term == term, stopped: None })
        };
        let waits_for_blank = leads && !role.is_leader;
        publish.send_if_modified(|old| std::mem::replace(old, role.clone()) != role);
        let alive = tokio::select! {
            changed = server.changed() => changed.is_ok(),
            changed = decided.changed(), if waits_for_blank => changed.is_ok(),
            changed = refused.changed() => changed.is_ok(),
        };
        if !alive {
            break;
        }
    }
    let reason = match &raft.metrics().borrow_watched().running_state {
        Ok(()) => "it was shut down".to_owned(),
        Err(fatal) => fatal.to_string(),
    };
    stop(reason.into(), &publish);
}

fn stop(reason: Arc<str>, publish: &watch::Sender<RaftRole>) {
    tracing::warn!(%reason, "the log has stopped");
    publish.send_modify(|role| *role = RaftRole { term: role.term, stopped: Some(reason), ..RaftRole::default() });
}
