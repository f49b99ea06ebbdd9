//! Who may become a member, and who may leave.
//!
//! An id stands for the votes that its node gave, so it is given away once. A member may leave only if those that stay can decide
//! without it: the removal itself is decided by them, and so is every commit after it.

use howdah_protocol::NodeId;
use howdah_protocol::admin::{AddMember, Member};
use std::collections::BTreeSet;

/// What is to be done next for an addition that may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addition {
    /// It is no member yet: let it follow.
    Admit,
    /// It follows already: give it a vote as soon as it has caught up.
    Promote,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("node {0} is a member already")]
    Member(NodeId),
    #[error("id {0} was a member's before; ids are never used again")]
    Used(NodeId),
    #[error("{address} is the address of node {node}")]
    Address { address: String, node: NodeId },
    #[error("node ids start at 1")]
    Zero,
    #[error("node {0} is no member")]
    Stranger(NodeId),
    #[error("node {0} is the only voting member")]
    Last(NodeId),
    #[error("without node {node}, {living} of {voters} voting members would be alive, which is no majority")]
    NoMajority { node: NodeId, living: usize, voters: usize },
}

impl Refusal {
    /// What the operator can do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Member(_) | Self::Used(_) => "choose an id that GET /v1/members does not list in ids_used",
            Self::Address { .. } => "remove that node first, or give the new one an address of its own",
            Self::Zero => "choose another id",
            Self::Stranger(_) => "see GET /v1/members",
            Self::Last(_) => "add another node first",
            Self::NoMajority { .. } => "bring back a node that is away, or remove that one first, or add another",
        }
    }
}

/// Whether `new` may be added. An addition that was begun goes on: the same id at the same addresses.
pub fn add(members: &[Member], ids_used: &BTreeSet<NodeId>, new: &AddMember) -> Result<Addition, Refusal> {
    if new.node.0 == 0 {
        return Err(Refusal::Zero);
    }
    if let Some(known) = members.iter().find(|member| member.node == new.node) {
        let begun = !known.voter && known.admin == new.admin && known.sql == new.sql;
        return if begun { Ok(Addition::Promote) } else { Err(Refusal::Member(new.node)) };
    }
    if ids_used.contains(&new.node) {
        return Err(Refusal::Used(new.node));
    }
    for member in members {
        for (theirs, address) in [(&member.admin, &new.admin), (&member.sql, &new.sql)] {
            if theirs == address {
                return Err(Refusal::Address { address: address.clone(), node: member.node });
            }
        }
    }
    Ok(Addition::Admit)
}

/// Whether `node` may leave. `living`: the members that answered the leader lately, and the leader.
pub fn remove(members: &[Member], living: &BTreeSet<NodeId>, node: NodeId) -> Result<(), Refusal> {
    let Some(leaving) = members.iter().find(|member| member.node == node) else { return Err(Refusal::Stranger(node)) };
    if !leaving.voter {
        return Ok(());
    }
    let staying: Vec<_> = members.iter().filter(|member| member.voter && member.node != node).collect();
    let alive = staying.iter().filter(|member| living.contains(&member.node)).count();
    match staying.len() {
        0 => Err(Refusal::Last(node)),
        voters if alive * 2 <= voters => Err(Refusal::NoMajority { node, living: alive, voters }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u64, voter: bool) -> Member {
        Member { node: NodeId(node), admin: format!("a{node}"), sql: format!("s{node}"), voter }
    }

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn new(node: u64, at: u64) -> AddMember {
        AddMember { node: NodeId(node), admin: format!("a{at}"), sql: format!("s{at}") }
    }

    #[test]
    fn an_id_is_given_away_once_and_an_addition_that_was_begun_goes_on() {
        let members = [member(1, true), member(2, true), member(4, false)];
        let add = |new: &AddMember| add(&members, &ids(&[1, 2, 3, 4]), new);
        assert_eq!(add(&new(5, 5)), Ok(Addition::Admit));
        assert_eq!(add(&new(4, 4)), Ok(Addition::Promote));
        assert_eq!(add(&new(4, 5)), Err(Refusal::Member(NodeId(4))), "elsewhere");
        assert_eq!(add(&new(2, 2)), Err(Refusal::Member(NodeId(2))));
        assert_eq!(add(&new(3, 3)), Err(Refusal::Used(NodeId(3))));
        assert_eq!(add(&new(0, 9)), Err(Refusal::Zero));
        assert_eq!(add(&new(5, 2)), Err(Refusal::Address { address: "a2".into(), node: NodeId(2) }));
        assert_eq!(add(&new(5, 3)), Ok(Addition::Admit), "the address of one that has left");
    }

    #[test]
    fn those_that_stay_must_have_a_majority_of_living_ones() {
        let three = [member(1, true), member(2, true), member(3, true)];
        let four = [member(1, true), member(2, true), member(3, true), member(4, true)];
        let refused = |node, living, voters| Err(Refusal::NoMajority { node: NodeId(node), living, voters });
        assert_eq!(remove(&three, &ids(&[1, 2, 3]), NodeId(2)), Ok(()));
        assert_eq!(remove(&three, &ids(&[1, 2]), NodeId(3)), Ok(()), "the dead one");
        assert_eq!(remove(&three, &ids(&[1, 2]), NodeId(2)), refused(2, 1, 2));
        assert_eq!(remove(&four, &ids(&[1, 2, 3]), NodeId(3)), Ok(()));
        assert_eq!(remove(&four, &ids(&[1, 2]), NodeId(2)), refused(2, 1, 3));
        assert_eq!(remove(&three[..1], &ids(&[1]), NodeId(1)), Err(Refusal::Last(NodeId(1))));
        assert_eq!(remove(&three[..2], &ids(&[1, 2]), NodeId(1)), Ok(()));
        assert_eq!(remove(&three, &ids(&[1, 2, 3]), NodeId(9)), Err(Refusal::Stranger(NodeId(9))));
        let learner = [member(1, true), member(2, false)];
        assert_eq!(remove(&learner, &ids(&[1]), NodeId(2)), Ok(()), "it never counted");
    }
}
