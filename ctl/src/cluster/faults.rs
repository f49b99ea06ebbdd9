//! Faults on purpose: processes that end without a word.

use super::{Cluster, Error, servers};
use howdah_protocol::NodeId;
use rustix::process::Signal;
use std::time::Instant;

/// A node that was just killed.
#[derive(Debug, Clone, Copy)]
pub struct Killed {
    pub node: NodeId,
    /// When the first signal was sent.
    pub at: Instant,
}

/// How Postgres is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGINT: sessions are ended, and with them the waits of their commits; then a checkpoint.
    Fast,
    /// SIGQUIT: as a crash.
    Immediate,
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

    /// Tells a node's Postgres to end and returns when it has. Its sidecar lives on.
    pub async fn shut_postgres(&mut self, node: NodeId, how: Shutdown) -> Result<Killed, Error> {
        self.nth(node)?;
        let mut servers = servers::of(&self.layout.pg_data(node));
        let at = Instant::now();
        servers.ask(match how {
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        });
        servers.wait_gone().await?;
        Ok(Killed { node, at })
    }

    /// SIGKILL of the proxy; returns when it is gone.
    pub async fn kill_proxy(&mut self) -> Result<(), Error> {
        if let Some(mut proxy) = self.proxy.take() {
            proxy.kill();
            proxy.wait_gone().await?;
        }
        Ok(())
    }

    /// SIGKILL of everything at once, as when the power fails; returns when all is gone.
    pub async fn kill_everything(&mut self) -> Result<(), Error> {
        let mut servers: Vec<_> = self.info.nodes.iter().map(|node| servers::of(&self.layout.pg_data(node.id))).collect();
        for process in self.nodes.iter_mut().flatten().chain(&mut self.proxy) {
            process.kill();
        }
        servers.iter_mut().for_each(servers::Servers::kill);
        for slot in self.nodes.iter_mut().chain([&mut self.proxy]) {
            if let Some(mut process) = slot.take() {
                process.wait_gone().await?;
            }
        }
        for servers in &mut servers {
            servers.wait_gone().await?;
        }
        Ok(())
    }

    /// The pids of a node's Postgres, the postmaster first; none where it does not run.
    #[must_use]
    pub fn postgres_pids(&self, node: NodeId) -> Vec<i32> {
        servers::of(&self.layout.pg_data(node)).processes().iter().map(|(pid, _)| *pid).collect()
    }
}
