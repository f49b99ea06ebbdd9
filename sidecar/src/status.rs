//! What the rest of the world is told about this node: one published value, put together from the log, the applier and the role.
//!
//! Who follows it (proxies, metrics) takes the published value, which may be a moment old; who asks is told what holds now.

use crate::apply;
use crate::capture;
use crate::core::lag::Lag;
use crate::raft;
use howdah_protocol::admin::{NodeStatus, Role, Seeding};
use howdah_protocol::verify::Verified;
use howdah_protocol::{Epoch, LogIndex, NodeId, Term};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Positions that move closer together than this are told together: each telling costs every node and proxy a message.
const PUBLISH_PAUSE: Duration = Duration::from_millis(10);

/// What the role manager says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub role: Role,
    pub open: bool,
    pub epoch: Option<Epoch>,
    /// The term that this node leads in, as a leader. The log may know of a newer one before this node stops leading, and of two that lead
    /// proxies believe the one of the newer term.
    pub leads_in: Option<Term>,
    pub version: String,
    pub detail: String,
}

/// What the log says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogView {
    pub term: Term,
    pub leader: Option<NodeId>,
    pub committed: LogIndex,
}

/// Why this node gave leadership up.
#[derive(Debug, Clone)]
pub struct Note {
    pub since: Instant,
    pub text: String,
}

/// What became of commits that the group never accepted, since the process started: for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Repairs {
    pub repairs: u64,
    /// Row changes that were taken back.
    pub rows: u64,
    /// How long the last repair took.
    pub seconds: f64,
    /// Times that this node was thrown away and filled again.
    pub seeded: u64,
}

/// What comparisons with the leader said of this node, since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verification {
    pub runs: u64,
    pub last: Option<Verified>,
}

/// Where the parts leave what they know. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Board {
    pub stage: watch::Sender<Stage>,
    pub log: watch::Sender<LogView>,
    pub applied: watch::Sender<LogIndex>,
    /// The first entry that the applier still needs.
    pub needed: watch::Sender<LogIndex>,
    /// What the present gate counts, and what the applier says: for metrics.
    pub gate: watch::Sender<Option<Arc<capture::Metrics>>>,
    pub applier: watch::Sender<Option<watch::Receiver<apply::Applied>>>,
    /// Lets apply be held, while one runs.
    pub holder: watch::Sender<Option<apply::Holder>>,
    pub repairs: watch::Sender<Repairs>,
    /// How far the filling of this node is, while one is under way.
    pub seeding: watch::Sender<Option<Seeding>>,
    pub verification: watch::Sender<Verification>,
    /// What the role manager noted, and what the health watcher makes of everything.
    pub note: watch::Sender<Option<Note>>,
    pub trouble: watch::Sender<Option<String>>,
    published: watch::Sender<NodeStatus>,
}

impl Board {
    /// `identity`: the status with everything that does not change.
    #[must_use]
    pub fn new(identity: NodeStatus) -> Self {
        let stage = Stage {
            role: identity.role,
            open: false,
            epoch: None,
            leads_in: None,
            version: String::new(),
            detail: identity.detail.clone(),
        };
        Self {
            stage: watch::Sender::new(stage),
            log: watch::Sender::new(LogView::default()),
            applied: watch::Sender::new(LogIndex::default()),
            needed: watch::Sender::new(LogIndex::default()),
            gate: watch::Sender::new(None),
            applier: watch::Sender::new(None),
            holder: watch::Sender::new(None),
            repairs: watch::Sender::new(Repairs::default()),
            seeding: watch::Sender::new(None),
            verification: watch::Sender::new(Verification::default()),
            note: watch::Sender::new(None),
            trouble: watch::Sender::new(None),
            published: watch::Sender::new(identity),
        }
    }

    #[must_use]
    pub fn published(&self) -> watch::Receiver<NodeStatus> {
        self.published.subscribe()
    }

    /// What holds now; how far apply lags behind is a moment old.
    #[must_use]
    pub fn now(&self) -> NodeStatus {
        let published = self.published.borrow().clone();
        self.fill(published)
    }

    fn fill(&self, published: NodeStatus) -> NodeStatus {
        let (stage, log) = (self.stage.borrow().clone(), *self.log.borrow());
        NodeStatus {
            role: stage.role,
            open: stage.open,
            epoch: stage.epoch,
            postgres_version: stage.version,
            detail: stage.detail,
            term: stage.leads_in.unwrap_or(log.term),
            leader: log.leader,
            committed_index: log.committed,
            applied_index: *self.applied.borrow(),
            seeding: *self.seeding.borrow(),
            verified: self.verification.borrow().last,
            trouble: self.trouble.borrow().clone(),
            ..published
        }
    }

    /// Takes over what the applier says, until it ends.
    pub fn follow_applied(&self, mut applier: watch::Receiver<apply::Applied>) {
        self.applier.send_replace(Some(applier.clone()));
        let (applied, needed) = (self.applied.clone(), self.needed.clone());
        let take = move |applier: &mut watch::Receiver<apply::Applied>| {
            let now = applier.borrow_and_update();
            needed.send_replace(now.needs_from);
            applied.send_replace(now.index);
        };
        take(&mut applier);
        tokio::spawn(async move {
            while applier.changed().await.is_ok() {
                take(&mut applier);
            }
        });
    }

