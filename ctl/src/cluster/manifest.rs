//! `cluster.json`: what a cluster is, written when it is made and when a node comes or goes.
//!
//! The secret and the passwords are made here, from the system's randomness, and stand nowhere else but in the 0600 files of the folder.

use super::files::Layout;
use super::options::{Hosts, NODES_MAX, Port};
use super::{Error, Options};
use howdah_protocol::NodeId;
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(crate) const FILE: &str = "cluster.json";
const MAGIC: &str = "howdah-cluster";
const VERSION: u32 = 1;
/// 62 symbols each: 190 bits.
const SECRET_LEN: usize = 32;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    magic: String,
    version: u32,
    pub(crate) name: String,
    /// How many nodes founded the cluster, numbered from 1.
    pub(crate) nodes: u32,
    /// The present nodes, once one has come or gone; until then the founders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    members: Option<Vec<Member>>,
    /// The highest id that was ever given away, where one came after the founders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_id: Option<NodeId>,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) app_role: String,
    pub(crate) app_password: String,
    pub(crate) proxy_password: String,
    pub(crate) secret: String,
    pub(crate) socket_root: PathBuf,
    /// Of the nodes' places in their order, then of the proxy; all on the loopback address when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<IpAddr>,
}

/// A node, and its place in the block of ports. Places are used again, ids never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) place: u32,
}

