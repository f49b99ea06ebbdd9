//! What the nodes say about themselves, asked all at once.

use super::{Cluster, Error, Info, NodeAddress};
use crate::admin;
use howdah_protocol::NodeId;
use howdah_protocol::admin::{NodeStatus, Role};

/// One round of questions.
#[derive(Debug, Clone)]
pub struct Observed {
    pub nodes: Vec<NodeView>,
}

/// A node as it answered, or why it did not.
#[derive(Debug, Clone)]
pub struct NodeView {
    pub address: NodeAddress,
    pub status: Result<NodeStatus, String>,
}

impl Observed {
    /// The open leader; of two that believe they are, the one with the higher term.
    #[must_use]
    pub fn leader(&self) -> Option<&NodeStatus> {
        self.answers().filter(|status| status.role == Role::Leader && status.open).max_by_key(|status| status.term)
    }

    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.address.id == id)?.status.as_ref().ok()
    }

    /// The nodes that answered.
    pub fn answers(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.iter().filter_map(|node| node.status.as_ref().ok())
    }

    /// One line per node, for messages.
    #[must_use]
    pub fn in_words(&self) -> String {
        let line = |node: &NodeView| match &node.status {
            Ok(status) => {
                let open = if status.open { "open" } else { "closed" };
                format!("node {}: {}, {open}, term {}: {}", status.id, status.role, status.term, status.detail)
            }
            Err(why) => format!("node {}: unreachable: {why}", node.address.id),
        };
        self.nodes.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Info {
    /// Asks every node once. Never fails: a node that does not answer is part of the answer.
    pub async fn observe(&self) -> Observed {
        let ask = self.nodes.iter().map(|address| async move {
            let answer = admin::status(&address.admin.to_string()).await;
            NodeView { address: *address, status: answer.map_err(|error| error.to_string()) }
        });
        Observed { nodes: futures::future::join_all(ask).await }
    }
}

impl Cluster {
    pub async fn observe(&self) -> Observed {
        self.info.observe().await
    }

    /// The node that is the open leader right now.
    pub async fn leader(&self) -> Result<NodeId, Error> {
        let observed = self.observe().await;
        observed.leader().map(|leader| leader.id).ok_or_else(|| Error::NoLeader(observed.in_words()))
    }
}
