//! What the proxy knows of its group: the last status of each node, and when it was heard.
//!
//! A value that is replaced as a whole on every change. Invariant: `topology` changes whenever a server connection that was right may
//! have become wrong (role, openness, epoch, address), and not when only positions moved.
//!
//! A leader is used for what must be current only under its **lease**: the time in which nobody else can lead. It is counted from the
//! moment at which this proxy asked for it, so that an answer that came late is a short lease and never a long one.

use crate::clock::Millis;
use howdah_protocol::admin::{NodeStatus, Role};
use howdah_protocol::settings::CLOCK_DRIFT_PARTS;
use howdah_protocol::{Epoch, GroupId, NodeId};
use std::sync::Arc;
use std::time::Duration;

/// A node that was silent for longer is not used for reads, and is not taken for the leader.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// What runs on a node that was silent for longer is cut: its host may be gone without a word.
const GONE_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) status: Arc<NodeStatus>,
    pub(crate) heard: Millis,
    /// The status stream is up.
    pub(crate) connected: bool,
}

/// The nodes, by the place of their sidecar: the configured ones first, then those that came later.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    nodes: Vec<Option<Node>>,
    pub(crate) topology: u64,
    lease: Option<Lease>,
}

/// Until when nobody but this leader leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    of: Serving,
    until: Millis,
}

/// What identifies a use of a node: its opening, and whether it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Serving {
    pub(crate) node: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) leads: bool,
}

impl Node {
    pub(crate) fn is_fresh(&self, now: Millis) -> bool {
        self.connected && now.since(self.heard) <= SILENCE_MAX
    }

    /// The node as it may be used now; `None` while it is closed or in a role that serves nobody.
    pub(crate) fn serving(&self) -> Option<Serving> {
        let leads = match self.status.role {
            Role::Leader => true,
            Role::Follower => false,
            _ => return None,
        };
        let epoch = self.status.epoch.filter(|_| self.status.open)?;
        Some(Serving { node: self.status.id, epoch, leads })
    }
}

impl View {
    pub(crate) fn new(sidecars: usize) -> Self {
        Self { nodes: vec![None; sidecars], topology: 0, lease: None }
    }

    /// The leader said that nobody else leads for `left_ms` more, to a question that was put at `asked`.
    pub(crate) fn lease(&mut self, of: Serving, asked: Millis, left_ms: u64) {
        let sure = left_ms - left_ms / u64::from(CLOCK_DRIFT_PARTS);
        let until = Millis(asked.0.saturating_add(sure));
        let known = self.lease.filter(|known| known.of == of).map_or(Millis(0), |known| known.until);
        self.lease = Some(Lease { of, until: known.max(until) });
    }

    /// Nobody but this leader can lead now. The time now may be up to a millisecond later than `now` says.
    pub(crate) fn is_leased(&self, serving: Serving, now: Millis) -> bool {
        self.lease.is_some_and(|lease| lease.of == serving && now.0 + 1 < lease.until.0)
    }

    /// Who can grant a lease: the leader, also while it is closed to new statements because it is about to hand over.
    pub(crate) fn lessor(&self, now: Millis) -> Option<(&Node, Serving)> {
        let leads = |node: &&Node| node.status.role == Role::Leader && node.is_fresh(now);
        let node = self.nodes().filter(leads).max_by_key(|node| (node.status.term, node.heard))?;
        Some((node, Serving { node: node.status.id, epoch: node.status.epoch?, leads: true }))
    }

