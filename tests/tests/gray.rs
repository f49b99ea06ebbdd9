//! Gray failures: a leader that lives and answers heartbeats, and cannot do its work. It must leave leading to others within a bound, and say why.

#[path = "gray/disk.rs"]
mod disk;

use anyhow::{Context, Result, ensure};
use howdah_ctl::admin;
use howdah_ctl::cluster::{Cluster, Part};
use howdah_protocol::NodeId;
use howdah_tests::{Fixture, PATIENCE, eventually};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Three questions without an answer take four seconds, an opening less than one; the rest is for a machine that does other things too.
const HANDED_OVER: Duration = Duration::from_secs(20);
const TMPFS_MIB: usize = 256;

async fn table(fixture: &Fixture) -> Result<()> {
    fixture.client().await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    Ok(fixture.wait_settled(PATIENCE).await?)
}

/// Waits until another node leads and takes a write through the proxy.
async fn taken_over(fixture: &Fixture, old: NodeId, id: i32) -> Result<()> {
    let began = Instant::now();
    let other =
        |seen: &howdah_ctl::cluster::Observed| seen.answers().any(|node| node.id != old && node.open && node.role.to_string() == "leader");
    fixture.wait_until("another open leader", HANDED_OVER, other).await?;
    println!("another node leads after {:?}", began.elapsed());
    let client = tokio::time::timeout(PATIENCE, fixture.client()).await.context("connecting")??;
    let insert = format!("INSERT INTO t VALUES ({id})");
    tokio::time::timeout(PATIENCE, client.batch_execute(&insert)).await.context("writing to the new leader")??;
    Ok(())
}

/// Waits until the node says what is wrong with it, in these words.
async fn says(fixture: &Fixture, node: NodeId, words: &[&str]) -> Result<()> {
    let address = fixture.info().node(node).context("no such node")?.admin.to_string();
    // One that hangs in an fsync does not answer meanwhile.
    let look = async || Ok(admin::status(&address).await.ok().and_then(|status| status.trouble));
    let said = eventually("a reason", look, |told| told.as_ref().is_some_and(|told| words.iter().any(|word| told.contains(word)))).await?;
    println!("it says: {}", said.unwrap_or_default());
    Ok(())
}

/// The node is an open follower again, and holds what the others hold.
async fn back(fixture: &Fixture, node: NodeId) -> Result<()> {
    fixture.wait_follower(node, PATIENCE).await?;
    fixture.assert_identical(&["public.t"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_postgres_hangs_hands_over_and_says_why() -> Result<()> {
    let fixture = Fixture::start().await?;
    table(&fixture).await?;
    let old = fixture.leader().await?;
    let paused = fixture.pause(old, Part::Postgres).await?;
    taken_over(&fixture, old, 2).await?;
    says(&fixture, old, &["PostgreSQL does not answer"]).await?;
    ensure!(paused.standing() > 0, "its PostgreSQL did not hang all the while");
    drop(paused);
    back(&fixture, old).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_on_a_slow_disk_is_replaced_and_says_why() -> Result<()> {
    let Some(fixture) = disk::start().await? else { return Ok(()) };
    table(&fixture).await?;
    let old = fixture.leader().await?;
    disk::tell(&fixture, old, "slow 2500")?;
    // Something for its log to write.
    let client = fixture.client().await?;
    let write = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    taken_over(&fixture, old, 3).await?;
    // Whichever it finds first; both are true.
    says(&fixture, old, &["disk is slow", "PostgreSQL does not answer"]).await?;
    // Committed, or rolled back with an error that says so.
    let _ = tokio::time::timeout(PATIENCE, write).await.context("a client was left without an answer")?;
    disk::heal(&fixture, old)?;
    back(&fixture, old).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_log_cannot_be_written_stops_and_says_why() -> Result<()> {
    let Some(mut fixture) = disk::start().await? else { return Ok(()) };
    table(&fixture).await?;
    let old = fixture.leader().await?;
    disk::tell(&fixture, old, "full")?;
    let client = fixture.client().await?;
    let write = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    taken_over(&fixture, old, 3).await?;
    let _ = tokio::time::timeout(PATIENCE, write).await.context("a client was left without an answer")?;
    let deadline = Instant::now() + PATIENCE;
    while fixture.take_ended().is_empty() {
        ensure!(Instant::now() < deadline, "a node goes on without a log");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = std::fs::read_to_string(fixture.sidecar_log(old))?;
    let last = log.lines().rfind(|line| line.starts_with("Error: ")).unwrap_or_default();
    ensure!(last.contains("the log has stopped") && last.contains("No space left"), "it does not say why it ended: {last:?}");
    println!("it says: {last}");
    ensure!(fixture.postgres_pids(old).is_empty(), "its PostgreSQL runs on without it");
    disk::heal(&fixture, old)?;
    fixture.restart_node(old).await?;
    back(&fixture, old).await
}

/// A small file system in memory, unmounted with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Result<Self, String> {
        let size = format!("size={TMPFS_MIB}m,mode=0711");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output().map_err(|error| error.to_string())?;
        if mounted.status.success() { Ok(Self(at.to_owned())) } else { Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned()) }
    }
}

/// Writes to a small disk until not a byte is left.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let (mib, mut written) = (vec![1; 1 << 20], 0);
    while file.write_all(&mib).is_ok() {
        written += 1;
        ensure!(written <= TMPFS_MIB, "the small disk is not small");
    }
    Ok(())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_full_hands_over_and_says_why() -> Result<()> {
    let node = NodeId(1);
    let mut mounted = Err("nothing was tried".to_owned());
    let prepare = |cluster: &Cluster| {
        let data = cluster.data().join(format!("node{node}")).join("data");
        std::fs::create_dir_all(&data)?;
        mounted = SmallDisk::mount(&data);
        Ok(())
    };
    let mut fixture = Fixture::start_prepared(|_| {}, prepare).await?;
    match mounted {
        // Postgres is found by the folder that it runs in, so the disk stays there until it is gone.
        Ok(disk) => fixture.keep_beside(disk),
        Err(why) => {
            println!("skipped: no small disk can be mounted: {why}");
            return Ok(());
        }
    }
    table(&fixture).await?;
    let leader = fixture.leader().await?;
    if leader != node {
        let address = fixture.info().node(leader).context("no such node")?.admin.to_string();
        admin::switchover(&address, &fixture.info().secret, Some(node)).await?;
        fixture.wait_settled(PATIENCE).await?;
    }
    let ballast = fixture.data().join(format!("node{node}/data/ballast"));
    fill(&ballast)?;
    taken_over(&fixture, node, 2).await?;
    says(&fixture, node, &["is full"]).await?;
    std::fs::remove_file(ballast)?;
    back(&fixture, node).await
}
