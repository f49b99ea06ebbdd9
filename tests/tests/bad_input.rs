//! Folders, disks and programs that a node must not be started with: refused with what to do, before anything is written.
//! (An id that was used before: `membership.rs`. A server that is set up wrongly: `attached.rs`.)

use anyhow::{Context, Result, ensure};
use howdah_ctl::admin;
use howdah_ctl::cluster::Binaries;
use howdah_protocol::NodeId;
use howdah_protocol::admin::MemberStep;
use howdah_tests::{Fixture, PATIENCE, show};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

/// Magic and version of `raft.id`.
const VERSION_AT: usize = 8;

/// Every file that says something, with what changes when it is written to.
fn content(dir: &Path) -> Result<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        if kind.is_dir() {
            found.extend(content(&entry.path())?);
        } else if kind.len() > 0 {
            found.insert(entry.path(), (kind.len(), kind.modified()?));
        }
    }
    Ok(found)
}

/// A node of a cluster that serves without it, and its folder and configuration.
struct Stopped {
    cluster: Fixture,
    node: NodeId,
    data: PathBuf,
    config: String,
}

impl Stopped {
    async fn follower() -> Result<Self> {
        let mut cluster = Fixture::start().await?;
        cluster.client().await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
        let node = cluster.a_follower().await?;
        cluster.stop_node(node).await?;
        let folder = cluster.data().join(format!("node{node}"));
        let config = fs::read_to_string(folder.join("sidecar.toml"))?;
        Ok(Self { cluster, node, data: folder.join("data"), config })
    }

    /// Starts the node's sidecar, with this configuration, in this data folder, and returns why it ends. Nothing may be written.
    async fn refused(&self, config: &str, data: &Path) -> Result<String> {
        let (ours, theirs) = (self.data.display().to_string(), data.display().to_string());
        let file = self.cluster.folder().path().join("bad.toml");
        fs::write(&file, config.replace(&ours, &theirs))?;
        let before = content(data)?;
        let mut command = tokio::process::Command::new(Binaries::find()?.sidecar);
        command.arg("--config").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.context("the sidecar neither refuses nor ends")??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "the sidecar took it:\n{said}");
        ensure!(content(data)? == before, "something was written, and then:\n{said}");
        Ok(said)
    }

    fn empty(&self, name: &str) -> Result<PathBuf> {
        let folder = self.cluster.data().join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

fn must_say(said: &str, parts: &[&str]) -> Result<()> {
    parts.iter().try_for_each(|part| {
        ensure!(said.contains(part), "no `{part}` in\n{said}");
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_another_node_or_version_is_refused() -> Result<()> {
    let stopped = Stopped::follower().await?;
    let (node, config) = (stopped.node, stopped.config.as_str());
    let marker = stopped.data.join("raft/raft.id");

    // The log directory of another node: this one's, for a node of another id.
    let next = NodeId(9);
    let other = config.replace(&format!("node = {node}\n"), &format!("node = {next}\n"));
    ensure!(other != config, "the configuration has another form than this test thinks:\n{config}");
    must_say(&stopped.refused(&other, &stopped.data).await?, &[&format!("belongs to node {node}"), "its own folder"])?;

    // A node of another cluster: with its own folder, and with a new one.
    let name = config.lines().find(|line| line.starts_with("cluster = ")).context("the cluster has a name")?;
    let elsewhere = config.replace(name, "cluster = \"elsewhere\"");
    must_say(&stopped.refused(&elsewhere, &stopped.data).await?, &["belongs to node", "\"elsewhere\""])?;
    let fresh = stopped.empty("fresh")?;
    must_say(&stopped.refused(&elsewhere, &fresh).await?, &["nothing was written", "expected", "elsewhere"])?;

    // A newer format.
    let good = fs::read(&marker)?;
    let mut newer = good.clone();
    newer[VERSION_AT] += 1;
    fs::write(&marker, newer)?;
    must_say(&stopped.refused(config, &stopped.data).await?, &["has format", "upgrade this node"])?;
    fs::write(&marker, good)?;

    // A Postgres that is too old.
    let old = stopped.empty("old-postgres")?;
    fs::write(old.join("postgres"), "#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n")?;
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(old.join("postgres"), fs::Permissions::from_mode(0o755))?;
    let bin_dir = config.lines().find(|line| line.starts_with("bin_dir = ")).context("there is a bin_dir")?;
    let aged = config.replace(bin_dir, &format!("bin_dir = \"{}\"", old.display()));
    must_say(&stopped.refused(&aged, &fresh).await?, &["14.9 is too old", "upgrade to 15.13"])?;

    // As it was, the node is taken.
    let mut cluster = stopped.cluster;
    cluster.restart_node(node).await?;
    cluster.wait_settled(PATIENCE).await?;
    cluster.assert_identical(&["public.t"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_disk_with_the_old_id_is_refused_and_its_node_replaced() -> Result<()> {
    let stopped = Stopped::follower().await?;
    let node = stopped.node;
    fs::remove_dir_all(&stopped.data)?;
    fs::create_dir(&stopped.data)?;
    let hint = format!("howdahctl node replace {node}");
    must_say(&stopped.refused(&stopped.config, &stopped.data).await?, &["wiped or replaced", &hint])?;
    // Nor by another way.
    let joining = stopped.config.replace("join = false", "join = true");
    must_say(&stopped.refused(&joining, &stopped.data).await?, &[&hint])?;

    let mut cluster = stopped.cluster;
    cluster.client().await?.batch_execute("INSERT INTO t VALUES (2)").await?;
    let new = cluster.replace_node(node, None, PATIENCE * 2, &mut |step: &MemberStep| println!("{step:?}")).await?;
    let leader = cluster.leader().await?;
    let address = cluster.info().node(leader).context("the leader is a node")?.admin.to_string();
    let members: Vec<NodeId> = admin::members(&address).await?.members.iter().map(|member| member.node).collect();
    ensure!(members.contains(&new) && !members.contains(&node), "{members:?}");
    assert_eq!(show(&cluster.client().await?, "SELECT count(*) FROM t").await?, "2");
    cluster.assert_identical(&["public.t"]).await
}
