//! A leader that goes: on request, by dying, or not at all.

use super::group::{Group, read_all};
use super::{PATIENCE, batch, eventually, number};
use crate::core::health::Fit;
use crate::raft::{Timings, TransferError};
use howdah_protocol::{LogIndex, NodeId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_and_the_line_ends() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let line = group.line(leader).await;
    let target = group.peers[(leader + 1) % 3].node;
    let start = Instant::now();
    assert_eq!(group.handle(leader).planned_successor(Some(target)).await, Ok(target));
    assert_eq!(group.handle(leader).transfer_leader(Some(target)).await, Ok(target));
    println!("handed over in {:?}", start.elapsed());
    assert!(line.propose(batch(1, 1, 10)).await.is_err());
    let handle = group.handle((leader + 1) % 3).clone();
    eventually("the target leads", || handle.role().borrow().is_leader.then_some(())).await;
    let to = handle.transfer_leader(None).await.unwrap();
    assert_ne!(to, target);
    let follower = handle.transfer_leader(None).await;
    assert_eq!(follower, Err(TransferError::NotLeader(Some(to))));
    let leader = group.leader().await;
    let stranger = group.handle(leader).transfer_leader(Some(NodeId(9))).await;
    assert_eq!(stranger, Err(TransferError::NotAMember(NodeId(9))));
    assert_eq!(group.handle(leader).planned_successor(Some(NodeId(9))).await, Err(TransferError::NotAMember(NodeId(9))));
    group.stop_all().await;
}

/// openraft's hand-over has no end of its own. Here the group writes again although the target never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_to_a_dead_node_is_taken_back() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let dead = (leader + 1) % 3;
    group.stop(dead).await;
    let start = Instant::now();
    let result = group.handle(leader).transfer_leader(Some(group.peers[dead].node)).await;
    // Either nobody took over in time, or the other living node did after the lease.
    let other = group.peers[3 - leader - dead].node;
    assert!(matches!(result, Err(TransferError::TimedOut { .. })) || result == Ok(other), "{result:?}");
    let leader = group.leader().await;
    let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
    println!("writing again {:?} after the request", start.elapsed());
    group.wait_decided(index).await;
    group.stop_all().await;
}

/// Nobody is there to take over, not even by time-out: the old leader takes it back itself, and leads again once it has a majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handover_without_a_majority_ends() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for follower in followers {
        group.stop(follower).await;
    }
    let to = group.peers[followers[0]].node;
    let result = group.handle(leader).transfer_leader(Some(to)).await;
    assert!(matches!(result, Err(TransferError::TimedOut { .. })), "{result:?}");
    group.restart(followers[0]).await;
    let leader = group.leader().await;
    let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
    group.wait_decided(index).await;
    group.stop_all().await;
}

/// Unfit nodes hand on only to a fit one; among themselves leadership would go round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfit_leader_hands_on_to_a_fit_node() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
    group.wait_decided(index).await;
    let [lower, upper] = [0, 1, 2].into_iter().filter(|at| *at != leader).collect::<Vec<_>>()[..] else { panic!("two followers") };
    let term = group.handle(leader).role().borrow().term;
    for at in 0..3 {
        group.handle(at).set_stage(Fit::Unable);
    }
    assert_eq!(group.handle(leader).hand_on().await, Err(TransferError::NoCandidate));
    assert_eq!(group.handle(leader).role().borrow().term, term);
    // Of two equal logs the lower id would come first, were it fit.
    group.handle(upper).set_stage(Fit::Fit);
    assert_eq!(group.handle(leader).hand_on().await, Ok(group.peers[upper].node));
    eventually("the fit node leads", || group.handle(upper).role().borrow().is_leader.then_some(())).await;
    // By plan it goes to no such node. One that it comes to all the same hands on.
    let unfit = group.peers[lower].node;
    assert_eq!(group.handle(upper).planned_successor(Some(unfit)).await, Err(TransferError::Unfit(unfit)));
    assert!(matches!(group.handle(upper).planned_successor(None).await, Err(TransferError::Unfit(_))));
    assert_eq!(group.handle(upper).transfer_leader(Some(unfit)).await, Ok(unfit));
    eventually("the unfit node leads", || group.handle(lower).role().borrow().is_leader.then_some(())).await;
    assert_eq!(group.handle(lower).hand_on().await, Ok(group.peers[upper].node));
    group.stop_all().await;
}

/// Whoever serves slowly is better than whoever does not serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_unable_hands_on_to_a_slow_node_which_keeps_it_from_another_slow_one() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
    group.wait_decided(index).await;
    let slow = (leader + 1) % 3;
    for at in 0..3 {
        group.handle(at).set_stage(Fit::Fit);
        group.handle(at).set_health(if at == leader { Fit::Unable } else { Fit::Doubtful });
    }
    group.handle((leader + 2) % 3).set_stage(Fit::Unable);
    assert_eq!(group.handle(leader).hand_on().await, Ok(group.peers[slow].node));
    eventually("the slow node leads", || group.handle(slow).role().borrow().is_leader.then_some(())).await;
    for at in 0..3 {
        group.handle(at).set_stage(Fit::Doubtful);
        group.handle(at).set_health(Fit::Fit);
    }
    assert_eq!(group.handle(slow).hand_on().await, Err(TransferError::NoCandidate));
    group.stop_all().await;
}

