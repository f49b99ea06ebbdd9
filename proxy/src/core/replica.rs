//! Which node serves a read, by the promise that the session asked for.
//!
//! Positions are compared, never clocks. A position that a node publishes is a lower bound of what a new transaction there sees, so
//! `applied >= needed` is enough to keep a promise; what a session saw is bounded from above by the leader's committed index, or by the
//! committed index that the node it read from tells when it is asked after the read.

use super::view::{Node, Serving, View};
use crate::clock::Millis;
use howdah_protocol::{Consistency, LogIndex, NodeId, Token};

/// What a session wrote and saw.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// Everything here is visible to a read that satisfies the session.
    pub(crate) token: Token,
    /// A commit was acknowledged after the token was raised last.
    pub(crate) wrote: bool,
    /// The last write was acknowledged before the group decided it, so no position covers it yet.
    pub(crate) wrote_async: bool,
    /// Where the session read last, while the token does not cover what it saw there.
    pub(crate) saw: Option<Serving>,
}

impl Positions {
    pub(crate) fn wrote(&mut self, synchronously: bool) {
        self.wrote = true;
        // Decisions are in commit order, so a synchronous commit covers the asynchronous ones before it.
        self.wrote_async = !synchronously;
    }

    /// Raises the token to a position that the leader told after everything the session did.
    pub(crate) fn covered(&mut self, group: howdah_protocol::GroupId, index: LogIndex) {
        self.token.raise(group, index);
        self.wrote = false;
        self.saw = None;
    }

    /// Raises the token to what a node that the session read from has at most.
    pub(crate) fn saw_at_most(&mut self, group: howdah_protocol::GroupId, index: LogIndex) {
        self.token.raise(group, index);
        self.saw = None;
    }
}

/// Where a read goes, or what must be known first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Leader(&'static str),
    Follower(NodeId, &'static str),
    /// Ask the leader for its committed index, then choose again.
    AskCommitted,
    /// Find out what this node had at most, from the leader or (while it is open as it was) from itself, then choose again.
    AskSeen(Serving),
    /// No follower satisfies the session yet: wait for one.
    Wait,
}

/// Chooses among the open followers the one with the fewest statements in flight, out of two.
pub(crate) fn choose(
    view: &View,
    mode: Consistency,
    positions: &Positions,
    now: Millis,
    spin: u64,
    outstanding: impl Fn(NodeId) -> usize,
) -> Choice {
    let pick = |needed: LogIndex| pick(view, needed, now, spin, &outstanding);
    let needed = positions.token.get(view.group());
    match mode {
        Consistency::Linearizable => Choice::Leader("leader: linearizable"),
        Consistency::Eventual => {
            pick(LogIndex(0)).map_or(Choice::Leader("leader: no follower"), |id| Choice::Follower(id, "follower: eventual"))
        }
        Consistency::ReadYourWrites if positions.wrote_async => Choice::Leader("leader: asynchronous write"),
        Consistency::ReadYourWrites if positions.wrote => Choice::AskCommitted,
        Consistency::ReadYourWrites => pick(needed).map_or(Choice::Wait, |id| Choice::Follower(id, "follower: read_your_writes")),
        Consistency::Monotonic => match positions.saw {
            Some(saw) => stay(view, saw, needed, now),
            None => pick(needed).map_or(Choice::Wait, |id| Choice::Follower(id, "follower: monotonic")),
        },
    }
}

/// The node that the session read from last shows at least what it showed then, while it stays open: a follower's Postgres that crashed
/// may have lost what it had applied, and comes back under another epoch.
fn stay(view: &View, saw: Serving, needed: LogIndex, now: Millis) -> Choice {
    let node = view.node(saw.node).filter(|node| node.is_fresh(now) && node.status.applied_index >= needed);
    match node.and_then(Node::serving) {
        Some(serving) if serving == saw && !saw.leads => Choice::Follower(saw.node, "follower: monotonic"),
        _ => Choice::AskSeen(saw),
    }
}

