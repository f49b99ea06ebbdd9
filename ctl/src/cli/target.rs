//! Which cluster a command speaks to: the local one of a data folder, or any, by the admin addresses of its nodes.

use super::default_root;
use clap::Args;
use howdah_ctl::admin;
use howdah_ctl::cluster::Info;
use howdah_protocol::NodeId;
use howdah_protocol::admin::{NodeStatus, Role};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Data folder of the local cluster [env: HOWDAH_DATA, where --admin is not given] [default: as for `up`]
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    data: Option<PathBuf>,
    /// Admin addresses of the nodes of any cluster, e.g. 10.0.0.1:7101,10.0.0.2:7101
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    admin: Vec<String>,
    /// The cluster's secret, with --admin, for what changes something [env: HOWDAH_SECRET]
    #[arg(long, value_name = "TEXT", requires = "admin")]
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
        self.resolve_in(|name| std::env::var_os(name))
    }

    /// The environment is looked at here and not by the parser: to the parser a variable that is exported for good would be at odds with the
    /// other cluster that one command line names.
    fn resolve_in(&self, environment: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Target> {
        let variable = |name| environment(name).filter(|value| !value.is_empty());
        if !self.admin.is_empty() {
            let known = |admin: &String| Known { id: None, admin: admin.clone(), sql: None };
            let secret = self.secret.clone().or_else(|| variable("HOWDAH_SECRET").and_then(|text| text.into_string().ok()));
            return Ok(Target { nodes: self.admin.iter().map(known).collect(), secret });
        }
        let data = self.data.clone().or_else(|| variable("HOWDAH_DATA").map(PathBuf::from));
        let info = Info::load(&data.unwrap_or_else(|| default_root().join("local")))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<OsString> {
        match name {
            "HOWDAH_DATA" => Some("/no/such/folder".into()),
            "HOWDAH_SECRET" => Some("exported".into()),
            _ => None,
        }
    }

    #[test]
    fn an_admin_address_counts_for_more_than_what_is_exported() {
        let named = Arguments { data: None, admin: vec!["10.0.0.1:7101".to_owned()], secret: None };
        let target = named.resolve_in(environment).expect("no folder is looked at");
        assert_eq!(target.nodes[0].admin, "10.0.0.1:7101");
        assert_eq!(target.secret.as_deref(), Some("exported"));
        let given = Arguments { secret: Some("given".to_owned()), ..named };
        assert_eq!(given.resolve_in(environment).expect("as before").secret.as_deref(), Some("given"));
    }

    #[test]
    fn without_one_the_exported_folder_is_looked_at() {
        let error = Arguments { data: None, admin: vec![], secret: None }.resolve_in(environment).expect_err("there is none");
        assert!(format!("{error:#}").contains("/no/such/folder"), "{error:#}");
    }
}
