//! A group in this process: each node with its own folder, listener and connections.

use super::eventually;
use crate::raft::{self, Handle, Options, Peer, Proposer};
use bytes::Bytes;
use howdah_protocol::{GroupId, LogIndex, NodeId};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

pub(crate) const SECRET: &str = "test-secret";

pub(crate) struct Node {
    pub(crate) handle: Handle,
    server: tokio::task::JoinHandle<()>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Node {
    pub(crate) async fn start(options: Options, listener: TcpListener) -> Self {
        let handle = raft::open(options).await.unwrap();
        let connections = Arc::default();
        let server = tokio::spawn(serve(handle.clone(), listener, Arc::clone(&connections)));
        Self { handle, server, connections }
    }

    pub(crate) async fn stop(self) {
        self.server.abort();
        drop(self.server.await);
        self.connections.lock().unwrap().abort_all();
        self.handle.shutdown().await;
    }

    /// Every connection that peers have opened to this node.
    pub(crate) fn break_connections(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}

/// What the sidecar's admin listener does with requests below `/raft/`.
pub(crate) async fn serve(handle: Handle, listener: TcpListener, connections: Arc<Mutex<JoinSet<()>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let handle = handle.clone();
        let mut connections = connections.lock().unwrap();
        connections.spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            raft::configure_http(&mut builder);
            let service = service_fn(move |request| {
                let handle = handle.clone();
                async move { Ok::<_, Infallible>(handle.serve(request).await) }
            });
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

pub(crate) fn listen(addr: &str) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr.parse().unwrap()).unwrap();
    socket.listen(64).unwrap()
}

pub(crate) struct Group {
    root: TempDir,
    pub(crate) peers: Vec<Peer>,
    pub(crate) nodes: Vec<Option<Node>>,
}

impl Group {
    pub(crate) async fn start(size: u64) -> Self {
        Self::start_with(size, |_| {}).await
    }

    pub(crate) async fn start_with(size: u64, adjust: impl Fn(&mut Options)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let listeners: Vec<_> = (0..size).map(|_| listen("127.0.0.1:0")).collect();
        let peer = |(node, listener): (u64, &TcpListener)| Peer {
            node: NodeId(node),
            admin_addr: listener.local_addr().unwrap().to_string(),
            sql_addr: format!("sql-{node}"),
        };
        let peers: Vec<_> = (1..).zip(&listeners).map(peer).collect();
        let mut group = Self { root, peers, nodes: Vec::new() };
        for (at, listener) in listeners.into_iter().enumerate() {
            let mut options = group.options(at);
            adjust(&mut options);
            group.nodes.push(Some(Node::start(options, listener).await));
        }
        group
    }

    /// Nodes that have a log already, elsewhere.
    pub(crate) async fn resume(options: Vec<Options>) -> Self {
        let mut group = Self { root: tempfile::tempdir().unwrap(), peers: options[0].peers.clone(), nodes: Vec::new() };
        for (options, peer) in options.into_iter().zip(group.peers.clone()) {
            group.nodes.push(Some(Node::start(options, listen(&peer.admin_addr)).await));
        }
        group
    }

    pub(crate) fn dir(&self, at: usize) -> PathBuf {
        self.root.path().join(format!("node-{at}"))
    }

    pub(crate) fn options(&self, at: usize) -> Options {
        Options::new(self.dir(at), "test".into(), GroupId(0), self.peers[at].node, self.peers.clone(), SECRET.into())
    }

    pub(crate) async fn restart(&mut self, at: usize) {
        let listener = listen(&self.peers[at].admin_addr);
        self.nodes[at] = Some(Node::start(self.options(at), listener).await);
    }

    pub(crate) async fn stop(&mut self, at: usize) {
        self.nodes[at].take().unwrap().stop().await;
    }

    pub(crate) async fn stop_all(&mut self) {
        for at in 0..self.nodes.len() {
            if let Some(node) = self.nodes[at].take() {
                node.stop().await;
            }
        }
    }

    pub(crate) fn handles(&self) -> impl Iterator<Item = (usize, &Handle)> {
        self.nodes.iter().enumerate().filter_map(|(at, node)| Some((at, &node.as_ref()?.handle)))
    }

    pub(crate) fn handle(&self, at: usize) -> &Handle {
        &self.nodes[at].as_ref().unwrap().handle
    }

    /// The node that leads and may write.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader", || self.handles().find(|(_, handle)| handle.role().borrow().is_leader).map(|(at, _)| at)).await
    }

    /// A line of the leader, opened as a leader would.
    pub(crate) async fn line(&self, at: usize) -> Proposer {
        let term = self.handle(at).role().borrow().term;
        let proposer = self.handle(at).proposer(term);
        proposer.propose(super::opening(self.peers[at].node.0)).await.unwrap();
        proposer
    }

    /// Every running node knows that the entry is decided.
    pub(crate) async fn wait_decided(&self, index: LogIndex) {
        for (at, handle) in self.handles() {
            let decided = handle.decided();
            eventually(&format!("node {at} at {index}"), || (decided.borrow().index >= index).then_some(())).await;
        }
    }
}

/// All decided entries that can be read.
pub(crate) fn read_all(handle: &Handle) -> Vec<(LogIndex, Option<Bytes>)> {
    let mut from = handle.first_index().unwrap();
    let mut all = Vec::new();
    loop {
        let some = handle.read(from, 1 << 20).unwrap();
        let Some((last, _)) = some.last() else { return all };
        assert_eq!(some[0].0, from, "no gap");
        from = last.next();
        all.extend(some);
    }
}
