//! The leader is killed, and nothing that was acknowledged is lost.

use anyhow::{Context, Result};
use howdah_ctl::core::gap::write_gap;
use howdah_ctl::load::{Load, Options, Script, prepare};
use howdah_protocol::admin::Role;
use howdah_tests::{Fixture, PATIENCE, eventually, show};
use std::time::Duration;

const ROUNDS: u64 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_leader_again_and_again_loses_nothing() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let url = cluster.info().proxy_url();
    for round in 1..=ROUNDS {
        prepare(&url).await?;
        let load = Load::start(&Options { url: url.clone(), clients: 4, script: Script::Insert, seed: round });
        eventually("writes before the kill", async || Ok(load.window().acknowledged), |count| *count > 200).await?;
        let killed = cluster.kill_leader().await?;
        let before = load.window().acknowledged;
        let after =
            cluster.wait_until("another leader", PATIENCE, |seen| seen.leader().is_some_and(|leader| leader.id != killed.node)).await?;
        eventually("writes after the kill", async || Ok(load.window().acknowledged), |count| *count > before + 200).await?;
        cluster.restart_node(killed.node).await?;
        cluster.wait_caught_up(killed.node, PATIENCE).await?;
        let report = load.stop().await?;
        let audit = report.audit(&url).await?;
        assert_eq!(audit.lost.len(), 0, "round {round}: lost, such as {:?}", audit.lost.first());
        assert_eq!(audit.ghosts.len(), 0, "round {round}: refused, and there all the same, such as {:?}", audit.ghosts.first());
        let gap = write_gap(report.acks(), killed.at.duration_since(report.started)).context("no write after the kill")?;
        println!(
            "round {round}: {} acknowledged, {} unknown, gap {gap:?}, leader now {:?}",
            audit.acknowledged,
            audit.unknown,
            after.leader().map(|n| n.id)
        );
        assert!(gap < Duration::from_secs(10), "round {round}: writes stood still for {gap:?}");
        cluster.assert_identical(&["public.howdah_load"]).await?;
    }
    Ok(())
}

