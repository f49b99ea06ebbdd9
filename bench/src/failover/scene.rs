//! What is struck, and how it is made whole again.
//!
//! For a cut every node has a host of its own: a network namespace behind a router that loses packets when it is told to. Nobody gets a
//! reset; connections to the leader stay half open, as to a machine whose power or cable is gone.

use super::{Kind, Options};
use crate::fixtures::howdah;
use anyhow::{Context, bail, ensure};
use howdah_ctl::NodeId;
use howdah_ctl::admin;
use howdah_ctl::cluster::{Cluster, Port};
use howdah_ctl::netns::{self, Network};
use std::time::{Duration, Instant};

const NODES: usize = 3;
const REJOIN_TIMEOUT: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub(super) struct Scene {
    kind: Kind,
    // The cluster goes before the network that it runs in.
    cluster: Cluster,
    network: Option<Network>,
}

/// The leader that was struck, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Struck {
    pub(super) node: NodeId,
    pub(super) at: Instant,
}

impl Scene {
    pub(super) async fn start(options: &Options) -> anyhow::Result<Self> {
        let mut cluster = howdah::options(&options.bin_dir, &options.work.join("failover"))?;
        let mut network = None;
        if options.kind == Kind::Cut {
            if let Some(why) = netns::why_not() {
                bail!("hosts cannot be cut off here: {why}");
            }
            // One more for the proxy.
            let made = Network::make(NODES + 1)?;
            cluster.port = Port::Default;
            cluster.hosts = Some(made.cluster_hosts());
            network = Some(made);
        }
        let mut cluster = Cluster::create(cluster).await?;
        cluster.start().await.context("starting the cluster")?;
        Ok(Self { kind: options.kind, cluster, network })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Waits until nothing is under way, and says where the proxy is.
    pub(super) async fn settled(&self) -> anyhow::Result<String> {
        self.cluster.wait_settled(REJOIN_TIMEOUT).await?;
        Ok(self.cluster.info().proxy_url())
    }

    pub(super) async fn strike(&mut self) -> anyhow::Result<Struck> {
        let node = self.cluster.leader().await?;
        match (self.kind, &mut self.network) {
            (Kind::Switchover, _) => {
                let info = self.cluster.info();
                let address = info.node(node).context("the leader is one of the nodes")?.admin.to_string();
                let at = Instant::now();
                let done = admin::switchover(&address, &info.secret, None).await.context("the leader refused")?;
                ensure!(done.from == node && done.to != node, "leadership went from node {} to node {}", done.from, done.to);
                Ok(Struck { node, at })
            }
            (Kind::Cut, Some(network)) => {
                let at = Instant::now();
                let leader = host(node);
                for other in (0..network.hosts()).filter(|other| *other != leader) {
                    network.cut_both(leader, other)?;
                }
                Ok(Struck { node, at })
            }
            _ => {
                let killed = self.cluster.kill_leader().await?;
                Ok(Struck { node: killed.node, at: killed.at })
            }
        }
    }

    /// That a host was cut off: while the cut lasts. The other kinds prove themselves when they are struck.
    pub(super) async fn prove(&self, struck: &Struck) -> anyhow::Result<()> {
        let Some(network) = &self.network else { return Ok(()) };
        let (leader, proxy) = (host(struck.node), network.hosts() - 1);
        for (from, to) in [(leader, proxy), (proxy, leader)] {
            let probe = network.probe(from, to);
            let passes = tokio::task::spawn_blocking(move || probe.passes()).await??;
            ensure!(!passes, "the cut had a hole: datagrams got from host {from} to host {to}");
        }
        Ok(())
    }

    pub(super) async fn heal(&mut self, struck: &Struck) -> anyhow::Result<()> {
        match (self.kind, &mut self.network) {
            (Kind::Switchover, _) => {}
            (Kind::Cut, Some(network)) => network.heal()?,
            _ => self.cluster.restart_node(struck.node).await?,
        }
        Ok(self.cluster.wait_caught_up(struck.node, REJOIN_TIMEOUT).await?)
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.cluster.stop().await?)
    }
}

/// Nodes count from 1, hosts from 0.
fn host(node: NodeId) -> usize {
    usize::try_from(node.0).expect("nodes are few") - 1
}
