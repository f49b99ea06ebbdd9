//! Replaces a leader whose process has died at once, instead of after the election time-out.
//!
//! The kernel closes the sockets of a dead process, so its peers' control connections end within microseconds. Then:
//!
//! 1. The leader's port is tried again: refused means that the process is gone. A process that answers is asked whether it leads; one
//!    that was restarted does not.
//! 2. The other voters are asked whether they find the same. Without a majority nothing happens: one broken connection does not unseat
//!    a living leader, and a leader behind a firewall that rejects is gone only when a majority says so.
//! 3. The best candidate (see `suspicion`) elects itself. openraft refuses votes while a leader's lease runs, except for hand-overs, so
//!    the election is started as the hand-over that the dead leader cannot order any more.
//!
//! What a step that fails leaves behind is the ordinary time-out. Going around the lease means that a lease proves nothing about other
//! leaders: reads ask a majority (`Handle::read_index`).

use super::fitness::Fitness;
use super::link::{Down, Purpose};
use super::network::Network;
use super::server::messages::TransferRequest;
use super::suspicion::{Claim, Decision, decide};
use super::types::{Raft, Vote};
use crate::core::health::Fit;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// On a network a dead process's port answers within a round trip. A host that does not answer is the time-out's business.
const PROBE_WAIT_MAX: Duration = Duration::from_millis(100);
const PROBE_PAUSE: Duration = Duration::from_millis(2);
/// A witness probes before it answers.
const TESTIMONY_WAIT_MAX: Duration = Duration::from_millis(250);
const ELECT_WAIT_MAX: Duration = Duration::from_millis(500);
/// Voters that can stand before a node in the line. After that the time-outs have fired anyway.
const TURNS_MAX: usize = 4;

/// "Is this leader of this term gone for you too?"
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Suspect {
    leader: u64,
    term: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Testimony {
    gone: bool,
    last: (u64, u64),
    fit: Fit,
}

#[derive(Debug)]
pub(crate) struct Vigil {
    node: u64,
    raft: Raft,
    network: Network,
    fitness: Fitness,
}

/// What this node knows of its group at one moment.
struct View {
    vote: Vote,
    leader: Option<u64>,
    last: (u64, u64),
    voters: BTreeSet<u64>,
    addrs: BTreeMap<u64, String>,
}

impl Vigil {
    pub(crate) fn new(node: u64, raft: Raft, network: Network, fitness: Fitness) -> Self {
        Self { node, raft, network, fitness }
    }

    /// Keeps connections to all members, and acts when the one to the leader ends.
    pub(crate) async fn run(&self, mut downs: mpsc::Receiver<Down>) {
        let mut server = self.raft.server_metrics();
        loop {
            tokio::select! {
                down = downs.recv() => match down {
                    Some(Down { node }) => self.on_down(node).await,
                    None => return,
                },
                changed = server.changed() => match changed {
                    Ok(()) => self.connect_members(),
                    Err(_) => return,
                },
            }
        }
    }

    fn connect_members(&self) {
        for (node, addr) in self.view().addrs.iter().filter(|(node, _)| **node != self.node) {
            self.network.links(*node, addr);
        }
    }

    async fn on_down(&self, node: u64) {
        let view = self.view();
        if view.leader != Some(node) || node == self.node {
            return;
        }
        tracing::info!(leader = node, "the connection to the leader has ended");
        self.pursue(Suspect { leader: node, term: view.vote.leader_id.term }).await;
    }

    async fn pursue(&self, suspect: Suspect) {
        for turn in 0..TURNS_MAX {
            let view = self.view();
            if !view.still(suspect) || !self.is_gone(&view, suspect).await {
                return;
            }
            let agreeing = self.ask(&view, suspect).await;
            let me = Claim { node: self.node, last: view.last, fit: self.fitness.fit() };
            let decision = decide(me, suspect.leader, &view.voters, &agreeing, turn);
            tracing::info!(leader = suspect.leader, term = suspect.term, ?agreeing, ?decision, "the leader's process is gone");
            match decision {
                Decision::Stay => return,
                Decision::Wait(wait) => sleep(wait).await,
                Decision::ElectNow => {
                    let request = TransferRequest::new(view.vote, self.node, None);
                    match timeout(ELECT_WAIT_MAX, self.raft.handle_transfer_leader(request)).await {
                        Ok(Ok(Ok(()))) => {}
                        other => tracing::info!(?other, "the early election did not start"),
                    }
                    return;
                }
            }
        }
    }

    /// A peer asks whether the leader is gone for this node too.
    pub(crate) async fn testify(&self, suspect: Suspect) -> Testimony {
        let view = self.view();
        let gone = if suspect.leader == self.node {
            !(view.leader == Some(self.node) && view.vote.leader_id.term == suspect.term)
        } else {
            view.vote.leader_id.term <= suspect.term && self.is_gone(&view, suspect).await
        };
        Testimony { gone, last: view.last, fit: self.fitness.fit() }
    }

    /// Nobody listens at the leader's port any more, or somebody who does not lead.
    async fn is_gone(&self, view: &View, suspect: Suspect) -> bool {
        let Some(addr) = view.addrs.get(&suspect.leader) else { return false };
        let client = self.network.client(suspect.leader, addr, Purpose::Control);
        let gone = async {
            loop {
                match TcpStream::connect(addr).await {
                    // A dying process may close its connections before its port, which then still takes one, for a moment.
                    Ok(mut connection) => tokio::select! {
                        answer = client.call::<_, Testimony>("suspect", &suspect, PROBE_WAIT_MAX) => {
                            if let Ok(testimony) = answer {
                                return testimony.gone;
                            }
                        }
                        _ = connection.read_u8() => {}
                    },
                    Err(error) => return matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset),
                }
                sleep(PROBE_PAUSE).await;
            }
        };
        timeout(PROBE_WAIT_MAX, gone).await.unwrap_or(false)
    }

    async fn ask(&self, view: &View, suspect: Suspect) -> Vec<Claim> {
        let others = view.voters.iter().filter(|node| **node != self.node && **node != suspect.leader);
        let mut asked: FuturesUnordered<_> = others
            .filter_map(|node| Some((*node, view.addrs.get(node)?)))
            .map(|(node, addr)| async move {
                let client = self.network.client(node, addr, Purpose::Control);
                (node, client.call::<_, Testimony>("suspect", &suspect, TESTIMONY_WAIT_MAX).await)
            })
            .collect();
        let mut agreeing = Vec::new();
        while let Some((node, answer)) = asked.next().await {
            if let Ok(Testimony { gone: true, last, fit }) = answer {
                agreeing.push(Claim { node, last, fit });
            }
        }
        agreeing
    }

    fn view(&self) -> View {
        let data = self.raft.data_metrics();
        let last = data.borrow_watched().last_log.map_or((0, 0), |id| (id.leader_id.term, id.index));
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let membership = server.membership_config.membership();
        View {
            vote: server.vote,
            leader: server.current_leader,
            last,
            voters: membership.voter_ids().collect(),
            addrs: membership.nodes().map(|(node, address)| (*node, address.admin.clone())).collect(),
        }
    }
}

impl View {
    /// Nobody else has taken over meanwhile.
    fn still(&self, suspect: Suspect) -> bool {
        self.leader == Some(suspect.leader) && self.vote.leader_id.term == suspect.term && self.vote.committed
    }
}