    /// Notes what a comparison said of this node.
    pub fn verified(&self, verified: Verified) {
        self.verification.send_modify(|verification| {
            verification.runs += 1;
            verification.last = Some(verified);
        });
    }

    /// Takes over what the log says, until it ends.
    pub fn follow_log(&self, raft: &raft::Handle) {
        let (mut decided, mut role) = (raft.decided(), raft.role());
        let log = self.log.clone();
        tokio::spawn(async move {
            loop {
                let committed = decided.borrow_and_update().index;
                let (term, leader) = {
                    let role = role.borrow_and_update();
                    (role.term, role.leader)
                };
                log.send_replace(LogView { term, leader, committed });
                tokio::select! {
                    changed = decided.changed() => if changed.is_err() { return },
                    changed = role.changed() => if changed.is_err() { return },
                }
            }
        });
    }

    /// Publishes until the process ends.
    pub async fn run(self) {
        let start = Instant::now();
        let (mut stage, mut log, mut applied) = (self.stage.subscribe(), self.log.subscribe(), self.applied.subscribe());
        let mut seeding = self.seeding.subscribe();
        let (mut verification, mut trouble) = (self.verification.subscribe(), self.trouble.subscribe());
        let mut lag = Lag::default();
        loop {
            let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            // What is new from here on wakes this loop again.
            stage.mark_unchanged();
            seeding.mark_unchanged();
            verification.mark_unchanged();
            trouble.mark_unchanged();
            lag.decided(log.borrow_and_update().committed, now_ms);
            lag.applied(*applied.borrow_and_update());
            self.published.send_if_modified(|status| {
                let now = NodeStatus { lag_ms: lag.age_ms(now_ms), ..self.fill(status.clone()) };
                let changed = *status != now;
                *status = now;
                changed
            });
            // What a node may do is told at once.
            let paused = tokio::time::timeout(PUBLISH_PAUSE, stage.changed()).await;
            if paused.is_ok_and(|changed| changed.is_ok()) {
                continue;
            }
            tokio::select! {
                changed = stage.changed() => if changed.is_err() { return },
                changed = trouble.changed() => if changed.is_err() { return },
                changed = log.changed() => if changed.is_err() { return },
                changed = applied.changed() => if changed.is_err() { return },
                changed = seeding.changed() => if changed.is_err() { return },
                changed = verification.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(Duration::from_millis(100)), if lag.is_behind() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use howdah_protocol::GroupId;

    fn identity() -> NodeStatus {
        NodeStatus {
            cluster: "c".into(),
            group: GroupId(0),
            id: NodeId(1),
            role: Role::Starting,
            open: false,
            epoch: None,
            term: Term(0),
            leader: None,
            committed_index: LogIndex(0),
            applied_index: LogIndex(0),
            lag_ms: 0,
            postgres_version: String::new(),
            sql_address: String::new(),
            admin_address: String::new(),
            detail: String::new(),
            seeding: None,
            verified: None,
            trouble: None,
        }
    }

    #[tokio::test]
    async fn what_is_not_applied_grows_older_though_nothing_happens() {
        let board = Board::new(identity());
        let mut published = board.published();
        tokio::spawn(board.clone().run());
        board.log.send_replace(LogView { term: Term(1), leader: Some(NodeId(2)), committed: LogIndex(5) });
        let old = published.wait_for(|status| status.lag_ms >= 250);
        tokio::time::timeout(Duration::from_secs(10), old).await.expect("it is told").expect("it goes on");
        board.applied.send_replace(LogIndex(5));
        let caught_up = published.wait_for(|status| status.applied_index == LogIndex(5) && status.lag_ms == 0);
        tokio::time::timeout(Duration::from_secs(10), caught_up).await.expect("it is told").expect("it goes on");
    }

    /// Otherwise proxies would take it, for a moment, for the equal of the node that really leads in the new term, and cut that one's connections.
    #[tokio::test]
    async fn a_leader_that_has_heard_of_a_newer_term_still_tells_its_own() {
        let board = Board::new(identity());
        let mut published = board.published();
        tokio::spawn(board.clone().run());
        let mut told = async |role: Role, leader: u64| {
            let wanted = |status: &NodeStatus| status.role == role && status.leader == Some(NodeId(leader));
            let status = tokio::time::timeout(Duration::from_secs(10), published.wait_for(wanted)).await;
            status.expect("it is told").expect("it goes on").term
        };
        let log = |term, leader| LogView { term: Term(term), leader: Some(NodeId(leader)), committed: LogIndex(0) };
        board.stage.send_modify(|stage| (stage.role, stage.leads_in) = (Role::Leader, Some(Term(5))));
        board.log.send_replace(log(5, 1));
        assert_eq!(told(Role::Leader, 1).await, Term(5));
        board.log.send_replace(log(6, 2));
        assert_eq!(told(Role::Leader, 2).await, Term(5));
        board.stage.send_modify(|stage| (stage.role, stage.leads_in) = (Role::Demoting, None));
        assert_eq!(told(Role::Demoting, 2).await, Term(6));
    }
}
