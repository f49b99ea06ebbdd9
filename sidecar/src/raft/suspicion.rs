//! Who takes over when a leader's process has died: pure, so that it can be tested without dying processes.
//!
//! An early election goes around the leader's lease, which protects a living leader. So it needs what a vote needs: a majority of the
//! voters that finds the leader gone. And of those who agree only the best candidate goes at once, so that two do not split the vote;
//! the others wait in line. A node that is unable to lead is a witness, but no candidate.

use crate::core::health::Fit;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

/// Between one candidate's turn and the next one's: two fsyncs and two round trips of a busy machine.
const TURN: Duration = Duration::from_millis(60);

/// A node's claim to be the next leader. The fitter goes first, then longer logs, then lower ids: every node comes to the same order. One that is fit and
/// lacks the log is refused, and then it is the next one's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) node: u64,
    /// Term and index of its last entry.
    pub(crate) last: (u64, u64),
    pub(crate) fit: Fit,
}

impl Claim {
    fn goes_before(&self, other: &Self) -> bool {
        let rank = |claim: &Self| (claim.fit, claim.last, Reverse(claim.node));
        rank(self) > rank(other)
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
    if me.node == leader || !voters.contains(&me.node) || me.fit == Fit::Unable {
        return Decision::Stay;
    }
    let agreeing: Vec<_> = agreeing.iter().filter(|claim| claim.node != me.node && voters.contains(&claim.node)).collect();
    if (1 + agreeing.len()) * 2 <= voters.len() {
        return Decision::Stay;
    }
    let ahead = agreeing.iter().filter(|claim| claim.goes_before(&me)).count();
    if ahead <= turn { Decision::ElectNow } else { Decision::Wait(TURN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(node: u64, index: u64) -> Claim {
        Claim { node, last: (1, index), fit: Fit::Fit }
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
    fn a_node_that_is_unable_is_a_witness_but_no_candidate() {
        let unable = |node, index| Claim { fit: Fit::Unable, ..claim(node, index) };
        assert_eq!(decide(unable(2, 6), 1, &THREE.into(), &[claim(3, 5)], 0), Decision::Stay);
        assert_eq!(decide(claim(3, 5), 1, &THREE.into(), &[unable(2, 6)], 0), Decision::ElectNow);
        assert_eq!(decide(unable(2, 6), 1, &THREE.into(), &[unable(3, 5)], 9), Decision::Stay);
    }

    #[test]
    fn a_slow_node_leaves_the_first_turn_to_a_fit_one() {
        let slow = |node, index| Claim { fit: Fit::Doubtful, ..claim(node, index) };
        assert_eq!(decide(slow(2, 6), 1, &THREE.into(), &[claim(3, 5)], 0), Decision::Wait(TURN));
        assert_eq!(decide(slow(2, 6), 1, &THREE.into(), &[claim(3, 5)], 1), Decision::ElectNow);
        assert_eq!(decide(claim(3, 5), 1, &THREE.into(), &[slow(2, 6)], 0), Decision::ElectNow);
        assert_eq!(decide(slow(2, 6), 1, &THREE.into(), &[slow(3, 6)], 0), Decision::ElectNow);
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