/// In autocommit and in blocks, of which some are open at each switchover.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switchover_costs_no_client_an_error() -> Result<()> {
    let cluster = Fixture::start().await?;
    let url = cluster.info().proxy_url();
    prepare(&url).await?;
    let load = Load::start(&Options { url: url.clone(), clients: 4, script: Script::Mixed, seed: 1 });
    for _ in 0..ROUNDS {
        let before = load.window().acknowledged;
        eventually("writes", async || Ok(load.window().acknowledged), |count| *count > before + 200).await?;
        let (from, to) = cluster.switchover(None).await?;
        assert_ne!(from, to);
        cluster.wait_until("the new leader", PATIENCE, |seen| seen.leader().is_some_and(|leader| leader.id == to)).await?;
        cluster.wait_caught_up(from, PATIENCE).await?;
    }
    let before = load.window().acknowledged;
    eventually("writes at the last leader", async || Ok(load.window().acknowledged), |count| *count > before + 200).await?;
    let audit = load.stop().await?.audit(&url).await?;
    assert_eq!((audit.refused, audit.unknown), (0, 0), "clients saw errors");
    assert_eq!((audit.lost.len(), audit.ghosts.len()), (0, 0));
    cluster.assert_identical(&["public.howdah_load"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_lose_a_leader() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE s (id serial PRIMARY KEY)").await?;
    client.batch_execute("INSERT INTO s SELECT FROM generate_series(1, 5)").await?;

    // Postgres alone: the sidecar hands over.
    let killed = cluster.leader().await?;
    cluster.kill_postgres(killed).await?;
    cluster.wait_until("another leader", PATIENCE, |seen| seen.leader().is_some_and(|leader| leader.id != killed)).await?;
    client.batch_execute("INSERT INTO t VALUES (1)").await?;
    cluster.wait_caught_up(killed, PATIENCE).await?;

    // The sidecar alone: nobody confirms commits there any more, and its Postgres is closed when it comes back.
    let killed = cluster.leader().await?;
    cluster.kill_sidecar(killed).await?;
    cluster.wait_until("another leader", PATIENCE, |seen| seen.leader().is_some_and(|leader| leader.id != killed)).await?;
    client.batch_execute("INSERT INTO t VALUES (2)").await?;
    cluster.restart_node(killed).await?;
    cluster.wait_caught_up(killed, PATIENCE).await?;

    // An orderly stop hands over first.
    let stopped = cluster.leader().await?;
    cluster.stop_node(stopped).await?;
    cluster.wait_until("another leader", PATIENCE, |seen| seen.leader().is_some_and(|leader| leader.id != stopped)).await?;
    client.batch_execute("INSERT INTO t VALUES (3)").await?;
    // Sequences go on behind what was handed out, and what is stored.
    client.batch_execute("INSERT INTO s SELECT FROM generate_series(1, 5)").await?;
    cluster.restart_node(stopped).await?;
    cluster.wait_caught_up(stopped, PATIENCE).await?;

    assert_eq!(show(&client, "SELECT array_agg(id ORDER BY id) FROM t").await?, "{1,2,3}");
    assert_eq!(show(&client, "SELECT count(DISTINCT id) FROM s").await?, "10");
    cluster.assert_identical(&["public.t", "public.s"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_that_crashes_comes_back_with_everything() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let url = cluster.info().proxy_url();
    prepare(&url).await?;
    let load = Load::start(&Options { url: url.clone(), clients: 4, script: Script::Insert, seed: 1 });
    eventually("writes", async || Ok(load.window().acknowledged), |count| *count > 300).await?;
    for node in cluster.nodes() {
        cluster.kill_node(node).await?;
    }
    for node in cluster.nodes() {
        cluster.restart_node(node).await?;
    }
    let before = load.window().acknowledged;
    eventually("writes after the crash", async || Ok(load.window().acknowledged), |count| *count > before + 100).await?;
    let report = load.stop().await?;
    let audit = report.audit(&url).await?;
    assert_eq!((audit.lost.len(), audit.ghosts.len()), (0, 0));
    cluster.assert_identical(&["public.howdah_load"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_majority_is_needed_and_enough() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    let leader = cluster.leader().await?;
    let followers: Vec<_> = cluster.nodes().into_iter().filter(|node| *node != leader).collect();
    cluster.kill_node(followers[0]).await?;
    client.batch_execute("INSERT INTO t VALUES (1)").await?;
    cluster.kill_node(followers[1]).await?;
    // Alone, the leader acknowledges nothing, and what it has not acknowledged nobody sees.
    let waiting = client.batch_execute("INSERT INTO t VALUES (2)");
    assert!(tokio::time::timeout(Duration::from_secs(2), waiting).await.is_err(), "a commit without a majority");
    let other = cluster.node_client(leader).await?;
    assert_eq!(show(&other, "SELECT count(*) FROM t").await?, "1");
    cluster.restart_node(followers[0]).await?;
    eventually("the waiting commit", async || Ok(show(&cluster.client().await?, "SELECT count(*) FROM t").await?), |seen| seen == "2")
        .await?;
    cluster.restart_node(followers[1]).await?;
    cluster.wait_caught_up(followers[1], PATIENCE).await?;
    cluster.assert_identical(&["public.t"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gives_up_commits_that_the_group_never_accepted() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let leader = cluster.leader().await?;
    let followers: Vec<_> = cluster.nodes().into_iter().filter(|node| *node != leader).collect();
    // Without its followers the leader commits locally what nobody else gets.
    for follower in &followers {
        cluster.kill_node(*follower).await?;
    }
    let direct = cluster.node_client(leader).await?;
    direct.batch_execute("SET synchronous_commit = local; INSERT INTO t VALUES (666)").await?;
    cluster.kill_node(leader).await?;
    for follower in &followers {
        cluster.restart_node(*follower).await?;
    }
    cluster.wait_until("another leader", PATIENCE, |seen| seen.leader().is_some_and(|node| node.id != leader)).await?;
    let client = cluster.client().await?;
    client.batch_execute("INSERT INTO t VALUES (2)").await?;
    cluster.restart_node(leader).await?;
    let seen = cluster.wait_until("the ex-leader following", PATIENCE * 2, |seen| {
        seen.node(leader).is_some_and(|node| node.role == Role::Follower && node.open)
    });
    seen.await?;
    cluster.wait_caught_up(leader, PATIENCE).await?;
    assert_eq!(show(&cluster.node_client(leader).await?, "SELECT array_agg(id ORDER BY id) FROM t").await?, "{1,2}");
    let log = std::fs::read_to_string(cluster.sidecar_log(leader))?;
    assert!(log.contains("never accepted"), "the ex-leader did not notice its commit:\n{log}");
    cluster.assert_identical(&["public.t"]).await
}
