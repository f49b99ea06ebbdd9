//! A leader that is cut off from its group, step by step.

use anyhow::{Context, Result, ensure};
use howdah_ctl::cluster::Port;
use howdah_protocol::NodeId;
use howdah_tests::netns::{self, Network};
use howdah_tests::{Fixture, PATIENCE, show};
use std::time::Duration;

/// Longer than any lease that a leader of 500 ms elections may hold, with much to spare.
const LEASE_ENDS: Duration = Duration::from_secs(3);
/// Bounded time, for a refusal.
const REFUSAL: Duration = Duration::from_secs(30);

struct Parted {
    cluster: Fixture,
    network: Network,
    old: NodeId,
    new: NodeId,
}

fn host(node: NodeId) -> usize {
    usize::try_from(node.0).expect("nodes are few") - 1
}

/// A table `t` with the value 1; then the leader and the proxy on one side, the followers, of which one leads, on the other.
async fn leader_and_proxy_cut_off() -> Result<Option<Parted>> {
    if let Some(why) = netns::why_not() {
        println!("skipped: {why}");
        return Ok(None);
    }
    let mut network = Network::make(4)?;
    let hosts = network.cluster_hosts();
    let cluster = Fixture::start_with(|options| {
        options.port = Port::Default;
        options.hosts = Some(hosts);
    });
    let cluster = cluster.await?;
    cluster.client().await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let old = cluster.leader().await?;
    for follower in cluster.nodes().into_iter().filter(|node| *node != old) {
        network.cut_both(host(old), host(follower))?;
        network.cut_both(network.hosts() - 1, host(follower))?;
    }
    let other = |seen: &howdah_ctl::cluster::Observed| seen.leader().is_some_and(|leader| leader.id != old);
    let seen = cluster.wait_until("a leader on the other side", PATIENCE, other).await?;
    let new = seen.leader().context("that was waited for")?.id;
    Ok(Some(Parted { cluster, network, old, new }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_its_group_acknowledges_nothing_and_what_it_held_back_is_nowhere() -> Result<()> {
    let Some(Parted { cluster, mut network, old, new }) = leader_and_proxy_cut_off().await? else { return Ok(()) };
    let direct = cluster.node_client(old).await?;
    let write = direct.batch_execute("INSERT INTO t VALUES (2, 2)");
    let answer = tokio::time::timeout(Duration::from_secs(2), write).await;
    ensure!(!matches!(answer, Ok(Ok(()))), "a commit without a majority");
    cluster.node_client(new).await?.batch_execute("INSERT INTO t VALUES (3, 3)").await?;
    network.heal()?;
    cluster.wait_caught_up(old, PATIENCE * 2).await?;
    // It was refused or left unknown; if it is anywhere, it is everywhere.
    cluster.assert_identical(&["public.t"]).await?;
    ensure!(show(&cluster.client().await?, "SELECT count(*) FROM t WHERE id IN (1, 3)").await? == "2", "an acknowledged row is lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_its_group_shows_nothing_stale() -> Result<()> {
    let Some(Parted { cluster, network, old, new }) = leader_and_proxy_cut_off().await? else { return Ok(()) };
    cluster.node_client(new).await?.batch_execute("UPDATE t SET v = 2 WHERE id = 1").await?;
    tokio::time::sleep(LEASE_ENDS).await;
    // The proxy cannot know of the new leader. It may refuse, or not answer in time; it must not answer with the old value.
    let client = tokio::time::timeout(REFUSAL, cluster.client()).await;
    if let Ok(Ok(client)) = client {
        let read = tokio::time::timeout(REFUSAL, show(&client, "SELECT v FROM t WHERE id = 1")).await;
        ensure!(!matches!(&read, Ok(Ok(value)) if value == "1"), "a linearizable read of a value that was replaced before it began");
    }
    ensure!(!network.probe(host(old), host(new)).passes()?, "the partition did not last");
    Ok(())
}
