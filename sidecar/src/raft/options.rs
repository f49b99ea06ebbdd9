//! What the log is told when it is opened.

use super::error::Error;
use howdah_protocol::{GroupId, NodeId};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of this node's log; made where it is missing.
    pub dir: PathBuf,
    pub cluster: String,
    pub group: GroupId,
    pub node: NodeId,
    /// All voting members of a new group, this node among them. Once a log exists the members come from the log. Empty for a node
    /// that joins an existing group: it waits to be added.
    pub peers: Vec<Peer>,
    /// Whom a node without a log asks, before it begins one, whether it is welcome. Those who do not answer have no say.
    pub hosts: Vec<Peer>,
    /// Shared by all nodes of the cluster. Whoever does not know it is refused.
    pub secret: String,
    pub timings: Timings,
    /// Decided and undecided payloads kept in memory, so that followers and the applier rarely read the disk.
    pub cache_bytes_max: usize,
    /// Proposals that may wait for their decision at one time, in bytes.
    pub in_flight_bytes_max: usize,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    /// host:port of the listener that serves `/raft/`.
    pub admin_addr: String,
    /// host:port of the Postgres, for others to see.
    pub sql_addr: String,
}

/// A follower elects when it has heard nothing for the lease (`election_max`) and then a random time between `election_min` and
/// `election_max`: 650 to 800 ms after the last heartbeat with the defaults, plus one tick (13/64 of the heartbeat) and two rounds.
/// A leader that cannot be scheduled for that long is as good as dead. A process that dies is noticed at once (see `vigil`).
#[derive(Debug, Clone)]
pub struct Timings {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// How long a hand-over may take before the old leader takes it back.
    pub transfer: Duration,
    /// A dead leader process is replaced at once; off in tests that want the slow path.
    pub early_detection: bool,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(80),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(400),
            transfer: Duration::from_millis(1000),
            early_detection: true,
        }
    }
}

/// Enough for every follower that is a few seconds behind.
const CACHE_BYTES_MAX: usize = 64 << 20;
/// More than capture ever has in flight (`capture::Limits`, and one entry of the largest size beyond it): reaching it would end a line.
const IN_FLIGHT_BYTES_MAX: usize = 160 << 20;
const CLUSTER_NAME_LEN_MAX: usize = 255;

impl Options {
    #[must_use]
    pub fn new(dir: PathBuf, cluster: String, group: GroupId, node: NodeId, peers: Vec<Peer>, secret: String) -> Self {
        Self {
            dir,
            cluster,
            group,
            node,
            hosts: peers.clone(),
            peers,
            secret,
            timings: Timings::default(),
            cache_bytes_max: CACHE_BYTES_MAX,
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
        }
    }

    /// One node forms the group and the others get its first entry: were each to write its own, a difference in configuration would
    /// give the same place in the log two contents.
    pub(crate) fn forms_group(&self) -> bool {
        self.peers.iter().map(|peer| peer.node).min() == Some(self.node)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |text: &str| Err(Error::Options(text.to_owned()));
        if self.cluster.is_empty() || self.cluster.len() > CLUSTER_NAME_LEN_MAX {
            return refuse("the cluster name must have 1 to 255 bytes");
        }
        if !is_header_text(&self.cluster) || !is_header_text(&self.secret) {
            return refuse("the cluster name and the secret must be printable ASCII");
        }
        if self.secret.is_empty() {
            return refuse("the cluster secret is empty");
        }
        if !self.peers.is_empty() && !self.peers.iter().any(|peer| peer.node == self.node) {
            return Err(Error::Options(format!("node {} is not among its own peers", self.node)));
        }
        let mut ids: Vec<_> = self.peers.iter().map(|peer| peer.node).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.peers.len() {
            return refuse("two peers have the same id");
        }
        Ok(())
    }
}

fn is_header_text(text: &str) -> bool {
    text.bytes().all(|byte| (0x21..0x7f).contains(&byte))
}
