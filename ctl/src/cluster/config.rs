//! The configuration files of the processes, written anew before every start: the folder may have moved, and the manifest is the truth.

use super::files::{self, Layout};
use super::manifest::{Manifest, write_private};
use super::{Error, Info, Options};
use howdah_protocol::NodeId;
use serde::Serialize;
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

pub(crate) fn write(options: &Options, layout: &Layout, manifest: &Manifest) -> Result<(), Error> {
    let info = Info::new(manifest);
    files::make_dir(&manifest.socket_root)?;
    for node in &info.nodes {
        files::make_dir(&layout.node(node.id))?;
        files::make_dir(&layout.sidecar_data(node.id))?;
        files::make_postgres_dir(&socket_dir(manifest, node.id), &options.os_user)?;
        let file = layout.sidecar(node.id).config;
        write_private(&file, &toml::to_string(&sidecar(options, layout, manifest, &info, node.id)).expect("plain data serialises"))?;
    }
    write_private(&layout.proxy().config, &toml::to_string(&proxy(options, &info)).expect("plain data serialises"))
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
        peers: info.nodes.iter().map(|node| Peer { node: node.id, admin: node.admin, sql: node.sql }).collect(),
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
