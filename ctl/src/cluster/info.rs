//! Addresses and credentials of a cluster, readable by whoever may read its folder, whether or not it owns the processes.

use super::files::Layout;
use super::manifest::{self, Manifest, Member};
use super::{Error, ports};
use howdah_protocol::NodeId;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

#[derive(Clone)]
pub struct Info {
    pub name: String,
    pub nodes: Vec<NodeAddress>,
    pub proxy: SocketAddr,
    pub proxy_admin: SocketAddr,
    pub database: String,
    pub app_role: String,
    pub app_password: String,
    pub proxy_password: String,
    /// Shown on calls that change something.
    pub secret: String,
    /// The nodes' socket folders are in here, named by their ids.
    socket_root: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAddress {
    pub id: NodeId,
    pub admin: SocketAddr,
    pub sql: SocketAddr,
}

impl Info {
    /// Of the cluster in this folder.
    pub fn load(data: &Path) -> Result<Self, Error> {
        Ok(Self::new(&Manifest::load(&Layout::of(data)?.manifest())?))
    }

    /// The folder holds a cluster.
    #[must_use]
    pub fn exists(data: &Path) -> bool {
        data.join(manifest::FILE).exists()
    }

    pub(super) fn new(manifest: &Manifest) -> Self {
        let base = manifest.port;
        let at = |host: IpAddr, address: SocketAddr| SocketAddr::new(host, address.port());
        let node = |member: Member| {
            let host = manifest.address(member.place);
            let (admin, sql) = (ports::node_admin(base, member.place), ports::node_sql(base, member.place));
            NodeAddress { id: member.id, admin: at(host, admin), sql: at(host, sql) }
        };
        Self {
            name: manifest.name.clone(),
            proxy: at(manifest.proxy_address(), ports::proxy(base)),
            proxy_admin: at(manifest.proxy_address(), ports::proxy_admin(base)),
            nodes: manifest.members().into_iter().map(node).collect(),
            database: manifest.database.clone(),
            app_role: manifest.app_role.clone(),
            app_password: manifest.app_password.clone(),
            proxy_password: manifest.proxy_password.clone(),
            secret: manifest.secret.clone(),
            socket_root: manifest.socket_root.clone(),
        }
    }

    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeAddress> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Connection string of the proxy, with the application's role and password.
    #[must_use]
    pub fn proxy_url(&self) -> String {
        self.url(self.proxy)
    }

    /// Connection string of one node's Postgres, around the proxy.
    #[must_use]
    pub fn node_url(&self, id: NodeId) -> Option<String> {
        self.node(id).map(|node| self.url(node.sql))
    }

    /// Connection parameters of the superuser at one node's Postgres: over its Unix socket, which only root and the server's own user can
    /// reach. For tests and the benchmark; what it commits waits at the gate unless `synchronous_commit` says otherwise.
    #[must_use]
    pub fn superuser(&self, id: NodeId) -> Option<String> {
        let node = self.node(id)?;
        let socket = self.socket_root.join(id.to_string());
        Some(format!("host='{}' port={} user=howdah dbname='{}'", socket.display(), node.sql.port(), self.database))
    }

    fn url(&self, at: SocketAddr) -> String {
        // The password is alphanumeric by construction, so nothing needs escaping.
        format!("postgresql://{}:{}@{}:{}/{}", self.app_role, self.app_password, at.ip(), at.port(), self.database)
    }
}

impl fmt::Debug for Info {
    /// Without the secrets: this ends up in logs of tests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Info").field("name", &self.name).field("nodes", &self.nodes).field("proxy", &self.proxy).finish_non_exhaustive()
    }
}
