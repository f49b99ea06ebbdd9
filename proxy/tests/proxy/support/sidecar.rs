//! Stand-ins for the sidecars of one group: their status streams say what the test wants.

use super::postgres::{EPOCH, postgres};
use howdah_protocol::admin::{Committed, Lease, NodeStatus, Outcome, Role};
use howdah_protocol::{Epoch, GroupId, LogIndex, NodeId, Term};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How often a stream repeats what it said.
const REPEAT: Duration = Duration::from_millis(200);
/// What a leader with a majority behind it grants.
pub const LEASE_MS: u64 = 400;

#[derive(Debug)]
struct State {
    nodes: Vec<NodeStatus>,
    /// Nodes whose sidecar does not answer.
    down: Vec<u64>,
    committed: u64,
    committed_questions: u64,
    /// What the leader grants.
    lease_ms: u64,
    /// What every log says about every transaction.
    outcome: Outcome,
    /// The look-ups, as they were asked.
    outcome_questions: Vec<String>,
    version: u64,
}

/// A group that does not exist.
#[derive(Debug, Clone)]
pub struct Group {
    state: Arc<(Mutex<State>, Condvar)>,
    pub addresses: Vec<String>,
}

impl Group {
    /// Node 1 leads, the others follow; all have applied up to index 10.
    pub fn new(nodes: u64) -> Self {
        let listeners: Vec<_> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").expect("bound")).collect();
        let addresses: Vec<_> = listeners.iter().map(|one| one.local_addr().expect("address").to_string()).collect();
        let statuses = (1..=nodes).zip(&addresses).map(|(id, address)| NodeStatus {
            cluster: "test".into(),
            group: GroupId(0),
            id: NodeId(id),
            role: if id == 1 { Role::Leader } else { Role::Follower },
            open: true,
            epoch: Some(Epoch(EPOCH)),
            term: Term(1),
            leader: Some(NodeId(1)),
            committed_index: LogIndex(10),
            applied_index: LogIndex(10),
            lag_ms: 0,
            postgres_version: "15".into(),
            sql_address: format!("127.0.0.1:{}", postgres().port),
            admin_address: address.clone(),
            detail: String::new(),
            seeding: None,
            verified: None,
            trouble: None,
        });
        let state = State {
            nodes: statuses.collect(),
            down: Vec::new(),
            committed: 10,
            committed_questions: 0,
            lease_ms: LEASE_MS,
            outcome: Outcome::Unknown,
            outcome_questions: Vec::new(),
            version: 0,
        };
        let group = Self { state: Arc::new((Mutex::new(state), Condvar::new())), addresses };
        for (id, listener) in (1..).zip(listeners) {
            let group = group.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let group = group.clone();
                    std::thread::spawn(move || group.serve(id, stream));
                }
            });
        }
        group
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("no panic")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.version += 1;
        self.state.1.notify_all();
    }

    pub fn node(&self, id: u64, change: impl FnOnce(&mut NodeStatus)) {
        self.change(|state| change(state.nodes.iter_mut().find(|node| node.id.0 == id).expect("a node")));
    }

    pub fn applied(&self, id: u64, index: u64) {
        self.node(id, |node| node.applied_index = LogIndex(index));
    }

    pub fn committed(&self, index: u64) {
        self.change(|state| state.committed = index);
    }

    pub fn committed_questions(&self) -> u64 {
        self.lock().committed_questions
    }

    /// What the leader grants from now on.
    pub fn lease_ms(&self, lease_ms: u64) {
        self.change(|state| state.lease_ms = lease_ms);
    }

    /// What the log says about every transaction.
    pub fn outcome(&self, outcome: Outcome) {
        self.change(|state| state.outcome = outcome);
    }

    pub fn outcome_questions(&self) -> Vec<String> {
        self.lock().outcome_questions.clone()
    }

    /// Nobody leads.
    pub fn depose(&self) {
        self.change(|state| {
            for node in &mut state.nodes {
                if node.role == Role::Leader {
                    (node.role, node.open, node.epoch) = (Role::Demoting, false, None);
                }
            }
        });
    }

    /// This node leads, in a new term.
    pub fn promote(&self, id: u64) {
        self.change(|state| {
            let term = state.nodes.iter().map(|node| node.term.0).max().unwrap_or_default() + 1;
            for node in &mut state.nodes {
                (node.term, node.leader) = (Term(term), Some(NodeId(id)));
                if node.id.0 == id {
                    (node.role, node.open, node.epoch) = (Role::Leader, true, Some(Epoch(EPOCH)));
                } else if node.role != Role::Follower {
                    (node.role, node.open, node.epoch) = (Role::Follower, true, Some(Epoch(EPOCH)));
                }
            }
        });
    }

    /// The sidecar answers nothing any more.
    pub fn silence(&self, id: u64) {
        self.change(|state| state.down.push(id));
    }

    fn serve(&self, id: u64, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
        let mut stream = stream;
        loop {
            let mut request = String::new();
            let mut line = String::new();
            loop {
                line.clear();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if request.is_empty() {
                    request.clone_from(&line);
                }
                if line == "\r\n" {
                    break;
                }
            }
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            if self.lock().down.contains(&id) || self.answer(id, &path, &mut stream).is_err() {
                return;
            }
        }
    }

    fn answer(&self, id: u64, path: &str, stream: &mut TcpStream) -> std::io::Result<()> {
        match path {
            "/v1/status/stream" => {
                write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: application/x-ndjson\r\n\r\n")?;
                self.stream(id, stream)
            }
            "/v1/status" => {
                let status = self.lock().nodes.iter().find(|node| node.id.0 == id).cloned().expect("a node");
                respond(stream, 200, &serde_json::to_string(&status).expect("json"))
            }
            "/v1/committed" => {
                let mut state = self.lock();
                state.committed_questions += 1;
                let leads = state.nodes.iter().any(|node| node.id.0 == id && node.role == Role::Leader && node.open);
                let answer = Committed { group: GroupId(0), index: LogIndex(state.committed) };
                drop(state);
                let text = serde_json::to_string(&answer).expect("json");
                if leads { respond(stream, 200, &text) } else { respond(stream, 503, "{\"error\":\"not the leader\"}") }
            }
            "/v1/lease" => {
                let state = self.lock();
                let node = state.nodes.iter().find(|node| node.id.0 == id).expect("a node");
                let leads = node.role == Role::Leader;
                let answer = Lease { epoch: node.epoch.filter(|_| leads), left_ms: if leads { state.lease_ms } else { 0 } };
                drop(state);
                respond(stream, 200, &serde_json::to_string(&answer).expect("json"))
            }
            look_up if look_up.starts_with("/v1/outcome?") => {
                let mut state = self.lock();
                state.outcome_questions.push(look_up.to_owned());
                let answer = serde_json::to_string(&state.outcome).expect("json");
                drop(state);
                respond(stream, 200, &answer)
            }
            _ => respond(stream, 404, "{\"error\":\"unknown\"}"),
        }
    }

    fn stream(&self, id: u64, stream: &mut TcpStream) -> std::io::Result<()> {
        let (lock, changed) = &*self.state;
        let mut seen = None;
        loop {
            let line = {
                let mut state = lock.lock().expect("no panic");
                if seen == Some(state.version) {
                    (state, _) = changed.wait_timeout(state, REPEAT).expect("no panic");
                }
                seen = Some(state.version);
                if state.down.contains(&id) {
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
                let status = state.nodes.iter().find(|node| node.id.0 == id).expect("a node");
                serde_json::to_string(status).expect("json") + "\n"
            };
            write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
        }
    }
}

fn respond(stream: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\ncontent-type: application/json\r\n\r\n{body}", body.len())
}
