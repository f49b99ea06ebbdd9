//! Three processes, of which the leader is killed as `kill -9` does it: how long until another one may write.

use super::group::{Group, SECRET, listen, read_all, serve};
use super::{PATIENCE, batch, number, opening};
use crate::raft::{self, Options, Peer};
use howdah_protocol::{GroupId, LogIndex, NodeId};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const CHILD_VARIABLE: &str = "HOWDAH_TEST_RAFT_CHILD";
const NAME: &str = "raft::tests::process::a_killed_leader_is_replaced_at_once";
const ROUNDS: usize = 7;

/// What a child says on its standard output.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Leads,
    Follows,
    Acknowledged(LogIndex, u64),
}

fn parse(line: &str) -> Option<Said> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["LEADS"] => Some(Said::Leads),
        ["FOLLOWS"] => Some(Said::Follows),
        ["ACK", index, number, "."] => Some(Said::Acknowledged(LogIndex(index.parse().ok()?), number.parse().ok()?)),
        _ => None,
    }
}

/// The child: one node, which writes while it leads.
async fn run_child(argument: &str) -> ! {
    let log = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).with_ansi(false).init();
    let words: Vec<_> = argument.split(' ').collect();
    let (node, dir, addrs) = (words[0].parse::<usize>().unwrap(), PathBuf::from(words[1]), &words[2..]);
    let listener = listen(addrs[node - 1]);
    let handle = raft::open(options(node as u64, dir, addrs)).await.unwrap();
    tokio::spawn(serve(handle.clone(), listener, Arc::default()));
    let mut role = handle.role();
    let mut next = 0;
    loop {
        let now = role.borrow_and_update().clone();
        if now.is_leader {
            println!("LEADS");
            let line = handle.proposer(now.term);
            drop(line.propose(opening(node as u64)));
            while let Ok(index) = line.propose(batch(node as u64, next + 1, 1000)).await {
                next += 1;
                println!("ACK {} {next} .", index.0);
            }
        } else if now.leader.is_some() {
            println!("FOLLOWS");
        }
        role.changed().await.unwrap();
    }
}

fn options(node: u64, dir: PathBuf, addrs: &[&str]) -> Options {
    let peer = |(node, addr): (u64, &&str)| Peer { node: NodeId(node), admin_addr: (*addr).to_owned(), sql_addr: String::new() };
    let peers = (1..).zip(addrs).map(peer).collect();
    Options::new(dir, "test".into(), GroupId(0), NodeId(node), peers, SECRET.into())
}

struct Children {
    root: tempfile::TempDir,
    addrs: Vec<String>,
    children: Vec<Option<Child>>,
    said: mpsc::Receiver<(usize, Instant, Said)>,
    sender: mpsc::Sender<(usize, Instant, Said)>,
    acknowledged: BTreeMap<LogIndex, u64>,
}

impl Children {
    fn start(size: usize) -> Self {
        let listeners: Vec<_> = (0..size).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        drop(listeners);
        let (sender, said) = mpsc::channel();
        let children = (0..size).map(|_| None).collect();
        let root = tempfile::tempdir().unwrap();
        let mut this = Self { root, addrs, children, said, sender, acknowledged: BTreeMap::new() };
        (0..size).for_each(|at| this.spawn(at));
        this
    }

    fn dir(&self, at: usize) -> PathBuf {
        self.root.path().join(format!("node-{at}"))
    }

    fn spawn(&mut self, at: usize) {
        let argument = format!("{} {} {}", at + 1, self.dir(at).display(), self.addrs.join(" "));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(CHILD_VARIABLE, argument)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            for said in lines.map_while(Result::ok).filter_map(|line| parse(&line)) {
                drop(sender.send((at, Instant::now(), said)));
            }
        });
        self.children[at] = Some(child);
    }

    fn wait(&mut self, what: &str, mut wanted: impl FnMut(usize, &Said) -> bool) -> (usize, Instant) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, when, said) = self.said.recv_timeout(left).unwrap_or_else(|_| panic!("not in time: {what}"));
            if let Said::Acknowledged(index, number) = said {
                assert!(self.acknowledged.insert(index, number).is_none_or(|old| old == number), "two entries at {index}");
            }
            if wanted(at, &said) {
                return (at, when);
            }
        }
    }

    fn kill(&mut self, at: usize) -> Instant {
        let mut child = self.children[at].take().unwrap();
        let when = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        when
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_at_once() {
    if let Ok(argument) = std::env::var(CHILD_VARIABLE) {
        run_child(&argument).await;
    }
    let mut children = Children::start(3);
    let (mut leader, _) = children.wait("a first leader", |_, said| *said == Said::Leads);
    let mut gaps = Vec::new();
    for round in 0..ROUNDS {
        let mut writes = 0;
        children.wait("writes", |at, said| {
            writes += usize::from(at == leader && matches!(said, Said::Acknowledged(..)));
            writes > 20 + round * 7
        });
        let killed = children.kill(leader);
        let (next, when) = children.wait("another leader", |at, said| at != leader && *said == Said::Leads);
        gaps.push(when.saturating_duration_since(killed));
        children.spawn(leader);
        children.wait("the killed node is back", |at, said| at == leader && *said == Said::Follows);
        leader = next;
    }
    gaps.sort_unstable();
    println!("leader killed to next leader ready: {gaps:?}");
    assert!(gaps[ROUNDS / 2] < Duration::from_millis(450), "the time-out was not to be what replaced it: {gaps:?}");
    for at in 0..3 {
        children.kill(at);
    }
    check_nothing_is_lost(&mut children).await;
}

async fn check_nothing_is_lost(children: &mut Children) {
    while let Ok((_, _, said)) = children.said.recv_timeout(Duration::from_millis(200)) {
        if let Said::Acknowledged(index, number) = said {
            children.acknowledged.insert(index, number);
        }
    }
    let addrs: Vec<_> = children.addrs.iter().map(String::as_str).collect();
    let mut group = Group::resume((1..=3).map(|node| options(node, children.dir(node as usize - 1), &addrs)).collect()).await;
    let leader = group.leader().await;
    let last = group.line(leader).await.propose(batch(1, 1, 1)).await.unwrap();
    group.wait_decided(last).await;
    for (at, handle) in group.handles() {
        let log: BTreeMap<_, _> = read_all(handle).into_iter().filter_map(|(index, bytes)| Some((index, number(&bytes?)?))).collect();
        for (index, number) in &children.acknowledged {
            assert_eq!(log.get(index), Some(number), "node {at} at {index}");
        }
    }
    println!("{} acknowledged, none lost", children.acknowledged.len());
    group.stop_all().await;
}
