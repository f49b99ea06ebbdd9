//! Which cluster a command speaks to: the local one of a data folder, or any, by the admin addresses of its nodes.

use super::default_root;
use clap::Args;
use howdah_ctl::admin;
use howdah_ctl::cluster::Info;
use howdah_protocol::NodeId;
use howdah_protocol::admin::{NodeStatus, Role};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Data folder of the local cluster [default: as for `up`]
    #[arg(long, value_name = "DIR", env = "HOWDAH_DATA", conflicts_with = "admin")]
    data: Option<PathBuf>,
    /// Admin addresses of the nodes of any cluster, e.g. 10.0.0.1:7101,10.0.0.2:7101
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    admin: Vec<String>,
    /// The cluster's secret, with --admin, for what changes something
    #[arg(long, value_name = "TEXT", env = "HOWDAH_SECRET", hide_env_values = true, requires = "admin")]
    secret: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Target {
    nodes: Vec<Known>,
    pub(crate) secret: Option<String>,
}

#[derive(Debug, Clone)]
struct Known {
    id: Option<NodeId>,
    admin: String,
    sql: Option<String>,
}

/// A node as it answered, or what is known of it without an answer.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) id: Option<NodeId>,
    pub(crate) admin: String,
    pub(crate) sql: Option<String>,
    pub(crate) status: Result<NodeStatus, String>,
}

impl Arguments {
    pub(crate) fn resolve(&self) -> anyhow::Result<Target> {
        if !self.admin.is_empty() {
            let known = |admin: &String| Known { id: None, admin: admin.clone(), sql: None };
            return Ok(Target { nodes: self.admin.iter().map(known).collect(), secret: self.secret.clone() });
        }
        let info = Info::load(&self.data.clone().unwrap_or_else(|| default_root().join("local")))?;
        Ok(Target::of(&info))
    }
}

impl Target {
    pub(crate) fn of(info: &Info) -> Self {
        let known =
            info.nodes.iter().map(|node| Known { id: Some(node.id), admin: node.admin.to_string(), sql: Some(node.sql.to_string()) });
        Self { nodes: known.collect(), secret: Some(info.secret.clone()) }
    }

    pub(crate) async fn observe(&self) -> Vec<View> {
        let ask = self.nodes.iter().map(|node| async move {
            let status = admin::status(&node.admin).await.map_err(|error| error.to_string());
            let id = status.as_ref().map_or(node.id, |status| Some(status.id));
            View { id, admin: node.admin.clone(), sql: node.sql.clone(), status }
        });
        futures::future::join_all(ask).await
    }
}

/// The open leader among those that answered, with the highest term.
pub(crate) fn leader(views: &[View]) -> Option<&View> {
    let leads = |view: &&View| view.status.as_ref().is_ok_and(|status| status.role == Role::Leader && status.open);
    views.iter().filter(leads).max_by_key(|view| view.status.as_ref().map(|status| status.term).unwrap_or_default())
}
