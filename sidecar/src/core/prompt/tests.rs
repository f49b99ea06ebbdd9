//! A leader and its followers on paper: who is sent to at once, who at a pace.

use super::*;

/// A leader, node 1, and a clock.
struct Leader {
    pacer: Pacer,
    streams: BTreeMap<u64, u64>,
    now: Instant,
}

impl Leader {
    fn of(voters: &[u64], followers: &[u64]) -> Self {
        let mut pacer = Pacer::default();
        pacer.set_voters(voters.iter().copied().collect());
        let now = Instant::now();
        let streams = followers.iter().map(|node| (*node, pacer.opened(*node, now))).collect();
        Self { pacer, streams, now }
    }

    /// Asks for everybody in turn.
    fn paced(&mut self) -> Vec<u64> {
        let Self { pacer, streams, now } = self;
        streams.iter().filter(|(node, stream)| pacer.may_wait(**node, **stream, *now)).map(|(node, _)| *node).collect()
    }

    fn send(&mut self, node: u64) {
        self.pacer.sent(node, self.streams[&node], self.now);
    }

    fn answer(&mut self, node: u64) {
        self.pacer.answered(node, self.streams[&node], self.now);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Everybody answers `count` appends in its own time.
    fn settle(&mut self, count: u32, takes: &[(u64, Duration)]) {
        for _ in 0..count {
            for (node, time) in takes {
                self.send(*node);
                self.wait(*time);
                self.answer(*node);
            }
        }
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn all_but_the_smallest_majority_are_paced() {
    let nodes: Vec<u64> = (1..=7).collect();
    for (voters, prompt) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (7, 3)] {
        let mut leader = Leader::of(&nodes[..voters], &nodes[1..voters]);
        for _ in 0..3 {
            assert_eq!(leader.paced().len(), voters - 1 - prompt, "{voters} voters");
        }
    }
}

#[test]
fn a_learner_is_paced_and_nobody_relies_on_it() {
    let mut leader = Leader::of(&[1, 2, 3], &[2, 3, 4]);
    leader.paced();
    assert_eq!(leader.paced(), [3, 4]);
    leader.pacer.closed(2, 0);
    leader.streams.remove(&2);
    assert_eq!(leader.paced(), [4]);
}

#[test]
fn a_follower_that_owes_an_answer_is_not_waited_for() {
    let mut leader = Leader::of(&[1, 2, 3], &[2, 3]);
    leader.paced();
    assert_eq!(leader.paced(), [3]);
    leader.send(2);
    leader.wait(PACE);
    assert_eq!(leader.paced(), [3], "in time");
    leader.wait(MS);
    // 2 is asked first and may not be paced either: 3 was.
    assert_eq!(leader.paced(), [0_u64; 0], "both at once");
    leader.answer(2);
    assert_eq!(leader.paced(), [2], "and 3 has taken its place");
    assert_eq!(leader.paced(), [2]);
}

#[test]
fn slow_disks_everywhere_and_nobody_is_paced() {
    let mut leader = Leader::of(&[1, 2, 3], &[2, 3]);
    leader.paced();
    leader.send(2);
    leader.send(3);
    leader.wait(PACE + MS);
    for _ in 0..3 {
        assert_eq!(leader.paced(), [0_u64; 0]);
    }
}

#[test]
fn the_nearest_follower_gets_appends_at_once() {
    let mut leader = Leader::of(&[1, 2, 3], &[2, 3]);
    leader.paced();
    assert_eq!(leader.paced(), [3]);
    leader.settle(50, &[(2, 4 * MS), (3, MS / 2)]);
    leader.paced();
    assert_eq!(leader.paced(), [2]);
    // A difference that is small changes nothing.
    leader.settle(50, &[(2, MS), (3, 2 * MS)]);
    leader.paced();
    assert_eq!(leader.paced(), [2]);
}

#[test]
fn a_stream_that_has_ended_counts_for_nothing() {
    let mut leader = Leader::of(&[1, 2, 3], &[2, 3]);
    leader.paced();
    let now = leader.now;
    let before = leader.streams[&2];
    let stream = leader.pacer.opened(2, now);
    assert_ne!(stream, before);
    assert!(!leader.pacer.may_wait(2, before, now), "an old stream says nothing");
    // Until the new one has been asked for, 3 does not rely on it.
    assert!(!leader.pacer.may_wait(3, leader.streams[&3], now));
    leader.pacer.closed(2, before);
    assert!(leader.pacer.may_wait(2, stream, now));
}
