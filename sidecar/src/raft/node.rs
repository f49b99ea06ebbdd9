//! Puts the parts together.

use super::acquaint;
use super::error::Error;
use super::fitness::Fitness;
use super::handle::{Handle, Inner};
use super::link::{Down, Purpose};
use super::machine::Machine;
use super::marker::Folder;
use super::network::Network;
use super::options::{Options, Peer};
use super::role;
use super::roster::Roster;
use super::server::{Identity, Server};
use super::snapshot::SnapshotFile;
use super::store::LogStore;
use super::types::{Address, Raft};
use super::vigil::Vigil;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Entries of one append. Their bytes are bounded by the log reader.
const APPEND_ENTRIES_MAX: u64 = 1024;
/// How long a node without a log waits to hear that it is not welcome. Those who found a group together answer each other only later.
const GREETING_WAIT_MAX: Duration = Duration::from_millis(300);
/// News of ended connections: one per peer is enough.
const DOWN_QUEUE_LEN_MAX: usize = 64;

/// Opens the log in `options.dir`, joins the group and serves it. A new group is formed by its node with the lowest id.
pub async fn open(options: Options) -> Result<Handle, Error> {
    options.check()?;
    let folder = open_folder(options.clone()).await?;
    let roster = Roster::open(&folder.dir, folder.log)?;
    let (cluster, secret) = (options.cluster.clone(), options.secret.clone());
    let identity = Identity { cluster, group: options.group, node: options.node, secret, roster: roster.clone() };
    let (down, downs) = mpsc::channel(DOWN_QUEUE_LEN_MAX);
    let network = Network::new(identity.clone(), down);
    if folder.is_new() {
        must_be_welcome(&options, &network).await?;
    }
    let (folder, store, machine) = open_files(folder, options.cache_bytes_max).await?;
    let pristine = store.is_pristine().map_err(|source| Error::Log { dir: folder.dir.clone(), source })?;
    let config = Arc::new(config(&options)?);
    let raft = Raft::new(options.node.0, config, network.clone(), store.clone(), machine.clone());
    let raft = raft.await.map_err(|fatal| Error::Stopped(fatal.to_string()))?;
    connect(&options.peers, &options, &network);
    if pristine && options.forms_group() {
        initialize(&raft, &options).await?;
    }
    let fitness = Fitness::default();
    let vigil = Arc::new(Vigil::new(options.node.0, raft.clone(), network.clone(), fitness.clone()));
    let (publish, role) = watch::channel(role::RaftRole::default());
    let mut tasks = vec![tokio::spawn(role::follow(raft.clone(), machine.decided(), roster.refused(), publish))];
    tasks.push(tokio::spawn(acquaint::run(options.node.0, raft.clone(), network.clone(), roster)));
    tasks.extend(keep_vigil(&options, &vigil, downs));
    let server = Server { identity, raft: raft.clone(), vigil, fitness: fitness.clone() };
    let (tasks, folder) = (Mutex::new(tasks), Mutex::new(Some(folder)));
    let yields = AtomicBool::new(false);
    Ok(Handle::new(Inner { options, raft, store, machine, network, server, fitness, role, yields, tasks, folder }))
}

async fn open_folder(options: Options) -> Result<Folder, Error> {
    let opened = tokio::task::spawn_blocking(move || Folder::open(&options));
    opened.await.map_err(|error| Error::Stopped(error.to_string()))?
}

/// Before anything is written: nobody whom this node is to meet knows its id with another log, or belongs to another cluster. Who does not
/// answer may say so later (see `roster`).
async fn must_be_welcome(options: &Options, network: &Network) -> Result<(), Error> {
    let others = options.hosts.iter().filter(|peer| peer.node != options.node);
    let asked = others.map(async |peer| {
        let client = network.client(peer.node.0, &peer.admin_addr, Purpose::Control);
        let why = client.greet(GREETING_WAIT_MAX).await?;
        Some(Error::Refused { by: peer.node, addr: peer.admin_addr.clone(), why })
    });
    futures::future::join_all(asked).await.into_iter().flatten().next().map_or(Ok(()), Err)
}

async fn open_files(mut folder: Folder, cache_bytes_max: usize) -> Result<(Folder, LogStore, Machine), Error> {
    let opened = tokio::task::spawn_blocking(move || {
        let dir = folder.dir.clone();
        let log = |source| Error::Log { dir: dir.clone(), source };
        let store = LogStore::open(&folder.log_dir(), cache_bytes_max).map_err(log)?;
        folder.claim(store.is_pristine().map_err(log)?)?;
        let file = SnapshotFile::in_folder(&folder.dir);
        let path = file.path().to_owned();
        let machine = Machine::open(file).map_err(|source| Error::File { path, source })?;
        Ok((folder, store, machine))
    });
    opened.await.map_err(|error| Error::Stopped(error.to_string()))?
}

fn config(options: &Options) -> Result<Config, Error> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = millis(options.timings.heartbeat);
    let config = Config {
        cluster_name: options.cluster.clone(),
        heartbeat_interval: heartbeat,
        // Appends that were answered stand in for heartbeats.
        heartbeat_min_interval: Some(heartbeat),
        election_timeout_min: millis(options.timings.election_min),
        election_timeout_max: millis(options.timings.election_max),
        max_payload_entries: APPEND_ENTRIES_MAX,
        // A follower is brought up with entries for as long as the log has them: a snapshot holds no rows.
        replication_lag_threshold: u64::MAX / 2,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // A leader that restarts must first bring its Postgres in line, so it stands for election like everybody else.
        enable_leader_restore: Some(false),
        broadcast_submitted_on_append: Some(true),
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Options(error.to_string()))
}

/// Connections are opened at once, so that a peer's death is seen also before this node ever leads.
fn connect(peers: &[Peer], options: &Options, network: &Network) {
    for peer in peers.iter().filter(|peer| peer.node != options.node) {
        network.links(peer.node.0, &peer.admin_addr);
    }
}

async fn initialize(raft: &Raft, options: &Options) -> Result<(), Error> {
    let member = |peer: &Peer| (peer.node.0, Address { admin: peer.admin_addr.clone(), sql: peer.sql_addr.clone() });
    let members: BTreeMap<_, _> = options.peers.iter().map(member).collect();
    match raft.initialize(members).await {
        // A leader's entries came first.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(Error::Stopped(error.to_string())),
    }
}

fn keep_vigil(options: &Options, vigil: &Arc<Vigil>, downs: mpsc::Receiver<Down>) -> Option<JoinHandle<()>> {
    let vigil = vigil.clone();
    options.timings.early_detection.then(|| tokio::spawn(async move { vigil.run(downs).await }))
}
