//! One log on all nodes: order, restart, purge, membership, strangers, and a disk that fills up.

use super::group::{Group, Node, SECRET, listen, read_all};
use super::{batch, eventually, number, opening, small_disk};
use crate::core::entry::ENTRY_BYTES_HARD_MAX;
use crate::raft::{self, Error, Options, Peer, ProposeError, ReadError};
use futures::stream::{FuturesOrdered, StreamExt};
use howdah_protocol::{GroupId, LogIndex, NodeId, Term};
use std::collections::BTreeSet;
use std::time::Duration;

const MANY: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_in_order_on_all_nodes_and_after_a_restart() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let node = group.peers[leader].node.0;
    let line = group.line(leader).await;
    let answers: FuturesOrdered<_> = (1..=MANY).map(|number| line.propose(batch(node, number, 100))).collect();
    let indexes: Vec<_> = answers.map(Result::unwrap).collect().await;
    assert!(indexes.windows(2).all(|pair| pair[0] < pair[1]), "decided in the order of the calls");
    let last = *indexes.last().unwrap();
    group.wait_decided(last).await;
    let read = read_all(group.handle(leader));
    let numbers: Vec<_> = read.iter().filter_map(|(_, bytes)| number(bytes.as_ref()?)).collect();
    assert_eq!(numbers, (1..=MANY).collect::<Vec<_>>());
    for (at, handle) in group.handles() {
        assert!(read_all(handle) == read, "node {at} has another log");
        assert_eq!(handle.decisions().1, group.handle(leader).decisions().1);
        assert_eq!(handle.decided().borrow().watermark.0, MANY * 10 + 2);
    }
    group.stop_all().await;
    for at in 0..3 {
        group.restart(at).await;
    }
    let leader = group.leader().await;
    let again = group.line(leader).await.propose(batch(node, MANY + 1, 1)).await.unwrap();
    assert!(again > last);
    group.wait_decided(again).await;
    for (at, handle) in group.handles() {
        assert!(read_all(handle)[..read.len()] == read, "node {at} has another log after a restart");
    }
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_one_and_of_five_work() {
    for size in [1, 5] {
        let mut group = Group::start(size).await;
        let leader = group.leader().await;
        let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
        group.wait_decided(index).await;
        assert!(group.handle(leader).read_index().await.unwrap() >= index);
        assert_eq!(group.handle(leader).members().len() as u64, size);
        assert_eq!(group.handle(leader).peers_progress().len() as u64, size - 1);
        group.stop_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_ends_with_its_first_refusal() {
    let mut group = Group::start(1).await;
    let leader = group.leader().await;
    let handle = group.handle(leader).clone();
    let term = handle.role().borrow().term;
    let line = handle.proposer(Term(term.0 - 1));
    let old = line.propose(opening(1)).await;
    assert!(matches!(old, Err(ProposeError::NotLeader { .. })), "{old:?}");
    assert_eq!(line.propose(opening(1)).await, Err(ProposeError::LineStopped));
    let line = handle.proposer(term);
    let large = line.propose(vec![0; ENTRY_BYTES_HARD_MAX + 1].into()).await;
    assert!(matches!(large, Err(ProposeError::TooLarge { .. })), "{large:?}");
    assert_eq!(line.propose(opening(1)).await, Err(ProposeError::LineStopped));
    let full = Options { in_flight_bytes_max: 1000, ..group.options(0) };
    group.stop_all().await;
    group.nodes[0] = Some(Node::start(full, listen(&group.peers[0].admin_addr)).await);
    group.leader().await;
    let line = group.line(0).await;
    let first = line.propose(batch(1, 1, 800));
    let second = line.propose(batch(1, 2, 800)).await;
    assert!(matches!(second, Err(ProposeError::Full { .. })), "{second:?}");
    first.await.unwrap();
    assert_eq!(line.propose(batch(1, 3, 1)).await, Err(ProposeError::LineStopped));
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_log_goes_on_and_a_new_node_gets_a_snapshot() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let absent = (leader + 1) % 3;
    group.stop(absent).await;
    let line = group.line(leader).await;
    let mut last = LogIndex(0);
    for number in 1..=50 {
        last = line.propose(batch(7, number, 10)).await.unwrap();
    }
    let other = 3 - leader - absent;
    group.wait_decided(last).await;
    for at in [leader, other] {
        let handle = group.handle(at);
        // On the leader it may wait for an attempt to send to the absent node to fail.
        handle.purge_to(LogIndex(40)).await.unwrap();
        assert_eq!(handle.first_index().unwrap(), LogIndex(41), "it is gone when that is said");
        assert!(matches!(handle.read(LogIndex(40), 1), Err(ReadError::Purged { first: LogIndex(41) })));
        assert_eq!(handle.read(LogIndex(41), 1).unwrap()[0].0, LogIndex(41));
    }
    // Decided state survives although the entries are gone.
    let before = group.handle(other).decisions();
    group.stop(other).await;
    group.restart(other).await;
    let handle = group.handle(other);
    eventually("the same decisions", || (handle.decisions() == before).then_some(())).await;
    // The absent node's next entry is gone: it gets the state, and says that it must be seeded.
    group.restart(absent).await;
    group.wait_decided(last).await;
    let handle = group.handle(absent);
    assert!(handle.snapshot_installed().borrow().is_some_and(|index| index >= LogIndex(40)));
    assert_eq!(handle.decisions().1, before.1);
    let next = group.line(group.leader().await).await.propose(batch(7, 51, 10)).await.unwrap();
    group.wait_decided(next).await;
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_and_another_leaves() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
    let listener = listen("127.0.0.1:0");
    let new = Peer { node: NodeId(4), admin_addr: listener.local_addr().unwrap().to_string(), sql_addr: "sql-4".into() };
    group.peers.push(new.clone());
    let options = Options { peers: Vec::new(), ..group.options(3) };
    group.nodes.push(Some(Node::start(options, listener).await));
    group.handle(leader).add_learner(new).await.unwrap();
    group.wait_decided(index).await;
    let leaving = group.peers[(leader + 1) % 3].node;
    group.handle(leader).add_voter(NodeId(4)).await.unwrap();
    group.handle(leader).remove_member(leaving).await.unwrap();
    let members = group.handle(leader).members();
    let voters: BTreeSet<_> = (1..=4).map(NodeId).filter(|node| *node != leaving).collect();
    assert!(members.iter().all(|member| member.voter), "{members:?}");
    assert_eq!(members.iter().map(|member| member.node).collect::<BTreeSet<_>>(), voters);
    assert_eq!(group.handle(leader).ids_used(), (1..=4).map(NodeId).collect());
    let index = group.line(leader).await.propose(batch(1, 2, 10)).await.unwrap();
    let handle = group.handle(3);
    eventually("the new node has it", || (handle.decided().borrow().index >= index).then_some(())).await;
    assert_eq!(handle.ids_used(), (1..=4).map(NodeId).collect());
    group.stop_all().await;
}

/// A node with another secret, or of another cluster, is refused: it neither follows nor disturbs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let stranger = (leader + 1) % 3;
    for (cluster, secret) in [("test", "wrong"), ("another", SECRET)] {
        group.stop(stranger).await;
        let mut options = group.options(stranger);
        options.cluster = cluster.into();
        options.secret = secret.into();
        options.dir = group.dir(10 + usize::from(secret == SECRET));
        // At once where it can ask somebody before it has a log.
        let refused = raft::open(options.clone()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
        let alone = Options { peers: Vec::new(), hosts: Vec::new(), ..options.clone() };
        raft::open(alone).await.unwrap().shutdown().await;
        group.nodes[stranger] = Some(Node::start(options, listen(&group.peers[stranger].admin_addr)).await);
        let leader = group.leader().await;
        let term = group.handle(leader).role().borrow().term;
        let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
        // Time enough to follow, or to stand for election twice.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(group.handle(stranger).decided().borrow().index < index, "it follows");
        assert_eq!(group.handle(leader).role().borrow().term, term, "it disturbs");
        group.stop(stranger).await;
        group.restart(stranger).await;
        group.wait_decided(index).await;
    }
    let mut options = group.options(0);
    group.stop_all().await;
    options.cluster = "another".into();
    assert!(matches!(raft::open(options).await, Err(Error::Foreign { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_log_and_says_so() {
    const NAME: &str = "raft::tests::log::a_full_disk_stops_the_log_and_says_so";
    let Some(dir) = small_disk::enter(NAME) else { return };
    let listener = listen("127.0.0.1:0");
    let peer = Peer { node: NodeId(1), admin_addr: listener.local_addr().unwrap().to_string(), sql_addr: String::new() };
    let options = Options::new(dir, "test".into(), GroupId(0), NodeId(1), vec![peer], SECRET.into());
    let node = Node::start(options, listener).await;
    let mut role = node.handle.role();
    let term = tokio::time::timeout(super::PATIENCE, role.wait_for(|role| role.is_leader)).await.unwrap().unwrap().term;
    let line = node.handle.proposer(term);
    line.propose(opening(1)).await.unwrap();
    let mut number = 0;
    let failure = loop {
        number += 1;
        let answer = tokio::time::timeout(super::PATIENCE, line.propose(batch(1, number, 10_000))).await.expect("an answer, not a hang");
        if let Err(error) = answer {
            break error;
        }
    };
    assert!(!failure.is_refusal(), "{failure}");
    let stopped = tokio::time::timeout(super::PATIENCE, role.wait_for(|role| role.stopped.is_some())).await.unwrap().unwrap().clone();
    assert!(!stopped.is_leader);
    assert!(stopped.stopped.unwrap().contains("large"), "the system's error is named");
    node.stop().await;
}
