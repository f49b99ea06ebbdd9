//! Disks that can be told to be slow or full, under the nodes of a cluster.
//!
//! ```text
//!   sidecar, Postgres ---- shim (slow) ---- NODE/data        a volume of its own (full): Postgres and what else the node keeps
//!                                           NODE/data/raft   another: the log
//! ```
//!
//! Both are under every node from its start, and do nothing until they are told. What this machine cannot do is known by its reason.

mod shim;
mod volume;

pub use shim::{Disk, Order, Shim, Struck, heal, struck, tell};
pub use volume::Volume;

use crate::Fixture;
use anyhow::{Context, Result};
use howdah_ctl::cluster::{Cluster, Options};
use howdah_protocol::NodeId;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Volumes {
    // Mounted in the other, so it goes first.
    log: Volume,
    postgres: Volume,
}

/// The disks of a cluster's nodes.
#[derive(Debug)]
pub struct Disks {
    shim: Result<Shim, String>,
    /// Why no disk can be full here.
    no_volumes: Option<String>,
    volumes: Mutex<BTreeMap<NodeId, Volumes>>,
}

/// Unmounts them with the value, whoever still knows them: after the cluster, and before the folder that they are in.
#[derive(Debug)]
struct Mounts(Arc<Disks>);

impl Drop for Mounts {
    fn drop(&mut self) {
        self.0.lock().clear();
    }
}

impl Disks {
    /// As far as this machine can make them.
    pub fn new() -> Result<Self> {
        let shim = match Shim::why_not() {
            Some(why) => Err(why),
            None => Ok(Shim::build()?),
        };
        Ok(Self { shim, no_volumes: Volume::why_not(), volumes: Mutex::default() })
    }

    /// Why none can be slow, if so.
    #[must_use]
    pub fn why_not_slow(&self) -> Option<&str> {
        self.shim.as_ref().err().map(String::as_str)
    }

    /// Why none can be full, if so.
    #[must_use]
    pub fn why_not_full(&self) -> Option<&str> {
        self.no_volumes.as_deref()
    }

    pub fn put_under(&self, options: &mut Options) -> Result<()> {
        self.shim.as_ref().map_or(Ok(()), |shim| shim.put_under(options))
    }

    /// Under every node of a cluster that was never started.
    pub fn make_all(self: &Arc<Self>, fixture: &mut Fixture) -> Result<()> {
        fixture.keep_beside(Mounts(Arc::clone(self)));
        fixture.nodes().into_iter().try_for_each(|node| self.make(fixture, node))
    }

    /// For a node that is about to start for the first time.
    pub fn make(&self, cluster: &Cluster, node: NodeId) -> Result<()> {
        let mut volumes = self.lock();
        if self.no_volumes.is_some() || volumes.contains_key(&node) {
            return Ok(());
        }
        let data = folder_of(cluster, node);
        fs::create_dir_all(&data)?;
        let postgres = Volume::mount(&data)?;
        let raft = data.join("raft");
        fs::create_dir(&raft)?;
        volumes.insert(node, Volumes { log: Volume::mount(&raft)?, postgres });
        Ok(())
    }

    /// Of a node that has left.
    pub fn remove(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    /// Not a block is left where that disk is. Returns how one knows.
    pub fn fill(&self, node: NodeId, disk: Disk) -> Result<String> {
        let volumes = self.lock();
        let of_node = volumes.get(&node).with_context(|| format!("node {node} has no disk of its own"))?;
        let mut proofs = Vec::new();
        if disk != Disk::Postgres {
            proofs.push(format!("log: {}", of_node.log.fill()?));
        }
        if disk != Disk::Log {
            proofs.push(format!("PostgreSQL: {}", of_node.postgres.fill()?));
        }
        Ok(proofs.join("; "))
    }

    /// Every disk of every node is well again.
    pub fn heal(&self, cluster: &Cluster) -> Result<()> {
        for volumes in self.lock().values() {
            volumes.log.empty()?;
            volumes.postgres.empty()?;
        }
        cluster.info().nodes.iter().try_for_each(|node| heal(cluster, node.id))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Volumes>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn folder_of(cluster: &Cluster, node: NodeId) -> PathBuf {
    cluster.data().join(format!("node{node}/data"))
}
