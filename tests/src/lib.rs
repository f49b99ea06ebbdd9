//! What the black-box tests share: a real cluster in a folder of its own, sessions, and the question whether all servers hold the same.
//! And the proof that it survives: [`history`] and [`check`] judge what clients saw.

pub mod chaos;
pub mod check;
pub mod disk;
pub mod history;
pub mod nemesis;
pub mod workload;

pub use howdah_ctl::netns;

use anyhow::{Context, Result, bail};
use howdah_ctl::admin;
use howdah_ctl::cluster::{Cluster, Options};
use howdah_ctl::core::digests::{Comparison, Verdict, compare};
use howdah_protocol::NodeId;
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Generous: the machine that runs the tests may be slow and shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster. Ends with the value, and with the test process however that ends.
#[derive(Debug)]
pub struct Fixture {
    cluster: Cluster,
    /// What the cluster needs besides; goes after it, and before the folder.
    beside: Vec<Box<dyn Any + Send + Sync>>,
    folder: TempDir,
}

impl Fixture {
    /// Three nodes and a proxy, serving; the followers are open too.
    pub async fn start() -> Result<Self> {
        Self::start_with(|_| {}).await
    }

    /// Leaves data and logs behind, and the disks that they are on, for whoever has to find out what happened.
    pub fn keep(&mut self) -> &std::path::Path {
        self.folder.disable_cleanup(true);
        self.beside.drain(..).for_each(std::mem::forget);
        self.folder.path()
    }

    pub async fn start_with(change: impl FnOnce(&mut Options)) -> Result<Self> {
        Self::start_prepared(change, |_| Ok(())).await
    }

    /// `prepare` sees the cluster's folders before anything runs in them.
    pub async fn start_prepared(change: impl FnOnce(&mut Options), prepare: impl FnOnce(&mut Self) -> Result<()>) -> Result<Self> {
        let folder = folder()?;
        let mut options = Options::for_test(folder.path().join("c"))?;
        change(&mut options);
        let cluster = Cluster::create(options).await?;
        let mut fixture = Self { cluster, beside: Vec::new(), folder };
        prepare(&mut fixture)?;
        fixture.cluster.start().await?;
        fixture.cluster.wait_settled(PATIENCE).await?;
        Ok(fixture)
    }

    /// Keeps something for as long as the cluster.
    pub fn keep_beside(&mut self, thing: impl Any + Send + Sync) {
        self.beside.push(Box::new(thing));
    }

    #[must_use]
    pub fn folder(&self) -> &TempDir {
        &self.folder
    }

    /// A session through the proxy.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.cluster.info().proxy_url()).await
    }

    /// A session with one node's Postgres, around the proxy.
    pub async fn node_client(&self, node: NodeId) -> Result<Client> {
        connect(&self.cluster.info().node_url(node).context("no such node")?).await
    }

    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.cluster.info().nodes.iter().map(|node| node.id).collect()
    }

    /// Any node that follows.
    pub async fn a_follower(&self) -> Result<NodeId> {
        let leader = self.cluster.leader().await?;
        self.nodes().into_iter().find(|node| *node != leader).context("a cluster of one has no follower")
    }

    /// Hands leadership on by plan, to `to` or to whom the leader chooses; answers who had it and who has it. On a loaded machine a node may be
    /// refused for having been slow a moment ago: then again.
    pub async fn switchover(&self, to: Option<NodeId>) -> Result<(NodeId, NodeId)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let from = self.cluster.leader().await?;
            let address = self.cluster.info().node(from).context("no such node")?.admin.to_string();
            match admin::switchover(&address, &self.cluster.info().secret, to).await {
                Ok(done) => return Ok((done.from, done.to)),
                Err(error) if Instant::now() < deadline && error.to_string().contains("not fit to lead now") => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until nothing is under way, and compares every table on all nodes at one index.
    pub async fn compare(&self) -> Result<Comparison> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.cluster.wait_settled(PATIENCE).await?;
            let observed = self.cluster.observe().await;
            let index = observed.leader().context("no leader")?.committed_index;
            let mut checksums = Vec::new();
            for node in &self.cluster.info().nodes {
                checksums.push(admin::checksum(&node.admin.to_string(), &self.cluster.info().secret, index).await?);
            }
            match compare(&checksums) {
                Verdict::Comparable(comparison) => return Ok(comparison),
                Verdict::Moving if Instant::now() >= deadline => bail!("the nodes never stood at one index"),
                Verdict::Moving => {}
            }
        }
    }

    /// Fails unless all nodes hold the same rows, in at least these tables.
    pub async fn assert_identical(&self, tables: &[&str]) -> Result<()> {
        let comparison = self.compare().await?;
        for table in tables {
            if !comparison.tables.iter().any(|row| row.table == *table) {
                bail!("table {table} is on no node: {comparison:#?}");
            }
        }
        let different: Vec<_> = comparison.tables.iter().filter(|row| !row.identical).collect();
        if !different.is_empty() {
            bail!("nodes differ at index {}: {different:#?}", comparison.index);
        }
        Ok(())
    }
}

impl Deref for Fixture {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Fixture {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

/// Postgres' own user can reach what is there, whatever TMPDIR says.
const TEMP: &str = "/var/tmp";

/// A folder that Postgres' own user can reach.
pub fn folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("howdah-test-").tempdir_in(TEMP)?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(folder)
}

pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.with_context(|| format!("connecting to {url}"))?;
    tokio::spawn(connection);
    Ok(client)
}

/// The first column of the first row, by the simple protocol.
pub async fn show(client: &Client, sql: &str) -> Result<String> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
    Ok(row.with_context(|| format!("{sql}: no row"))?.get(0).unwrap_or_default().to_owned())
}

/// The SQLSTATE and the text with which the server refused.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, tokio_postgres::Error>) -> Result<(String, String)> {
    match result {
        Ok(value) => bail!("not refused: {value:?}"),
        Err(error) => {
            let said = error.as_db_error().with_context(|| format!("no answer of the server: {error}"))?;
            let hint = said.hint().map(|hint| format!(" HINT: {hint}")).unwrap_or_default();
            Ok((said.code().code().to_owned(), said.message().to_owned() + &hint))
        }
    }
}

/// Polls until `good`, or fails with what was seen last.
pub async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T>, good: impl Fn(&T) -> bool) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look().await?;
        if good(&seen) {
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            bail!("{what}: still {seen:?} after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
