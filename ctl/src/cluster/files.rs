//! The folder of a cluster: what lies where, and whether Postgres' user can get there.

use super::{Error, Info, Options};
use crate::postgres;
use howdah_protocol::NodeId;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A path of a Unix socket has 107 bytes at most; this leaves room for `/.s.PGSQL.65535`.
const SOCKET_DIR_BYTES_MAX: usize = 92;
/// The folder's owner does everything, others may only pass through: Postgres runs as another user below it when we are root.
const DIR_MODE: u32 = 0o711;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// Files of one process.
#[derive(Debug, Clone)]
pub(crate) struct ProcessFiles {
    pub(crate) name: String,
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) pid: PathBuf,
}

impl Layout {
    /// The folder must exist: everything below is recorded with its full path.
    pub(crate) fn of(data: &Path) -> Result<Self, Error> {
        match data.canonicalize() {
            Ok(root) => Ok(Self { root }),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Err(Error::NoCluster(data.to_owned())),
            Err(source) => Err(Error::Io { what: data.display().to_string(), source }),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.root.join(super::manifest::FILE)
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn sidecar(&self, node: NodeId) -> ProcessFiles {
        Self::process(&self.node(node), "sidecar", format!("howdah-sidecar of node {node}"))
    }

    pub(crate) fn proxy(&self) -> ProcessFiles {
        Self::process(&self.root, "proxy", "howdah-proxy".to_owned())
    }

    fn process(dir: &Path, stem: &str, name: String) -> ProcessFiles {
        let file = |extension: &str| dir.join(format!("{stem}.{extension}"));
        ProcessFiles { name, config: file("toml"), log: file("log"), pid: file("pid") }
    }

    pub(crate) fn node(&self, node: NodeId) -> PathBuf {
        self.root.join(format!("node{node}"))
    }

    pub(crate) fn sidecar_data(&self, node: NodeId) -> PathBuf {
        self.node(node).join("data")
    }

    pub(crate) fn pg_data(&self, node: NodeId) -> PathBuf {
        self.sidecar_data(node).join("pg")
    }

    /// Parent of the nodes' socket folders: in the data folder, or, where that path is too long for a socket, a folder of
    /// the system's temporary one, named after the data folder.
    pub(crate) fn socket_root(&self) -> PathBuf {
        let inside = self.root.join("s");
        if inside.as_os_str().len() + "/9".len() <= SOCKET_DIR_BYTES_MAX {
            return inside;
        }
        let mut hasher = DefaultHasher::new();
        self.root.hash(&mut hasher);
        PathBuf::from(format!("/tmp/howdah-{:016x}", hasher.finish()))
    }
}

pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(path);
    made.map_err(Error::io(format!("making the folder {}", path.display())))
}

/// A folder that Postgres writes to, so it belongs to the user that Postgres runs as.
pub(crate) fn make_postgres_dir(path: &Path, os_user: &str) -> Result<(), Error> {
    make_dir(path)?;
    if let Some(account) = postgres::account(os_user)? {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).map_err(Error::io(format!("chown of {}", path.display())))?;
    }
    Ok(())
}

pub(crate) fn must_be_empty(layout: &Layout) -> Result<(), Error> {
    let entries = std::fs::read_dir(layout.root()).map_err(Error::io(layout.root().display().to_string()))?;
    let strangers = entries.filter_map(Result::ok).any(|entry| entry.path() != layout.lock());
    if strangers { Err(Error::NotEmpty(layout.root().to_owned())) } else { Ok(()) }
}

/// As root, every folder on the way must let Postgres' user pass. Found out here, because initdb's own words about it help nobody.
pub(crate) fn must_be_reachable(layout: &Layout, options: &Options) -> Result<(), Error> {
    let Some(account) = postgres::account(&options.os_user)? else { return Ok(()) };
    for folder in layout.root().ancestors() {
        let meta = std::fs::metadata(folder).map_err(Error::io(folder.display().to_string()))?;
        let bit = if meta.uid() == account.uid {
            0o100
        } else if meta.gid() == account.gid {
            0o010
        } else {
            0o001
        };
        if meta.permissions().mode() & bit == 0 {
            return Err(Error::Unreachable { folder: folder.to_owned(), user: options.os_user.clone() });
        }
    }
    Ok(())
}

/// Removes a stopped cluster's folder. The manifest goes last, so that what a failure in the middle leaves is still recognised as ours.
pub(crate) fn remove(layout: &Layout, info: &Info) -> Result<(), Error> {
    let gone = |path: PathBuf| match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Io { what: path.display().to_string(), source }),
        _ => Ok(()),
    };
    for node in &info.nodes {
        gone(layout.node(node.id))?;
    }
    gone(layout.socket_root())?;
    gone(layout.root().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_gets_its_sockets_elsewhere_and_always_in_the_same_place() {
        let short = Layout { root: PathBuf::from("/d") };
        assert_eq!(short.socket_root(), Path::new("/d/s"));
        let long = Layout { root: PathBuf::from(format!("/{}", "d".repeat(120))) };
        assert!(long.socket_root().as_os_str().len() < SOCKET_DIR_BYTES_MAX);
        assert_eq!(long.socket_root(), long.clone().socket_root());
        let other = Layout { root: PathBuf::from(format!("/{}", "e".repeat(120))) };
        assert_ne!(long.socket_root(), other.socket_root());
    }

    #[test]
    fn a_missing_folder_is_no_cluster() {
        let error = Layout::of(Path::new("/no/such/folder")).expect_err("missing").to_string();
        assert!(error.contains("howdahctl up"), "{error}");
    }
}
