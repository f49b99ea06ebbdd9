//! `howdahctl node add | remove | replace`: changes who is in the local cluster, while it serves.

use super::progress::Progress;
use super::{Data, Outcome, node_id};
use anyhow::bail;
use clap::{Args, Subcommand};
use howdah_ctl::admin;
use howdah_ctl::cluster::{Cluster, Options};
use howdah_protocol::NodeId;
use howdah_protocol::admin::{Member, MemberStep};
use serde::Serialize;
use std::time::{Duration, Instant};

const PURPOSE: &str = "howdahctl node";

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Start a new node, fill it from the leader, and give it a vote.
    Add(Add),
    /// Take a node out of the group and stop it. A leader hands over first. Its folder stays.
    Remove(Remove),
    /// Add a new node, then remove the old one.
    Replace(Replace),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Id of the new node, one that no node ever had; the next free one when left out
    #[arg(long, value_name = "N", value_parser = node_id)]
    pub(crate) id: Option<NodeId>,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The node that is to leave
    #[arg(value_name = "NODE", value_parser = node_id)]
    pub(crate) node: NodeId,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// The node that is to leave
    #[arg(value_name = "NODE", value_parser = node_id)]
    pub(crate) node: NodeId,
    /// Id of the new node, one that no node ever had; the next free one when left out
    #[arg(long, value_name = "N", value_parser = node_id)]
    pub(crate) id: Option<NodeId>,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct How {
    #[command(flatten)]
    data: Data,
    /// Seconds that filling a new node may take
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Print JSON: {"added","removed","seconds","members":[{"node","admin","sql","voter"}]}; progress goes to stderr
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Json {
    added: Option<NodeId>,
    removed: Option<NodeId>,
    seconds: f64,
    members: Vec<Member>,
}

pub(crate) async fn run(node: Node) -> anyhow::Result<Outcome> {
    let (Node::Add(Add { how, .. }) | Node::Remove(Remove { how, .. }) | Node::Replace(Replace { how, .. })) = &node;
    let (data, limit, json) = (how.data.dir(), Duration::from_secs(how.timeout), how.json);
    if let Some((pid, purpose)) = Cluster::owner(&data) {
        bail!(
            "{}: in use by {purpose} (pid {pid}); nodes come and go in a cluster that runs by itself: stop it and `howdahctl up --detach --data {}`",
            data.display(),
            data.display()
        );
    }
    let mut options = Options::new(data)?;
    PURPOSE.clone_into(&mut options.purpose);
    let began = Instant::now();
    let mut cluster = Cluster::take_over(options).await?;
    let done = change(&mut cluster, &node, limit).await;
    let info = cluster.info().clone();
    // Whatever came of it, the processes run on.
    cluster.detach();
    let (added, removed) = done?;
    if json {
        let leader = info.observe().await.leader().map(|leader| leader.admin_address.clone());
        let members = match leader {
            Some(leader) => admin::members(&leader).await?.members,
            None => Vec::new(),
        };
        println!("{}", serde_json::to_string_pretty(&Json { added, removed, seconds: began.elapsed().as_secs_f64(), members })?);
    }
    Ok(Outcome::Good)
}

async fn change(cluster: &mut Cluster, node: &Node, limit: Duration) -> anyhow::Result<(Option<NodeId>, Option<NodeId>)> {
    let mut shown = Progress::new();
    let mut progress = |step: &MemberStep| shown.tell(step);
    Ok(match node {
        Node::Add(add) => (Some(cluster.add_node(add.id, limit, &mut progress).await?), None),
        Node::Remove(remove) => {
            cluster.remove_node(remove.node, &mut progress).await?;
            (None, Some(remove.node))
        }
        Node::Replace(replace) => {
            let new = cluster.replace_node(replace.node, replace.id, limit, &mut progress).await?;
            (Some(new), Some(replace.node))
        }
    })
}
