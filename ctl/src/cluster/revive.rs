//! Brings back what died of a cluster that runs by itself, and leaves the rest of it alone: no outage.

use super::files::Layout;
use super::manifest::Manifest;
use super::{Cluster, Error, Info, ports, process};
use howdah_protocol::NodeId;
use std::path::Path;

/// What was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revived {
    pub nodes: Vec<NodeId>,
    pub proxy: bool,
}

impl Cluster {
    /// A cluster in this folder was started to run by itself, and some of its processes do.
    pub fn is_detached(data: &Path) -> Result<bool, Error> {
        if !Info::exists(data) {
            return Ok(false);
        }
        let layout = Layout::of(data)?;
        let manifest = Manifest::load(&layout.manifest())?;
        Ok(process::any_detached_runs(&layout, &manifest))
    }

    /// Starts what does not run of a cluster that was taken over, as it was configured, and returns once it answers. Followers may catch up still.
    pub async fn start_missing(&mut self) -> Result<Revived, Error> {
        self.must_be_movable()?;
        let dead = |id: &NodeId| !process::runs(&self.layout.sidecar(*id));
        let nodes: Vec<NodeId> = self.info.nodes.iter().map(|node| node.id).filter(dead).collect();
        let revived = Revived { nodes, proxy: !process::runs(&self.layout.proxy()) };
        for id in &revived.nodes {
            // Its Postgres may have outlived it, and has the port.
            self.stop_node(*id).await?;
        }
        ports::must_be_free(&self.info, |nth| revived.nodes.contains(&self.info.nodes[nth].id), revived.proxy)?;
        for id in &revived.nodes {
            self.start_node_process(self.nth(*id)?)?;
        }
        if revived.proxy {
            self.start_proxy()?;
        }
        let limit = self.options.start_timeout;
        for id in &revived.nodes {
            self.wait_answering(*id, limit).await?;
        }
        self.wait_ready(limit).await?;
        Ok(revived)
    }
}