    /// The leader that this connection was opened to leads no more, or says that it was opened anew.
    pub(crate) fn has_ceased(&self, serving: Serving) -> bool {
        self.node(serving.node).is_none_or(|node| node.status.role != Role::Leader || node.status.epoch != Some(serving.epoch))
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Those of the first `places`.
    pub(crate) fn first(&self, places: usize) -> impl Iterator<Item = &Node> {
        self.nodes.iter().take(places).flatten()
    }

    /// The place for one more sidecar.
    pub(crate) fn grow(&mut self) -> usize {
        self.nodes.push(None);
        self.nodes.len() - 1
    }

    /// Nothing more is heard of the sidecar at `place`: its node has left.
    pub(crate) fn forget(&mut self, place: usize) {
        self.topology += u64::from(self.nodes[place].take().is_some());
    }

    /// Takes a status that the sidecar at `place` sent.
    pub(crate) fn heard(&mut self, place: usize, status: NodeStatus, now: Millis) {
        let slot = &mut self.nodes[place];
        let moved = slot.as_ref().is_none_or(|old| !same_use(&old.status, &status) || !old.connected);
        *slot = Some(Node { status: Arc::new(status), heard: now, connected: true });
        self.topology += u64::from(moved);
    }

    pub(crate) fn is_connected(&self, place: usize) -> bool {
        self.nodes[place].as_ref().is_some_and(|node| node.connected)
    }

    /// The stream of the sidecar at `place` broke.
    pub(crate) fn lost(&mut self, place: usize) {
        if let Some(node) = &mut self.nodes[place]
            && node.connected
        {
            node.connected = false;
            self.topology += 1;
        }
    }

    /// The node that leads and is open; of several that think so, the one of the highest term.
    pub(crate) fn leader(&self, now: Millis) -> Option<&Node> {
        self.newest_leader().filter(|node| node.is_fresh(now))
    }

    fn newest_leader(&self) -> Option<&Node> {
        self.nodes()
            .filter(|node| node.serving().is_some_and(|serving| serving.leads))
            .max_by_key(|node| (node.status.term, node.connected, node.heard))
    }

    /// Open followers that were heard lately.
    pub(crate) fn followers(&self, now: Millis) -> impl Iterator<Item = &Node> {
        self.nodes().filter(move |node| node.is_fresh(now) && node.serving().is_some_and(|serving| !serving.leads))
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes().find(|node| node.status.id == id)
    }

    pub(crate) fn group(&self) -> GroupId {
        self.nodes().next().map(|node| node.status.group).unwrap_or_default()
    }

    /// A connection that was opened for `serving` may be given to another transaction.
    pub(crate) fn is_current(&self, serving: Serving) -> bool {
        self.node(serving.node).and_then(Node::serving) == Some(serving)
    }

    /// What runs on this connection cannot end well: the node was opened anew, or somebody else leads since, or nobody has heard of it
    /// for long.
    ///
    /// A node that merely closed is not superseded: what runs there may end in peace, and its sidecar ends what must end.
    pub(crate) fn is_superseded(&self, serving: Serving, now: Millis) -> bool {
        let node = self.node(serving.node);
        let gone = node.is_none_or(|node| now.since(node.heard) > GONE_AFTER);
        let reopened = node.and_then(Node::serving).is_some_and(|now| now.epoch != serving.epoch);
        // The last that was heard of a leader that died says that it leads, for as long as it stays away.
        let since = node.map(|node| node.status.term).unwrap_or_default();
        let deposes = |leader: &Node| leader.status.id != serving.node && leader.status.term >= since;
        let deposed = serving.leads && self.newest_leader().is_some_and(deposes);
        gone || reopened || deposed
    }

    /// This leader has had no lease for longer than `limit`.
    pub(crate) fn is_without_lease(&self, serving: Serving, now: Millis, limit: Duration) -> bool {
        serving.leads && self.lease.is_none_or(|lease| lease.of != serving || now.since(lease.until) > limit)
    }
}

fn same_use(old: &NodeStatus, new: &NodeStatus) -> bool {
    (old.id, old.role, old.open, old.epoch, old.term) == (new.id, new.role, new.open, new.epoch, new.term)
        && old.sql_address == new.sql_address
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use howdah_protocol::{LogIndex, Term};

    pub(crate) fn status(id: u64, role: Role, term: u64, applied: u64) -> NodeStatus {
        NodeStatus {
            cluster: "test".into(),
            group: GroupId(0),
            id: NodeId(id),
            role,
            open: true,
            epoch: Some(Epoch(100 + id)),
            term: Term(term),
            leader: None,
            committed_index: LogIndex(applied),
            applied_index: LogIndex(applied),
            lag_ms: 0,
            postgres_version: "15.13".into(),
            sql_address: format!("127.0.0.1:{}", 5000 + id),
            admin_address: format!("127.0.0.1:{}", 7000 + id),
            detail: String::new(),
            seeding: None,
            verified: None,
            trouble: None,
        }
    }

    pub(crate) fn view(statuses: Vec<NodeStatus>) -> View {
        let mut view = View::new(statuses.len());
        for (place, status) in statuses.into_iter().enumerate() {
            view.heard(place, status, Millis(0));
        }
        view
    }

    #[test]
    fn the_highest_term_leads_while_it_is_heard() {
        let mut view = view(vec![status(1, Role::Leader, 3, 9), status(2, Role::Leader, 4, 9), status(3, Role::Follower, 4, 9)]);
        let leader = |view: &View, now| view.leader(Millis(now)).map(|node| node.status.id.0);
        assert_eq!(leader(&view, 0), Some(2));
        assert_eq!(leader(&view, 3000), Some(2));
        assert_eq!(leader(&view, 3001), None, "silent");
        view.lost(1);
        assert_eq!(leader(&view, 0), None, "an older leader is no replacement");
    }

    #[test]
    fn a_closed_node_serves_nobody() {
        let mut closed = status(1, Role::Leader, 3, 9);
        closed.open = false;
        let mut without_epoch = status(2, Role::Follower, 3, 9);
        without_epoch.epoch = None;
        let view = view(vec![closed, without_epoch, status(3, Role::Promoting, 3, 9)]);
        assert!(view.leader(Millis(0)).is_none());
        assert_eq!(view.followers(Millis(0)).count(), 0);
    }

    #[test]
    fn positions_do_not_change_the_topology_and_epochs_do() {
        let mut view = view(vec![status(1, Role::Leader, 3, 9)]);
        let before = view.topology;
        view.heard(0, status(1, Role::Leader, 3, 10), Millis(1));
        assert_eq!(view.topology, before);
        let mut reopened = status(1, Role::Leader, 3, 10);
        reopened.epoch = Some(Epoch(7));
        view.heard(0, reopened, Millis(2));
        assert_eq!(view.topology, before + 1);
    }

    #[test]
    fn what_a_dead_leader_said_last_deposes_nobody() {
        let mut view = view(vec![status(1, Role::Leader, 3, 9), status(2, Role::Leader, 4, 9), status(3, Role::Follower, 4, 9)]);
        view.lost(0);
        let serving = Serving { node: NodeId(2), epoch: Epoch(102), leads: true };
        view.heard(1, NodeStatus { open: false, ..status(2, Role::Leader, 4, 9) }, Millis(1));
        assert!(!view.is_superseded(serving, Millis(2)), "it only closes, to hand over");
        view.heard(2, status(3, Role::Leader, 5, 9), Millis(3));
        assert!(view.is_superseded(serving, Millis(3)), "another leads");
    }

    #[test]
    fn a_leader_is_without_a_lease_for_as_long_as_it_is_over() {
        let mut view = view(vec![status(1, Role::Leader, 3, 9)]);
        let serving = Serving { node: NodeId(1), epoch: Epoch(101), leads: true };
        let limit = Duration::from_millis(100);
        assert!(view.is_without_lease(serving, Millis(0), limit), "it never had one");
        view.lease(serving, Millis(0), 1000);
        let until = (0..2000).find(|now| !view.is_leased(serving, Millis(*now))).expect("it ends");
        assert!(!view.is_without_lease(serving, Millis(until + 100), limit));
        assert!(view.is_without_lease(serving, Millis(until + 102), limit));
    }

    #[test]
    fn a_lease_is_counted_from_the_question_and_belongs_to_one_opening() {
        let serving = Serving { node: NodeId(1), epoch: Epoch(101), leads: true };
        let mut view = view(vec![status(1, Role::Leader, 3, 9)]);
        assert!(!view.is_leased(serving, Millis(0)), "nothing was granted");
        view.lease(serving, Millis(1000), 300);
        assert!(view.is_leased(serving, Millis(1295)));
        assert!(!view.is_leased(serving, Millis(1296)), "a clock may be slow, and the time now is cut off");
        view.lease(serving, Millis(1050), 0);
        assert!(view.is_leased(serving, Millis(1295)), "what was granted stays");
        assert!(!view.is_leased(Serving { epoch: Epoch(7), ..serving }, Millis(1100)));
        let mut closed = status(1, Role::Leader, 3, 9);
        closed.open = false;
        view.heard(0, closed, Millis(1100));
        assert_eq!(view.leader(Millis(1100)).map(|node| node.status.id), None, "nothing new is sent there");
        assert_eq!(view.lessor(Millis(1100)).map(|(_, serving)| serving), Some(serving), "what is open may go on until it hands over");
        assert!(!view.has_ceased(serving));
        view.heard(0, status(1, Role::Demoting, 3, 9), Millis(1100));
        assert!(view.has_ceased(serving) && view.lessor(Millis(1100)).is_none());
    }

    #[test]
    fn nodes_come_and_go() {
        let mut view = view(vec![status(1, Role::Leader, 3, 9)]);
        let place = view.grow();
        view.heard(place, status(4, Role::Follower, 3, 9), Millis(0));
        assert_eq!(view.followers(Millis(0)).count(), 1);
        let before = view.topology;
        view.forget(place);
        assert_eq!((view.followers(Millis(0)).count(), view.topology), (0, before + 1));
        view.forget(place);
        assert_eq!(view.topology, before + 1);
    }

    #[test]
    fn a_closed_node_is_not_reused_and_a_replaced_one_is_cut() {
        let serving = Serving { node: NodeId(1), epoch: Epoch(101), leads: true };
        let mut view = view(vec![status(1, Role::Leader, 3, 9), status(2, Role::Follower, 3, 9)]);
        assert!(view.is_current(serving) && !view.is_superseded(serving, Millis(1)));
        let mut closed = status(1, Role::Demoting, 3, 9);
        (closed.open, closed.epoch) = (false, None);
        view.heard(0, closed, Millis(1));
        assert!(!view.is_current(serving) && !view.is_superseded(serving, Millis(1)));
        view.heard(1, status(2, Role::Leader, 4, 9), Millis(1));
        assert!(view.is_superseded(serving, Millis(1)));
        let follower = Serving { node: NodeId(2), epoch: Epoch(102), leads: false };
        assert!(!view.is_current(follower), "what was opened read only is not the leader's");
        assert!(!view.is_superseded(follower, Millis(1)), "its reads may end");
        assert!(view.is_superseded(follower, Millis(10_002)), "silent for long");
    }
}
