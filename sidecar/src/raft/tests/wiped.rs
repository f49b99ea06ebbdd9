//! A node that comes back under its old id without its log.

use super::group::{Group, Node, listen};
use super::{batch, eventually, number};
use crate::raft::{self, Error};
use howdah_protocol::NodeId;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Elections by time-out that could have been won meanwhile: more than three.
const ELECTIONS: Duration = Duration::from_secs(3);

/// What a folder holds that says anything: folders and an empty lock file do not.
fn content(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.metadata().unwrap() {
            kind if kind.is_dir() => found.extend(content(&entry.path())),
            kind if kind.len() > 0 => found.push(entry.path().display().to_string()),
            _ => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_with_the_old_id_is_refused_before_anything_is_written() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
    group.wait_decided(index).await;
    let wiped = (leader + 1) % 3;
    group.stop(wiped).await;
    fs::remove_dir_all(group.dir(wiped)).unwrap();
    let error = raft::open(group.options(wiped)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let hint = format!("howdahctl node replace {}", group.peers[wiped].node);
    assert!(error.to_string().contains(&hint), "{error}");
    assert_eq!(content(&group.dir(wiped)), Vec::<String>::new());
    group.line(leader).await.propose(batch(1, 2, 10)).await.expect("the others go on");
}

/// An entry that the dead leader and the wiped node had, and the third had not, would be lost if the wiped node counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_that_could_ask_nobody_counts_for_no_majority_and_stops() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let (wiped, behind) = ((leader + 1) % 3, (leader + 2) % 3);
    let roster = group.handle(behind).inner.server.identity.roster.clone();
    eventually("the followers meet", || roster.of(group.peers[wiped].node.0)).await;
    let line = group.line(leader).await;
    let before = line.propose(batch(1, 1, 10)).await.unwrap();
    group.wait_decided(before).await;
    group.stop(behind).await;
    let last = line.propose(batch(1, 2, 10)).await.unwrap();
    group.wait_decided(last).await;
    group.stop_all().await;

    fs::remove_dir_all(group.dir(wiped)).unwrap();
    let listener = listen(&group.peers[wiped].admin_addr);
    group.nodes[wiped] = Some(Node::start(group.options(wiped), listener).await);
    group.restart(behind).await;
    let role = group.handle(wiped).role();
    let why = eventually("the wiped node stops", || role.borrow().stopped.clone()).await;
    assert!(why.contains(&format!("howdahctl node replace {}", group.peers[wiped].node)), "{why}");
    let term = group.handle(behind).role().borrow().term;
    tokio::time::sleep(ELECTIONS).await;
    let role = group.handle(behind).role().borrow().clone();
    assert_eq!((role.term, role.is_leader), (term, false), "elected by a vote that was given before");
    assert!(group.handle(wiped).decided().borrow().index < before, "it took entries");

    // With the leader's log there is a majority, and nothing is lost.
    group.restart(leader).await;
    let handle = group.handle(behind).clone();
    let kept = || {
        let entries = handle.read(before, 1 << 20).ok()?;
        entries.iter().any(|(at, bytes)| *at == last && bytes.as_ref().and_then(number) == Some(2)).then_some(())
    };
    eventually("the last entry reaches the node that was behind", kept).await;
    assert_ne!(group.handle(behind).role().borrow().leader, Some(NodeId(wiped as u64 + 1)));
}

/// One that kept its folder when all others were made anew, say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_refuses_a_living_group_does_not_stop_it() {
    let group = Group::start(3).await;
    let leader = group.leader().await;
    let index = group.line(leader).await.propose(batch(1, 1, 10)).await.unwrap();
    group.wait_decided(index).await;
    // Somebody knows the leader by another log, and says so.
    group.handle(leader).inner.server.identity.roster.refuse("node 9 says: you are another");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(group.handle(leader).role().borrow().stopped, None);
    group.line(leader).await.propose(batch(1, 2, 10)).await.unwrap();
}
