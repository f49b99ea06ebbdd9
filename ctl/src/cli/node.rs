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

const ADD_HELP: &str = "\
What happens: the new node's sidecar starts, the leader lets it follow without a vote, it is filled while the others serve, and once it has caught
up it votes. Cut short (Ctrl-C, --timeout, a crash), it goes on by itself as far as it can: `howdahctl node add` finishes it, `howdahctl node
remove` gives it up.

How many: three nodes survive the loss of one, five that of two. An even number survives no more than one fewer: four nodes, the loss of one.

Examples:
  howdahctl node add                      the next id, at the next free ports of the block
  howdahctl node add --id 7 --json        an id of your choice, for scripts";

const REMOVE_HELP: &str = "\
What happens: a node that leads hands over; the others decide that it is out; it is stopped. Its folder stays and may be deleted. It is refused
where too few of the nodes that stay are alive to decide anything. Its id is never used again: it stands for the votes that were given under it.

Examples:
  howdahctl node remove 2                 a living or a dead node, the leader too";

const REPLACE_HELP: &str = "\
For a node whose disk is lost or wiped, or whose machine is to go. What happens: as `howdahctl node add`, and once the new node votes, as `howdahctl
node remove`: at no time are there fewer nodes than now.

Examples:
  howdahctl node replace 2                node 2, dead or alive, makes way for a new one";

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Start a new node, fill it from another, and give it a vote.
    #[command(after_help = ADD_HELP)]
    Add(Add),
    /// Take a node out of the group and stop it.
    #[command(after_help = REMOVE_HELP)]
    Remove(Remove),
    /// Add a new node, then remove the old one.
    #[command(after_help = REPLACE_HELP)]
    Replace(Replace),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Id of the new node, one that no node ever had; when left out, the node that an earlier `add` left without a vote, or the next id
    #[arg(long, value_name = "N", value_parser = node_id)]
    pub(crate) id: Option<NodeId>,
    #[command(flatten)]
    pub(crate) limit: Limit,
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
    pub(crate) limit: Limit,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, Args)]
pub(crate) struct Limit {
    /// Seconds that filling the new node may take
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

impl Limit {
    const fn get(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[derive(Debug, Args)]
pub(crate) struct How {
    #[command(flatten)]
    data: Data,
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
    let (data, json) = (how.data.dir(), how.json);
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
    let done = change(&mut cluster, &node).await;
    let info = cluster.info().clone();
    // Whatever came of it, the processes run on.
    cluster.detach();
    let (added, removed) = done?;
    let leader = info.observe().await.leader().map(|leader| leader.admin_address.clone());
    let members = match leader {
        Some(leader) => admin::members(&leader).await?.members,
        None => Vec::new(),
    };
    let done = Json { added, removed, seconds: began.elapsed().as_secs_f64(), members };
    println!("{}", if json { serde_json::to_string_pretty(&done)? } else { done.in_words() });
    Ok(Outcome::Good)
}

impl Json {
    fn in_words(&self) -> String {
        let what = match (self.added, self.removed) {
            (Some(new), Some(old)) => format!("node {new} is in the place of node {old}"),
            (Some(new), None) => format!("node {new} is a member and votes"),
            (None, Some(old)) => format!("node {old} is no member any more and is stopped; its folder stays"),
            (None, None) => "nothing changed".to_owned(),
        };
        let voters: Vec<_> = self.members.iter().filter(|member| member.voter).map(|member| member.node.to_string()).collect();
        let survived = voters.len().saturating_sub(1) / 2;
        let nodes = if survived == 1 { "one node".to_owned() } else { format!("{survived} nodes") };
        let one_fewer = if voters.len().is_multiple_of(2) { ", as would one node fewer" } else { "" };
        format!("{what} ({:.1} s); voting nodes: {}; the group survives the loss of {nodes}{one_fewer}", self.seconds, voters.join(", "))
    }
}

async fn change(cluster: &mut Cluster, node: &Node) -> anyhow::Result<(Option<NodeId>, Option<NodeId>)> {
    let mut shown = Progress::new();
    let mut progress = |step: &MemberStep| shown.tell(step);
    Ok(match node {
        Node::Add(add) => (Some(cluster.add_node(add.id, add.limit.get(), &mut progress).await?), None),
        Node::Remove(remove) => {
            cluster.remove_node(remove.node, &mut progress).await?;
            (None, Some(remove.node))
        }
        Node::Replace(replace) => {
            let new = cluster.replace_node(replace.node, replace.id, replace.limit.get(), &mut progress).await?;
            (Some(new), Some(replace.node))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_says_how_much_the_group_survives() {
        let said = |voters: u64| {
            let member = |node| Member { node: NodeId(node), admin: String::new(), sql: String::new(), voter: node <= voters };
            Json { added: Some(NodeId(1)), removed: None, seconds: 1.25, members: (1..=voters + 1).map(member).collect() }.in_words()
        };
        assert_eq!(said(3), "node 1 is a member and votes (1.2 s); voting nodes: 1, 2, 3; the group survives the loss of one node");
        for (voters, expected) in
            [(1, "loss of 0 nodes"), (2, "loss of 0 nodes, as would one node fewer"), (4, "one node, as"), (5, "2 nodes")]
        {
            assert!(said(voters).contains(expected), "{}", said(voters));
        }
    }
}
