//! Gray failures: a leader that lives and answers heartbeats, and cannot do its work. It must leave leading to others within a bound, and say why.

use anyhow::{Context, Result, ensure};
use howdah_ctl::admin;
use howdah_ctl::cluster::Part;
use howdah_protocol::NodeId;
use howdah_tests::disk::{self, Disk, Disks, Order, Shim, Struck};
use howdah_tests::{Fixture, PATIENCE, eventually};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Three questions without an answer take four seconds, an opening less than one; the rest is for a machine that does other things too.
const HANDED_OVER: Duration = Duration::from_secs(20);
/// A node that ends has a few dozen lines to say.
const LINES_MAX: usize = 1_000;

/// A cluster whose disks can be told to be bad; `None`, with the reason printed, where there is no C compiler.
async fn shimmed() -> Result<Option<Fixture>> {
    if let Some(why) = Shim::why_not() {
        println!("skipped: {why}");
        return Ok(None);
    }
    let (shim, mut put) = (Shim::build()?, Ok(()));
    let mut fixture = Fixture::start_with(|options| put = shim.put_under(options)).await?;
    put?;
    fixture.keep_beside(shim);
    Ok(Some(fixture))
}

/// The node's disks are well again; fails if the order had no effect.
fn heal(fixture: &Fixture, node: NodeId) -> Result<()> {
    let struck = disk::struck(fixture, node);
    println!("struck: {struck:?}");
    ensure!(struck != Struck::default(), "the fault never happened");
    disk::heal(fixture, node)
}

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

/// The node is open again, and holds what the others hold.
async fn back(fixture: &Fixture, node: NodeId) -> Result<()> {
    fixture.wait_caught_up(node, PATIENCE).await?;
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
    let Some(fixture) = shimmed().await? else { return Ok(()) };
    table(&fixture).await?;
    let old = fixture.leader().await?;
    disk::tell(&fixture, old, Order::Slow { ms: 2500, disk: Disk::Both })?;
    // Something for its log to write.
    let client = fixture.client().await?;
    let write = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    taken_over(&fixture, old, 3).await?;
    // Whichever it finds first; both are true.
    says(&fixture, old, &["disk is slow", "PostgreSQL does not answer"]).await?;
    // Committed, or rolled back with an error that says so.
    let _ = tokio::time::timeout(PATIENCE, write).await.context("a client was left without an answer")?;
    heal(&fixture, old)?;
    back(&fixture, old).await
}

/// Waits until the node's sidecar has ended, for this reason, and with its PostgreSQL.
async fn ends_without_a_log(fixture: &mut Fixture, node: NodeId) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while fixture.take_ended().is_empty() {
        ensure!(Instant::now() < deadline, "a node goes on without a log");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = std::fs::read_to_string(fixture.sidecar_log(node))?;
    let last = log.lines().rfind(|line| line.starts_with("Error: ")).unwrap_or_default();
    ensure!(last.contains("the log has stopped") && last.contains("No space left"), "it does not say why it ended: {last:?}");
    println!("it says: {last}");
    ensure!(log.lines().count() < LINES_MAX, "it says something {} times", log.lines().count());
    ensure!(fixture.postgres_pids(node).is_empty(), "its PostgreSQL runs on without it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_log_cannot_be_written_stops_and_says_why() -> Result<()> {
    let Some(mut fixture) = shimmed().await? else { return Ok(()) };
    table(&fixture).await?;
    let old = fixture.leader().await?;
    disk::tell(&fixture, old, Order::LogFull)?;
    let client = fixture.client().await?;
    let write = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    taken_over(&fixture, old, 3).await?;
    let _ = tokio::time::timeout(PATIENCE, write).await.context("a client was left without an answer")?;
    ends_without_a_log(&mut fixture, old).await?;
    heal(&fixture, old)?;
    fixture.restart_node(old).await?;
    back(&fixture, old).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_log_cannot_be_written_stops_and_says_why() -> Result<()> {
    let Some(mut fixture) = shimmed().await? else { return Ok(()) };
    table(&fixture).await?;
    let (leader, node) = (fixture.leader().await?, fixture.a_follower().await?);
    disk::tell(&fixture, node, Order::LogFull)?;
    let client = fixture.client().await?;
    client.batch_execute("INSERT INTO t VALUES (2)").await?;
    ends_without_a_log(&mut fixture, node).await?;
    // Nobody else needs it.
    client.batch_execute("INSERT INTO t VALUES (3)").await?;
    ensure!(fixture.leader().await? == leader, "the leader was disturbed");
    heal(&fixture, node)?;
    fixture.restart_node(node).await?;
    back(&fixture, node).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_full_hands_over_and_says_why() -> Result<()> {
    let node = NodeId(1);
    let disks = Arc::new(Disks::new()?);
    if let Some(why) = disks.why_not_full() {
        println!("skipped: {why}");
        return Ok(());
    }
    let fixture = Fixture::start_prepared(|_| {}, |fixture| disks.make_all(fixture)).await?;
    table(&fixture).await?;
    let leader = fixture.leader().await?;
    if leader != node {
        fixture.switchover(Some(node)).await?;
        fixture.wait_settled(PATIENCE).await?;
    }
    println!("{}", disks.fill(node, Disk::Postgres)?);
    taken_over(&fixture, node, 2).await?;
    says(&fixture, node, &["is full"]).await?;
    disks.heal(&fixture)?;
    back(&fixture, node).await
}