/// Neither the time-out nor the early detection makes an unfit node stand; where there are only unfit nodes, one is told to.
async fn unfit_nodes_leave_elections_to_others(early_detection: bool) {
    let mut group = Group::start_with(3, |options| options.timings.early_detection = early_detection).await;
    let leader = group.leader().await;
    let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
    group.wait_decided(index).await;
    let [lower, upper] = [0, 1, 2].into_iter().filter(|at| *at != leader).collect::<Vec<_>>()[..] else { panic!("two followers") };
    let term = group.handle(leader).role().borrow().term;
    group.handle(lower).set_stage(Fit::Unable);
    // A leader is not disturbed.
    group.handle(lower).stand_if_leaderless().await.unwrap();
    group.stop(leader).await;
    assert_eq!(group.leader().await, upper);
    let after = group.handle(upper).role().borrow().term;
    assert!(after > term);
    group.restart(leader).await;
    group.wait_decided(group.handle(upper).decided().borrow().index).await;

    // Nobody stands by itself: time-outs pass, and the term stays.
    group.handle(leader).set_stage(Fit::Unable);
    group.stop(upper).await;
    tokio::time::sleep(Timings::default().election_max * 5).await;
    for at in [lower, leader] {
        assert!(!group.handle(at).role().borrow().is_leader, "node {at} stood for election");
    }
    let deadline = Instant::now() + PATIENCE;
    while !group.handle(lower).role().borrow().is_leader {
        assert!(Instant::now() < deadline, "the node that was told to was not elected");
        group.handle(lower).stand_if_leaderless().await.unwrap();
        tokio::time::sleep(Timings::default().election_max).await;
    }
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfit_nodes_leave_elections_to_others_after_a_time_out() {
    unfit_nodes_leave_elections_to_others(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfit_nodes_leave_elections_to_others_after_an_early_detection() {
    unfit_nodes_leave_elections_to_others(true).await;
}

/// The time-outs alone, without early detection, stay within a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_leader_is_replaced_by_time_out() {
    let mut group = Group::start_with(3, |options| options.timings.early_detection = false).await;
    let leader = group.leader().await;
    group.line(leader).await;
    let start = Instant::now();
    group.stop(leader).await;
    group.leader().await;
    let (took, timings) = (start.elapsed(), Timings::default());
    println!("replaced in {took:?}");
    assert!(took >= timings.election_min, "the time-out was to be what replaced it");
    group.stop_all().await;
}

/// A leader that answers is alive, whatever becomes of connections to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_do_not_unseat_a_living_leader() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let line = group.line(leader).await;
    let term = group.handle(leader).role().borrow().term;
    for round in 1..=5 {
        group.nodes[leader].as_ref().unwrap().break_connections();
        let index = line.propose(batch(1, round, 10)).await.unwrap();
        group.wait_decided(index).await;
    }
    assert_eq!(group.handle(leader).role().borrow().term, term);
    group.stop_all().await;
}

/// Whatever was acknowledged is in the log of every later leader, at the index that was said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_entry_is_lost_when_leaders_die() {
    let seed = std::env::var("HOWDAH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}; again with HOWDAH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut group = Group::start(3).await;
    let mut acknowledged: BTreeMap<LogIndex, u64> = BTreeMap::new();
    let mut next = 0;
    for round in 0..8 {
        let leader = group.leader().await;
        let line = group.line(leader).await;
        let count = random.random_range(1..300);
        let answers: Vec<_> = (0..count)
            .map(|_| {
                next += 1;
                (next, line.propose(batch(1, next, 200)))
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        group.stop(leader).await;
        for (number, answer) in answers {
            if let Ok(index) = tokio::time::timeout(PATIENCE, answer).await.expect("an answer, not a hang") {
                assert!(acknowledged.insert(index, number).is_none(), "round {round}: two entries at {index}");
            }
        }
        group.leader().await;
        group.restart(leader).await;
    }
    let leader = group.leader().await;
    let last = group.line(leader).await.propose(batch(1, next + 1, 1)).await.unwrap();
    group.wait_decided(last).await;
    for (at, handle) in group.handles() {
        let log: BTreeMap<_, _> = read_all(handle).into_iter().filter_map(|(index, bytes)| Some((index, number(&bytes?)?))).collect();
        for (index, number) in &acknowledged {
            assert_eq!(log.get(index), Some(number), "node {at} at {index}, seed {seed}");
        }
    }
    println!("{} of {next} acknowledged, none lost", acknowledged.len());
    group.stop_all().await;
}
