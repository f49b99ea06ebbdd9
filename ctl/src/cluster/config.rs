//! The configuration files of the processes, written anew before every start: the folder may have moved, and the manifest is the truth.

use super::files::{self, Layout};
use super::manifest::{Manifest, write_private};
use super::{Error, Info, Options};
use howdah_protocol::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Serialize)]
struct Sidecar<'a> {
    cluster: &'a str,
    node: NodeId,
    data_dir: PathBuf,
    admin_listen: SocketAddr,
    secret: &'a str,
    peers: Vec<Peer>,
    join: bool,
    #[serde(flatten)]
    more: &'a BTreeMap<String, toml::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_interval_s: Option<u64>,
    postgres: Postgres<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    timing: &'a BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Peer {
    node: NodeId,
    admin: SocketAddr,
    sql: SocketAddr,
}

#[derive(Debug, Serialize)]
struct Postgres<'a> {
    mode: &'static str,
    bin_dir: PathBuf,
    listen: SocketAddr,
    socket_dir: PathBuf,
    os_user: &'a str,
    database: &'a str,
    app_role: &'a str,
    app_password: &'a str,
    proxy_password: &'a str,
    settings: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Proxy<'a> {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    sidecars: Vec<String>,
    database: &'a str,
    proxy_password: &'a str,
    #[serde(flatten)]
    more: &'a BTreeMap<String, toml::Value>,
}

/// What is written from the manifest.
const OWN_KEYS: &[&str] = &["cluster", "node", "data_dir", "admin_listen", "secret", "peers", "join"];

pub(crate) fn write(options: &Options, layout: &Layout, manifest: &Manifest) -> Result<(), Error> {
    let info = Info::new(manifest);
    files::make_dir(&manifest.socket_root)?;
    for node in &info.nodes {
        write_node(options, layout, manifest, &info, node.id)?;
    }
    write_private(&layout.proxy().config, &toml::to_string(&proxy(options, &info)).expect("plain data serialises"))
}

/// The folders and the configuration of one node.
pub(crate) fn write_node(options: &Options, layout: &Layout, manifest: &Manifest, info: &Info, node: NodeId) -> Result<(), Error> {
    files::make_dir(&layout.node(node))?;
    files::make_dir(&layout.sidecar_data(node))?;
    files::make_postgres_dir(&socket_dir(manifest, node), &options.os_user)?;
    let file = layout.sidecar(node).config;
    write_private(&file, &toml::to_string(&sidecar(options, layout, manifest, info, node)).expect("plain data serialises"))
}

/// Tells the proxy's configuration, for its next start, where the nodes are. The rest of it stays.
pub(crate) fn write_sidecars(layout: &Layout, info: &Info) -> Result<(), Error> {
    let file = layout.proxy().config;
    let text = std::fs::read_to_string(&file).map_err(Error::io(file.display().to_string()))?;
    let mut known: toml::Table =
        toml::from_str(&text).map_err(|error| Error::BadManifest { path: file.clone(), what: error.to_string() })?;
    let sidecars = info.nodes.iter().map(|node| toml::Value::String(node.admin.to_string())).collect();
    known.insert("sidecars".to_owned(), toml::Value::Array(sidecars));
    write_private(&file, &toml::to_string(&known).expect("plain data serialises"))
}

/// Takes over into `options` what the running nodes were started with and the manifest does not know.
pub(crate) fn adopt(options: &mut Options, layout: &Layout, node: NodeId) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Known {
        #[serde(default)]
        timing: BTreeMap<String, u64>,
        postgres: KnownPostgres,
        #[serde(flatten)]
        more: BTreeMap<String, toml::Value>,
    }
    #[derive(Deserialize)]
    struct KnownPostgres {
        bin_dir: PathBuf,
        os_user: String,
        #[serde(default)]
        settings: BTreeMap<String, String>,
    }
    let file = layout.sidecar(node).config;
    let text = std::fs::read_to_string(&file).map_err(Error::io(file.display().to_string()))?;
    let known: Known = toml::from_str(&text).map_err(|error| Error::BadManifest { path: file, what: error.to_string() })?;
    options.sidecar = known.more.into_iter().filter(|(name, _)| !OWN_KEYS.contains(&name.as_str())).collect();
    (options.timing, options.settings) = (known.timing, known.postgres.settings);
    (options.pg_bin_dir, options.os_user) = (known.postgres.bin_dir, known.postgres.os_user);
    Ok(())
}

fn socket_dir(manifest: &Manifest, node: NodeId) -> PathBuf {
    manifest.socket_root.join(node.to_string())
}

fn sidecar<'a>(options: &'a Options, layout: &Layout, manifest: &'a Manifest, info: &Info, id: NodeId) -> Sidecar<'a> {
    let me = info.node(id).expect("called for the cluster's own nodes");
    Sidecar {
        cluster: &manifest.name,
        node: id,
        data_dir: layout.sidecar_data(id),
        admin_listen: me.admin,
        secret: &manifest.secret,
        join: manifest.joined(id),
        more: &options.sidecar,
        peers: info.nodes.iter().map(|node| Peer { node: node.id, admin: node.admin, sql: node.sql }).collect(),
        verify_interval_s: options.verify_interval_s,
        postgres: Postgres {
            mode: "managed",
            bin_dir: options.pg_bin_dir.clone(),
            listen: me.sql,
            socket_dir: socket_dir(manifest, id),
            os_user: &options.os_user,
            database: &manifest.database,
            app_role: &manifest.app_role,
            app_password: &manifest.app_password,
            proxy_password: &manifest.proxy_password,
            settings: &options.settings,
        },
        timing: &options.timing,
    }
}

fn proxy<'a>(options: &'a Options, info: &'a Info) -> Proxy<'a> {
    Proxy {
        listen: info.proxy,
        admin_listen: info.proxy_admin,
        sidecars: info.nodes.iter().map(|node| node.admin.to_string()).collect(),
        database: &info.database,
        proxy_password: &info.proxy_password,
        more: &options.proxy,
    }
}