fn pick(view: &View, needed: LogIndex, now: Millis, spin: u64, outstanding: impl Fn(NodeId) -> usize) -> Option<NodeId> {
    let good = |node: &&Node| node.status.applied_index >= needed;
    let count = view.followers(now).filter(good).count() as u64;
    if count == 0 {
        return None;
    }
    let nth = |nth: u64| view.followers(now).filter(good).nth((nth % count) as usize).map(|node| node.status.id);
    let (one, other) = (nth(spin)?, nth(spin + 1)?);
    Some(if outstanding(other) < outstanding(one) { other } else { one })
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{status, view};
    use super::*;
    use howdah_protocol::admin::Role;
    use howdah_protocol::{Epoch, GroupId};

    const T0: Millis = Millis(0);

    fn group(applied: [u64; 2]) -> View {
        view(vec![status(1, Role::Leader, 2, 10), status(2, Role::Follower, 2, applied[0]), status(3, Role::Follower, 2, applied[1])])
    }

    fn saw(id: u64) -> Serving {
        Serving { node: NodeId(id), epoch: Epoch(100 + id), leads: id == 1 }
    }

    fn choose_idle(view: &View, mode: Consistency, positions: &Positions, spin: u64) -> Choice {
        choose(view, mode, positions, T0, spin, |_| 0)
    }

    #[test]
    fn linearizable_goes_to_the_leader_and_eventual_anywhere() {
        let view = group([1, 1]);
        let positions = Positions::default();
        assert!(matches!(choose_idle(&view, Consistency::Linearizable, &positions, 0), Choice::Leader(_)));
        let places: Vec<_> = (0..2).map(|spin| choose_idle(&view, Consistency::Eventual, &positions, spin)).collect();
        assert!(matches!(places[..], [Choice::Follower(NodeId(2), _), Choice::Follower(NodeId(3), _)]));
        let busy = choose(&view, Consistency::Eventual, &positions, T0, 0, |id| usize::from(id == NodeId(2)));
        assert!(matches!(busy, Choice::Follower(NodeId(3), _)));
        let alone = super::super::view::tests::view(vec![status(1, Role::Leader, 2, 10)]);
        assert!(matches!(choose_idle(&alone, Consistency::Eventual, &positions, 0), Choice::Leader(_)));
    }

    #[test]
    fn own_writes_are_asked_for_once_and_then_waited_for() {
        let mut positions = Positions::default();
        assert!(matches!(choose_idle(&group([1, 1]), Consistency::ReadYourWrites, &positions, 0), Choice::Follower(..)));
        positions.wrote(true);
        assert_eq!(choose_idle(&group([1, 1]), Consistency::ReadYourWrites, &positions, 0), Choice::AskCommitted);
        positions.covered(GroupId(0), LogIndex(5));
        assert_eq!(choose_idle(&group([4, 4]), Consistency::ReadYourWrites, &positions, 0), Choice::Wait);
        assert!(matches!(choose_idle(&group([4, 5]), Consistency::ReadYourWrites, &positions, 0), Choice::Follower(NodeId(3), _)));
        positions.wrote(false);
        assert!(matches!(choose_idle(&group([9, 9]), Consistency::ReadYourWrites, &positions, 0), Choice::Leader(_)));
        positions.wrote(true);
        assert_eq!(choose_idle(&group([9, 9]), Consistency::ReadYourWrites, &positions, 0), Choice::AskCommitted);
    }

    #[test]
    fn monotonic_stays_and_moves_only_with_a_bound() {
        let mut positions = Positions { saw: Some(saw(3)), ..Positions::default() };
        assert!(matches!(choose_idle(&group([9, 2]), Consistency::Monotonic, &positions, 0), Choice::Follower(NodeId(3), _)));
        let mut gone = group([9, 2]);
        gone.lost(2);
        assert_eq!(choose_idle(&gone, Consistency::Monotonic, &positions, 0), Choice::AskSeen(saw(3)));
        positions.saw_at_most(GroupId(0), LogIndex(4));
        assert!(matches!(choose_idle(&gone, Consistency::Monotonic, &positions, 0), Choice::Follower(NodeId(2), _)));
        positions.saw_at_most(GroupId(0), LogIndex(10));
        assert_eq!(choose_idle(&gone, Consistency::Monotonic, &positions, 0), Choice::Wait);
    }

    #[test]
    fn what_was_seen_on_the_leader_bounds_a_follower() {
        let positions = Positions { saw: Some(saw(1)), ..Positions::default() };
        assert_eq!(choose_idle(&group([9, 9]), Consistency::Monotonic, &positions, 0), Choice::AskSeen(saw(1)));
    }

    #[test]
    fn a_node_that_was_opened_anew_may_have_lost_what_it_showed() {
        let before = Serving { epoch: Epoch(7), ..saw(3) };
        let positions = Positions { saw: Some(before), ..Positions::default() };
        assert_eq!(choose_idle(&group([9, 9]), Consistency::Monotonic, &positions, 0), Choice::AskSeen(before));
    }
}
