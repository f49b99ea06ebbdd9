//! A whole cluster on this machine: N nodes (a Postgres and its sidecar each) and a proxy, in a data folder of its own.
//!
//! ```text
//! DIR/cluster.json          what the cluster is: nodes, ports, secret, passwords (0600)
//! DIR/lock                  held by the process that owns the running cluster, and says who that is
//! DIR/proxy.toml .log .pid
//! DIR/nodeN/sidecar.toml .log .pid, DIR/nodeN/data (the sidecar's own folder, with Postgres in `pg`)
//! ```
//!
//! Invariants:
//! - One process at a time starts or stops what is in a folder: it holds the lock.
//! - A process is recorded (pid and start time) before anything waits for it, so that the next owner of the folder can end what a crashed one left.
//! - Where the cluster is [`Lifetime::Owned`], nothing outlives this process: not after `drop`, and not after a crash (parent-death signal).
//! - Only processes that were recorded, and the Postgres whose working directory is the node's own data directory, are ever signalled.
//!
//! It never reaches into the binaries: what it knows of them is their configuration file, their HTTP API and SQL.

mod binaries;
mod config;
mod error;
mod faults;
mod files;
mod info;
mod lock;
mod manifest;
mod members;
mod options;
mod pause;
mod ports;
mod process;
mod revive;
mod servers;
mod settings;
mod status;
mod wait;

pub use binaries::Binaries;
pub use error::Error;
pub use faults::{Killed, Shutdown};
pub use info::{Info, NodeAddress};
pub use members::Progress;
pub use options::{Host, Hosts, Lifetime, Options, Port};
pub use pause::{Part, Paused};
pub use ports::free_port;
pub use revive::Revived;
pub use status::{NodeView, Observed};

use files::Layout;
use howdah_protocol::NodeId;
use lock::DirLock;
use manifest::Manifest;
use process::Process;
use std::path::Path;
use std::time::Duration;

/// SIGTERM to SIGKILL, for sidecars and the proxy: a hand-over, a drain and a Postgres shutdown checkpoint fit in.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// What a crashed owner left behind is told to end by the kernel; it gets this long before it is killed.
const LEFTOVER_GRACE: Duration = Duration::from_secs(15);

/// A running, or startable, local cluster. Holds the folder's lock.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    layout: Layout,
    info: Info,
    manifest: Manifest,
    nodes: Vec<Option<Process>>,
    proxy: Option<Process>,
    lock: Option<DirLock>,
    _claim: Option<ports::Claim>,
}

impl Cluster {
    /// A new cluster in an empty or missing folder. Nothing is started yet.
    pub async fn create(options: Options) -> Result<Self, Error> {
        options.check()?;
        settings::check(&options).await?;
        // Before anything is written: what is written binds the folder to its ports.
        let (base, claim) = ports::choose(options.port, options.nodes)?;
        if options.hosts.is_none() {
            ports::must_be_free_for_new(base, options.nodes)?;
        }
        files::make_dir(&options.data)?;
        let layout = Layout::of(&options.data)?;
        let lock = DirLock::take(&layout, &options.purpose)?;
        files::must_be_empty(&layout)?;
        files::must_be_reachable(&layout, &options)?;
        let manifest = Manifest::generate(&options, &layout, base);
        manifest.store(&layout.manifest())?;
        Self::assemble(options, layout, manifest, lock, claim)
    }

    /// The cluster that is in a folder already. A node count or port that differs from what it was made with is refused: the members
    /// know each other by their addresses.
    pub async fn resume(options: Options) -> Result<Self, Error> {
        let layout = Layout::of(&options.data)?;
        let manifest = Manifest::load(&layout.manifest())?;
        manifest.must_match(&options)?;
        settings::check(&options).await?;
        let lock = DirLock::take(&layout, &options.purpose)?;
        process::end_leftovers(&layout, &manifest, LEFTOVER_GRACE).await?;
        files::must_be_reachable(&layout, &options)?;
        Self::assemble(options, layout, manifest, lock, None)
    }