impl Manifest {
    pub(crate) fn generate(options: &Options, layout: &Layout, port: u16) -> Self {
        let random = || Alphanumeric.sample_string(&mut rand::rng(), SECRET_LEN);
        Self {
            magic: MAGIC.to_owned(),
            version: VERSION,
            name: options.name.clone(),
            nodes: options.nodes,
            members: None,
            last_id: None,
            port,
            database: options.database.clone(),
            app_role: options.app_role.clone(),
            app_password: random(),
            proxy_password: random(),
            secret: random(),
            socket_root: layout.socket_root(),
            addresses: options.hosts.as_ref().map(Hosts::addresses).unwrap_or_default(),
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.members().into_iter().map(|member| member.id)
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        let founders = || (1..=self.nodes).map(|place| Member { id: NodeId(u64::from(place)), place }).collect();
        self.members.clone().unwrap_or_else(founders)
    }

    /// It came after the cluster was founded.
    pub(crate) fn joined(&self, id: NodeId) -> bool {
        id.0 > u64::from(self.nodes)
    }

    /// Behind every id that was ever given away.
    pub(crate) fn next_id(&self) -> NodeId {
        NodeId(self.last_id.map_or(u64::from(self.nodes), |last| last.0) + 1)
    }

    /// Takes a new node, with this id or the next one, at the first free place.
    pub(crate) fn add(&mut self, id: Option<NodeId>) -> Result<Member, Error> {
        let mut members = self.members();
        let next = self.next_id();
        let id = id.unwrap_or(next);
        if id < next {
            return Err(Error::IdUsed { node: id, next });
        }
        let taken = |place: &u32| members.iter().any(|member| member.place == *place);
        let max = self.places();
        let place = (1..=max).find(|place| !taken(place)).ok_or(Error::Full { max })?;
        let member = Member { id, place };
        members.push(member);
        (self.members, self.last_id) = (Some(members), Some(id));
        Ok(member)
    }

    pub(crate) fn remove(&mut self, id: NodeId) {
        let mut members = self.members();
        members.retain(|member| member.id != id);
        self.members = Some(members);
    }

    /// Whole or not at all: a crash leaves no half-written description.
    pub(crate) fn store(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).expect("plain data serialises");
        write_private(path, &text)
    }

    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let folder = || path.parent().unwrap_or(path).to_owned();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Err(Error::NoCluster(folder())),
            Err(source) => return Err(Error::Io { what: path.display().to_string(), source }),
        };
        let bad = |what: String| Error::BadManifest { path: path.to_owned(), what };
        let head: serde_json::Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if head["magic"] != MAGIC {
            return Err(bad(format!("the key `magic` must be \"{MAGIC}\"")));
        }
        if head["version"] != VERSION {
            return Err(bad(format!("version {} is not known to this howdahctl, which knows {VERSION}", head["version"])));
        }
        let manifest: Self = serde_json::from_value(head).map_err(|error| bad(error.to_string()))?;
        if !(1..=NODES_MAX).contains(&manifest.nodes) {
            return Err(bad(format!("nodes: {} is not within 1 to {NODES_MAX}", manifest.nodes)));
        }
        if manifest.members().iter().any(|member| !(1..=NODES_MAX).contains(&member.place)) || manifest.members().is_empty() {
            return Err(bad(format!("members: from one to {NODES_MAX} nodes, at places 1 to {NODES_MAX}")));
        }
        Ok(manifest)
    }

    /// How many nodes there can be at one time: with hosts of their own, as many as there are hosts.
    fn places(&self) -> u32 {
        let hosts = self.addresses.len().checked_sub(1).and_then(|hosts| u32::try_from(hosts).ok());
        hosts.map_or(NODES_MAX, |hosts| hosts.min(NODES_MAX))
    }

    /// Where the processes of the node at a place listen.
    pub(crate) fn address(&self, place: u32) -> IpAddr {
        let nth = usize::try_from(place - 1).expect("places are few, and counted from 1");
        self.addresses.get(nth).copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub(crate) fn proxy_address(&self) -> IpAddr {
        self.addresses.last().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub(crate) fn must_match(&self, options: &Options) -> Result<(), Error> {
        let mismatch = |has: String, asked: String| Err(Error::Mismatch { data: options.data.clone(), has, asked });
        let nodes = self.members().len();
        if options.nodes_explicit && usize::try_from(options.nodes) != Ok(nodes) {
            return mismatch(format!("{nodes} nodes"), options.nodes.to_string());
        }
        match options.port {
            Port::Fixed(port) if port != self.port => mismatch(format!("port {}", self.port), port.to_string()),
            _ => Ok(()),
        }
    }
}

/// Replaces a file that only its owner may read, durably.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let next = path.with_extension("next");
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&next, path)
    };
    write().map_err(Error::io(format!("writing {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Info;
    use std::os::unix::fs::PermissionsExt;

    fn sample() -> Manifest {
        Manifest {
            magic: MAGIC.to_owned(),
            version: VERSION,
            name: "n".to_owned(),
            nodes: 3,
            members: None,
            last_id: None,
            port: 7000,
            database: "app".to_owned(),
            app_role: "app".to_owned(),
            app_password: "p".to_owned(),
            proxy_password: "q".to_owned(),
            secret: "s".to_owned(),
            socket_root: PathBuf::from("/s"),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn it_is_private_and_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join(FILE);
        sample().store(&path).expect("stored");
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        let loaded = Manifest::load(&path).expect("loaded");
        assert_eq!((loaded.nodes, loaded.port, loaded.ids().count()), (3, 7000, 3));
    }

    #[test]
    fn places_are_used_again_and_ids_never() {
        let mut manifest = sample();
        assert_eq!(manifest.add(None).expect("room"), Member { id: NodeId(4), place: 4 });
        manifest.remove(NodeId(2));
        manifest.remove(NodeId(4));
        assert_eq!(manifest.add(None).expect("room"), Member { id: NodeId(5), place: 2 });
        assert!(matches!(manifest.add(Some(NodeId(4))), Err(Error::IdUsed { next: NodeId(6), .. })));
        assert_eq!(manifest.add(Some(NodeId(9))).expect("room"), Member { id: NodeId(9), place: 4 });
        assert!(manifest.joined(NodeId(5)) && !manifest.joined(NodeId(3)));
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join(FILE);
        manifest.store(&path).expect("stored");
        let ids: Vec<_> = Manifest::load(&path).expect("loaded").ids().map(|id| id.0).collect();
        assert_eq!(ids, [1, 3, 5, 9]);
        for place in 5..=NODES_MAX {
            assert_eq!(manifest.add(None).expect("room").place, place);
        }
        assert!(matches!(manifest.add(None), Err(Error::Full { .. })));
    }

    #[test]
    fn a_node_that_comes_later_gets_a_spare_host_and_the_proxy_stays_where_it_is() {
        let host = |nth| IpAddr::V4(Ipv4Addr::new(10, 0, 0, nth));
        let mut manifest = Manifest { addresses: (1..=5).map(host).collect(), ..sample() };
        assert_eq!(manifest.add(None).expect("one host is spare"), Member { id: NodeId(4), place: 4 });
        assert!(matches!(manifest.add(None), Err(Error::Full { max: 4 })));
        manifest.remove(NodeId(1));
        assert_eq!(manifest.add(None).expect("its host is free"), Member { id: NodeId(5), place: 1 });
        let info = Info::new(&manifest);
        let hosts: Vec<(u64, IpAddr)> = info.nodes.iter().map(|node| (node.id.0, node.sql.ip())).collect();
        assert_eq!(hosts, [(2, host(2)), (3, host(3)), (4, host(4)), (5, host(1))]);
        assert_eq!((info.proxy.ip(), info.proxy_admin.ip()), (host(5), host(5)));
    }

    #[test]
    fn strangers_and_other_versions_are_refused_in_words() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join(FILE);
        assert!(matches!(Manifest::load(&path), Err(Error::NoCluster(_))));
        let good = serde_json::to_string(&sample()).expect("serialises");
        for (text, expected) in [
            ("{".to_owned(), "EOF"),
            ("{}".to_owned(), "magic"),
            (good.replace("\"version\":1", "\"version\":2"), "version 2"),
            (good.replace("\"nodes\":3", "\"nodes\":0"), "nodes: 0"),
            (good.replace("\"port\":7000", "\"port\":70000"), "70000"),
        ] {
            std::fs::write(&path, text).expect("file");
            let error = Manifest::load(&path).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
