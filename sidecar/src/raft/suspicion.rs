//! Who takes over when a leader's process has died: pure, so that it can be tested without dying processes.
//!
//! An early election goes around the leader's lease, which protects a living leader. So it needs what a vote needs: a majority of the
//! voters that finds the leader gone. And of those who agree only the best candidate goes at once, so that two do not split the vote;
//! the others wait in line. A node that is not fit to lead is a witness, but no candidate.

use std::collections::BTreeSet;
use std::time::Duration;

/// Between one candidate's turn and the next one's: two fsyncs and two round trips of a busy machine.
const TURN: Duration = Duration::from_millis(60);

/// A node's claim to be the next leader. Longer logs win, then lower ids: every node comes to the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) node: u64,
    /// Term and index of its last entry.
    pub(crate) last: (u64, u64),
    pub(crate) fit: bool,
}

impl Claim {
    fn goes_before(&self, other: &Self) -> bool {
        (self.last, std::cmp::Reverse(self.node)) > (other.last, std::cmp::Reverse(other.node))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Leave it to the time-outs.
    Stay,
    ElectNow,
    /// Others go first; look again after this.
    Wait(Duration),
}

/// `agreeing`: the claims of the other voters that find the leader gone. `turn`: how often this node has waited already.
pub(crate) fn decide(me: Claim, leader: u64, voters: &BTreeSet<u64>, agreeing: &[Claim], turn: usize) -> Decision {
    if me.node == leader || !voters.contains(&me.node) || !me.fit {
        return Decision::Stay;
    }
    let agreeing: Vec<_> = agreeing.iter().filter(|claim| claim.node != me.node && voters.contains(&claim.node)).collect();
    if (1 + agreeing.len()) * 2 <= voters.len() {
        return Decision::Stay;
    }
    let ahead = agreeing.iter().filter(|claim| claim.fit && claim.goes_before(&me)).count();
    if ahead <= turn { Decision::ElectNow } else { Decision::Wait(TURN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(node: u64, index: u64) -> Claim {
        Claim { node, last: (1, index), fit: true }
    }

    const THREE: [u64; 3] = [1, 2, 3];

    #[test]
    fn the_longest_log_goes_first_then_the_lowest_id() {
        let voters = THREE.into();
        assert_eq!(decide(claim(2, 5), 1, &voters, &[claim(3, 5)], 0), Decision::ElectNow);
        assert_eq!(decide(claim(3, 5), 1, &voters, &[claim(2, 5)], 0), Decision::Wait(TURN));
        assert_eq!(decide(claim(3, 6), 1, &voters, &[claim(2, 5)], 0), Decision::ElectNow);
        assert_eq!(decide(claim(2, 5), 1, &voters, &[claim(3, 6)], 0), Decision::Wait(TURN));
    }

    #[test]
    fn whoever_waited_its_turn_goes() {
        assert_eq!(decide(claim(3, 5), 1, &THREE.into(), &[claim(2, 5)], 1), Decision::ElectNow);
    }

    #[test]
    fn an_unfit_node_is_a_witness_but_no_candidate() {
        let unfit = |node, index| Claim { fit: false, ..claim(node, index) };
        assert_eq!(decide(unfit(2, 6), 1, &THREE.into(), &[claim(3, 5)], 0), Decision::Stay);
        assert_eq!(decide(claim(3, 5), 1, &THREE.into(), &[unfit(2, 6)], 0), Decision::ElectNow);
        assert_eq!(decide(unfit(2, 6), 1, &THREE.into(), &[unfit(3, 5)], 9), Decision::Stay);
    }

    #[test]
    fn a_minority_unseats_nobody() {
        assert_eq!(decide(claim(2, 5), 1, &THREE.into(), &[], 0), Decision::Stay);
        assert_eq!(decide(claim(2, 5), 1, &[1, 2, 3, 4, 5].into(), &[claim(3, 5)], 9), Decision::Stay);
        assert_eq!(decide(claim(2, 5), 1, &[1, 2].into(), &[], 0), Decision::Stay);
        // Learners and strangers have no say, and nobody counts twice.
        assert_eq!(decide(claim(2, 5), 1, &THREE.into(), &[claim(9, 5), claim(2, 5)], 0), Decision::Stay);
        assert_eq!(decide(claim(9, 5), 1, &THREE.into(), &[claim(2, 5), claim(3, 5)], 0), Decision::Stay);
    }
}