    /// The cluster that runs detached in a folder, to change its members or to start what of it died. Its processes are left as they are; end with [`Self::detach`].
    pub async fn take_over(mut options: Options) -> Result<Self, Error> {
        let layout = Layout::of(&options.data)?;
        let manifest = Manifest::load(&layout.manifest())?;
        manifest.must_match(&options)?;
        let lock = DirLock::take(&layout, &options.purpose)?;
        if !process::any_recorded_runs(&layout, &manifest) {
            return Err(Error::NotRunning(layout.root().to_owned()));
        }
        let info = Info::new(&manifest);
        if let Some(node) = info.nodes.first() {
            config::adopt(&mut options, &layout, node.id)?;
        }
        options.lifetime = Lifetime::Detached;
        let nodes = info.nodes.iter().map(|_| None).collect();
        Ok(Self { options, layout, info, manifest, nodes, proxy: None, lock: Some(lock), _claim: None })
    }

    /// Resumes where the folder holds a cluster, creates one otherwise.
    pub async fn open(options: Options) -> Result<Self, Error> {
        if Info::exists(&options.data) { Self::resume(options).await } else { Self::create(options).await }
    }

    fn assemble(options: Options, layout: Layout, manifest: Manifest, lock: DirLock, claim: Option<ports::Claim>) -> Result<Self, Error> {
        let info = Info::new(&manifest);
        config::write(&options, &layout, &manifest)?;
        let nodes = info.nodes.iter().map(|_| None).collect();
        Ok(Self { options, layout, info, manifest, nodes, proxy: None, lock: Some(lock), _claim: claim })
    }

    /// Starts every process that does not run and waits until a leader is open and the proxy serves.
    pub async fn start(&mut self) -> Result<(), Error> {
        ports::must_be_free(&self.info, |node| self.nodes[node].is_none(), self.proxy.is_none())?;
        for nth in 0..self.nodes.len() {
            self.start_node_process(nth)?;
        }
        self.start_proxy()?;
        self.wait_ready(self.options.start_timeout).await
    }

    fn start_node_process(&mut self, nth: usize) -> Result<(), Error> {
        if self.nodes[nth].is_none() {
            let member = self.manifest.members()[nth];
            let (files, binary) = (self.layout.sidecar(member.id), &self.options.binaries.sidecar);
            let namespace = self.options.namespace(Some(member.place));
            self.nodes[nth] = Some(Process::start(files, binary, self.options.lifetime, namespace)?);
        }
        Ok(())
    }

    /// Starts the proxy where it does not run.
    pub fn start_proxy(&mut self) -> Result<(), Error> {
        if self.proxy.is_none() {
            let binary = &self.options.binaries.proxy;
            self.proxy = Some(Process::start(self.layout.proxy(), binary, self.options.lifetime, self.options.namespace(None))?);
        }
        Ok(())
    }

