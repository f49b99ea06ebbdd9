//! What can go wrong with a local cluster, each with what to do about it.

use howdah_protocol::NodeId;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Postgres(#[from] crate::postgres::Error),
    #[error("`{name}` was not found in {}; build it (`cargo build`), or set {variable} to its folder", .dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" or "))]
    NoBinary { name: &'static str, dirs: Vec<PathBuf>, variable: &'static str },
    #[error("a local cluster has 1 to {max} nodes, not {nodes}")]
    NodeCount { nodes: u32, max: u32 },
    #[error("{nodes} nodes need as many hosts at least, not {hosts}")]
    HostCount { nodes: u32, hosts: usize },
    #[error("{}: in use by {holder} (pid {pid}); stop it first (`howdahctl down --data {}`), or choose another folder with --data", .data.display(), .data.display())]
    InUse { data: PathBuf, holder: String, pid: i32 },
    #[error("{}: a detached cluster runs here ({}); `howdahctl up --detach --data {}` starts what of it does not run, `howdahctl down --data {}` stops it", .data.display(), .processes, .data.display(), .data.display())]
    Running { data: PathBuf, processes: String },
    #[error("{}: not empty, and not a Howdah cluster; choose another folder with --data", .0.display())]
    NotEmpty(PathBuf),
    #[error("{}: no Howdah cluster here; start one with `howdahctl up --data {}`, or name its folder with --data", .0.display(), .0.display())]
    NoCluster(PathBuf),
    #[error("{}: not readable as a cluster description: {what}", .path.display())]
    BadManifest { path: PathBuf, what: String },
    #[error("{}: this cluster has {has}, but {asked} was asked for; leave that out, or choose another folder with --data", .data.display())]
    Mismatch { data: PathBuf, has: String, asked: String },
    #[error("setting {name}={value}: {why}")]
    Setting { name: String, value: String, why: String },
    #[error("port {port} ({what}) is in use; choose another block of ports with --port N (N to N+{span} are needed)")]
    PortInUse { port: u16, what: String, span: u16 },
    #[error("port {port} ({what}) is in use; stop what listens there: a cluster keeps the ports that it was made with")]
    PortTaken { port: u16, what: String },
    #[error("port {base} leaves no room: ports {base} to {base}+{span} are needed; choose a lower --port")]
    PortTooHigh { base: u16, span: u16 },
    #[error("no free block of ports was found")]
    NoPorts,
    #[error("{}: user `{user}` (Postgres does not run as root) cannot enter this folder; `chmod o+x` it, or choose another data folder with --data", .folder.display())]
    Unreachable { folder: PathBuf, user: String },
    #[error("there is no node {node}; the nodes are {}", .nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", "))]
    NoSuchNode { node: NodeId, nodes: Vec<NodeId> },
    #[error("id {node} is or was a node's; ids are never used again, the next free one is {next}")]
    IdUsed { node: NodeId, next: NodeId },
    #[error("a local cluster has at most {max} nodes; remove one first, or use another machine")]
    Full { max: u32 },
    #[error("the processes of this cluster have hosts of their own; only who made the hosts can let nodes come or go")]
    OnHosts,
    #[error("{}: not running; start it first: `howdahctl up --detach --data {}`", .0.display(), .0.display())]
    NotRunning(PathBuf),
    #[error("node {node}: {source}")]
    Member { node: NodeId, source: crate::admin::Error },
    #[error("{name} ended ({how}); the end of {}:\n{tail}", .log.display())]
    Ended { name: String, how: String, log: PathBuf, tail: String },
    #[error("{what} did not happen within {} s{detail}", .after.as_secs())]
    TimedOut { what: String, after: Duration, detail: String },
    #[error("no node is an open leader: {0}")]
    NoLeader(String),
}

impl Error {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
