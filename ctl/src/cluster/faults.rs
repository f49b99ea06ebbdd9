//! Faults on purpose: processes that end without a word.

use super::{Cluster, Error, servers};
use howdah_protocol::NodeId;
use std::time::Instant;

/// A node that was just killed.
#[derive(Debug, Clone, Copy)]
pub struct Killed {
    pub node: NodeId,
    /// When the first signal was sent.
    pub at: Instant,
}

impl Cluster {
    /// SIGKILL of the open leader's Postgres and sidecar.
    pub async fn kill_leader(&mut self) -> Result<Killed, Error> {
        let leader = self.leader().await?;
        self.kill_node(leader).await
    }

    /// SIGKILL of a node's sidecar and of its Postgres with all its children; returns when they are gone.
    pub async fn kill_node(&mut self, node: NodeId) -> Result<Killed, Error> {
        let nth = self.nth(node)?;
        let mut servers = servers::of(&self.layout.pg_data(node));
        let at = Instant::now();
        // The sidecar first: it must not see its Postgres die and act on it. That would be a kinder fault than the one asked for.
        if let Some(process) = &mut self.nodes[nth] {
            process.kill();
        }
        servers.kill();
        if let Some(mut process) = self.nodes[nth].take() {
            process.wait_gone().await?;
        }
        servers.wait_gone().await?;
        Ok(Killed { node, at })
    }

    /// SIGKILL of a node's Postgres only; its sidecar lives on. Returns when it is gone.
    pub async fn kill_postgres(&mut self, node: NodeId) -> Result<Killed, Error> {
        self.nth(node)?;
        let mut servers = servers::of(&self.layout.pg_data(node));
        let at = Instant::now();
        servers.kill();
        servers.wait_gone().await?;
        Ok(Killed { node, at })
    }

    /// SIGKILL of a node's sidecar only; its Postgres lives on.
    pub async fn kill_sidecar(&mut self, node: NodeId) -> Result<Killed, Error> {
        let nth = self.nth(node)?;
        let at = Instant::now();
        if let Some(mut process) = self.nodes[nth].take() {
            process.kill();
            process.wait_gone().await?;
        }
        Ok(Killed { node, at })
    }
}