    /// Addresses, passwords and connection strings.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.layout.root()
    }

    /// Postgres' data directory of a node.
    #[must_use]
    pub fn pg_data(&self, node: NodeId) -> std::path::PathBuf {
        self.layout.pg_data(node)
    }

    /// The log of a node's sidecar.
    #[must_use]
    pub fn sidecar_log(&self, node: NodeId) -> std::path::PathBuf {
        self.layout.sidecar(node).log
    }

    /// The proxy's log.
    #[must_use]
    pub fn proxy_log(&self) -> std::path::PathBuf {
        self.layout.proxy().log
    }

    /// The pid of a node's sidecar, while it runs.
    #[must_use]
    pub fn sidecar_pid(&self, node: NodeId) -> Option<i32> {
        self.nodes[self.nth(node).ok()?].as_ref().map(Process::pid)
    }

    /// The place of a node in the block of ports, and among the hosts where it has one of its own; counted from 0. Free again when the node has left.
    pub fn place(&self, node: NodeId) -> Result<usize, Error> {
        let member = self.manifest.members()[self.nth(node)?];
        Ok(usize::try_from(member.place - 1).expect("places are few, and counted from 1"))
    }

    /// The id that the next node gets, unless it is given another.
    #[must_use]
    pub fn next_id(&self) -> NodeId {
        self.manifest.next_id()
    }

    /// The pid of the proxy, while it runs.
    #[must_use]
    pub fn proxy_pid(&self) -> Option<i32> {
        self.proxy.as_ref().map(Process::pid)
    }

    /// Starts a node's sidecar again (after [`Self::kill_node`] or [`Self::stop_node`]) and returns once it answers; a sidecar that still runs is stopped first.
    pub async fn restart_node(&mut self, node: NodeId) -> Result<(), Error> {
        let nth = self.nth(node)?;
        if self.nodes[nth].is_some() {
            self.stop_node(node).await?;
        }
        self.start_node_process(nth)?;
        self.wait_answering(node, self.options.start_timeout).await
    }

    /// SIGTERM to a node's sidecar, which takes its Postgres along; SIGKILL to both after a grace period.
    pub async fn stop_node(&mut self, node: NodeId) -> Result<(), Error> {
        let nth = self.nth(node)?;
        if let Some(mut process) = self.nodes[nth].take() {
            process.terminate();
            process.wait_ended(STOP_GRACE).await?;
        }
        process::terminate_one(&self.layout.sidecar(node), STOP_GRACE).await?;
        let mut servers = servers::of(&self.layout.pg_data(node));
        servers.kill();
        servers.wait_gone().await
    }

    /// SIGTERM to the proxy, which drains; SIGKILL after a grace period.
    pub async fn stop_proxy(&mut self) -> Result<(), Error> {
        if let Some(mut proxy) = self.proxy.take() {
            proxy.terminate();
            proxy.wait_ended(STOP_GRACE).await?;
        }
        Ok(())
    }

    /// Stops everything in order: the proxy drains first, then all sidecars together.
    pub async fn stop(&mut self) -> Result<(), Error> {
        self.stop_proxy().await?;
        for process in self.nodes.iter_mut().flatten() {
            process.terminate();
        }
        for nth in 0..self.nodes.len() {
            self.stop_node(self.info.nodes[nth].id).await?;
        }
        Ok(())
    }

    /// Stops a cluster that no process owns any more (`up --detach`), by what its folder records.
    pub async fn stop_detached(data: &Path) -> Result<(), Error> {
        let layout = Layout::of(data)?;
        let manifest = Manifest::load(&layout.manifest())?;
        process::terminate_recorded(&layout, &manifest, STOP_GRACE).await
    }

    /// Pid and words of the process that owns the cluster in a folder, if one does.
    #[must_use]
    pub fn owner(data: &Path) -> Option<(i32, String)> {
        lock::holder(&Layout::of(data).ok()?)
    }

    /// Some recorded process of the cluster in this folder runs.
    pub fn is_running(data: &Path) -> Result<bool, Error> {
        let layout = Layout::of(data)?;
        let manifest = Manifest::load(&layout.manifest())?;
        Ok(process::any_recorded_runs(&layout, &manifest))
    }

    /// Gives the processes up: they run on, recorded in the folder, and `down` or a later owner ends them. Only for [`Lifetime::Detached`].
    pub fn detach(mut self) {
        assert_eq!(self.options.lifetime, Lifetime::Detached, "owned processes die with their owner");
        self.nodes.clear();
        self.proxy = None;
        self.lock = None;
    }

    /// Stops everything and removes the folder.
    pub async fn destroy(mut self) -> Result<(), Error> {
        self.stop().await?;
        files::remove(&self.layout, &self.info)
    }

    fn nth(&self, node: NodeId) -> Result<usize, Error> {
        self.info.nodes.iter().position(|known| known.id == node).ok_or_else(|| self.no_such_node(node))
    }

    fn no_such_node(&self, node: NodeId) -> Error {
        Error::NoSuchNode { node, nodes: self.info.nodes.iter().map(|known| known.id).collect() }
    }
}

impl Drop for Cluster {
    /// Without [`Self::stop`] there is no time to be kind: everything is killed. The data survives, as it does a power failure.
    fn drop(&mut self) {
        for process in self.proxy.iter_mut().chain(self.nodes.iter_mut().flatten()) {
            process.kill();
        }
        for (nth, node) in self.info.nodes.iter().enumerate() {
            if self.nodes.get(nth).is_some_and(Option::is_some) {
                let mut servers = servers::of(&self.layout.pg_data(node.id));
                servers.kill();
                servers.remove_segment();
            }
        }
        for process in self.proxy.iter_mut().chain(self.nodes.iter_mut().flatten()) {
            process.reap();
        }
    }
}
