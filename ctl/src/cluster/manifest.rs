//! `cluster.json`: what a cluster is, written once when it is made.
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
    pub(crate) nodes: u32,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) app_role: String,
    pub(crate) app_password: String,
    pub(crate) proxy_password: String,
    pub(crate) secret: String,
    pub(crate) socket_root: PathBuf,
    /// Of the nodes in their order, then of the proxy; all on the loopback address when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<IpAddr>,
}

impl Manifest {
    pub(crate) fn generate(options: &Options, layout: &Layout, port: u16) -> Self {
        let random = || Alphanumeric.sample_string(&mut rand::rng(), SECRET_LEN);
        Self {
            magic: MAGIC.to_owned(),
            version: VERSION,
            name: options.name.clone(),
            nodes: options.nodes,
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
        (1..=u64::from(self.nodes)).map(NodeId)
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
        Ok(manifest)
    }

    /// Where the nth node's processes listen, or, behind the last node, the proxy.
    pub(crate) fn address(&self, nth: usize) -> IpAddr {
        self.addresses.get(nth).copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub(crate) fn must_match(&self, options: &Options) -> Result<(), Error> {
        let mismatch = |has: String, asked: String| Err(Error::Mismatch { data: options.data.clone(), has, asked });
        if options.nodes_explicit && options.nodes != self.nodes {
            return mismatch(format!("{} nodes", self.nodes), options.nodes.to_string());
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
    use std::os::unix::fs::PermissionsExt;

    fn sample() -> Manifest {
        Manifest {
            magic: MAGIC.to_owned(),
            version: VERSION,
            name: "n".to_owned(),
            nodes: 3,
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
