//! What a local cluster is made of, as its maker asks for it.

use super::{Binaries, Error};
use crate::postgres;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Ports of a cluster lie in one block; this many nodes fit between the block's offsets.
pub(crate) const NODES_MAX: u32 = 9;
pub(crate) const PORT_DEFAULT: u16 = 6432;
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Who outlives whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Nothing outlives the process that started it.
    Owned,
    /// The cluster runs on after [`super::Cluster::detach`].
    Detached,
}

/// The block of ports: proxy at the base, its admin API at +1, the nodes' admin APIs at +10 and their place, their Postgres at +20 and their place.
/// Places are counted from 1; one that a node left is given to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// 6432 for a new cluster, its own for one that is resumed.
    Default,
    /// This base. A resumed cluster must have been made with it.
    Fixed(u16),
    /// A free block, for tests that run beside each other.
    Any,
}

/// Where processes run that are to be cut off from each other: an address of its own, in a network namespace of its own. Whoever asks for it
/// makes the namespace and reaches the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub address: IpAddr,
    pub namespace: String,
}

/// One host per place that a node can have, the founders' first, and the proxy's. Those behind the founders' are spare: nodes that come later run there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    pub nodes: Vec<Host>,
    pub proxy: Host,
}

impl Hosts {
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.nodes.iter().chain([&self.proxy]).map(|host| host.address).collect()
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub data: PathBuf,
    /// Name of a new cluster.
    pub name: String,
    pub nodes: u32,
    /// The count was asked for, rather than left to the default: a resumed cluster must have it.
    pub nodes_explicit: bool,
    pub port: Port,
    /// Hosts of their own for the processes; all on the loopback address of this one when absent.
    pub hosts: Option<Hosts>,
    pub lifetime: Lifetime,
    /// What the owner does, for the message to whoever finds the folder in use.
    pub purpose: String,
    pub binaries: Binaries,
    pub pg_bin_dir: PathBuf,
    /// Whom Postgres runs as when this process is root.
    pub os_user: String,
    /// The database that is served. Its owner is the role of the same name as [`Self::app_role`].
    pub database: String,
    pub app_role: String,
    /// Further settings for every Postgres.
    pub settings: BTreeMap<String, String>,
    /// Overrides in the sidecars' `[timing]`, in milliseconds.
    pub timing: BTreeMap<String, u64>,
    /// Further keys of the sidecars' configuration.
    pub sidecar: BTreeMap<String, toml::Value>,
    /// The sidecars' `verify_interval_s`; their default when absent.
    pub verify_interval_s: Option<u64>,
    /// Further keys of the proxy's configuration.
    pub proxy: BTreeMap<String, toml::Value>,
    /// From the first process started to the first statement served.
    pub start_timeout: Duration,
}

impl Options {
    /// Three nodes on the default port, owned by this process; the binaries and PostgreSQL are looked for as documented at
    /// [`Binaries::find`] and [`postgres::bin_dir`].
    pub fn new(data: impl Into<PathBuf>) -> Result<Self, Error> {
        Ok(Self {
            data: data.into(),
            name: "local".to_owned(),
            nodes: 3,
            nodes_explicit: false,
            port: Port::Default,
            hosts: None,
            lifetime: Lifetime::Owned,
            purpose: "howdahctl".to_owned(),
            binaries: Binaries::find()?,
            pg_bin_dir: postgres::bin_dir()?,
            os_user: postgres::OS_USER.to_owned(),
            database: "app".to_owned(),
            app_role: "app".to_owned(),
            settings: BTreeMap::new(),
            timing: BTreeMap::new(),
            sidecar: BTreeMap::new(),
            verify_interval_s: None,
            proxy: BTreeMap::new(),
            start_timeout: START_TIMEOUT,
        })
    }

    /// For tests: a free block of ports, so that many run beside each other, and twice the patience with a leader that is silent, because
    /// all of them share one machine.
    pub fn for_test(data: impl Into<PathBuf>) -> Result<Self, Error> {
        let timing = [("heartbeat_ms", 100), ("election_min_ms", 500), ("election_max_ms", 800)];
        let timing = timing.map(|(name, ms)| (name.to_owned(), ms)).into();
        Ok(Self { port: Port::Any, purpose: "a test".to_owned(), timing, ..Self::new(data)? })
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if let Some(hosts) = self.hosts.as_ref().map(|hosts| hosts.nodes.len())
            && u32::try_from(hosts).is_ok_and(|hosts| hosts < self.nodes)
        {
            return Err(Error::HostCount { nodes: self.nodes, hosts });
        }
        if (1..=NODES_MAX).contains(&self.nodes) { Ok(()) } else { Err(Error::NodeCount { nodes: self.nodes, max: NODES_MAX }) }
    }

    /// The namespace of the processes of the node at a place, or of the proxy.
    pub(super) fn namespace(&self, place: Option<u32>) -> Option<&str> {
        let hosts = self.hosts.as_ref()?;
        let nth = |place: u32| usize::try_from(place - 1).expect("places are few, and counted from 1");
        let host = place.map_or(&hosts.proxy, |place| &hosts.nodes[nth(place)]);
        Some(&host.namespace)
    }
}
