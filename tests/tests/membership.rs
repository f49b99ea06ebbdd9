//! Nodes come and go under load, and nothing that was acknowledged is lost.

use anyhow::{Context, Result, ensure};
use howdah_ctl::admin;
use howdah_ctl::load::{Load, Options, Script, prepare};
use howdah_protocol::NodeId;
use howdah_protocol::admin::{AddMember, MemberStep, Role};
use howdah_tests::{Fixture, PATIENCE, eventually, show};
use std::time::Duration;

/// As the sidecar has it.
const LIVING_ACK_AGE_MAX: Duration = Duration::from_secs(3);

fn tell(step: &MemberStep) {
    println!("node {}: {:?}, {}", step.node, step.state, step.detail);
}

async fn more_writes(load: &Load, why: &str) -> Result<()> {
    let before = load.window().acknowledged;
    eventually(why, async || Ok(load.window().acknowledged), |count| *count > before + 100).await?;
    Ok(())
}

async fn leader_address(cluster: &Fixture) -> Result<String> {
    let leader = cluster.leader().await?;
    Ok(cluster.info().node(leader).context("the leader is a node")?.admin.to_string())
}

async fn voters(cluster: &Fixture) -> Result<Vec<u64>> {
    let members = admin::members(&leader_address(cluster).await?).await?.members;
    ensure!(members.iter().all(|member| member.voter), "{members:?}");
    Ok(members.iter().map(|member| member.node.0).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go_under_load() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let url = cluster.info().proxy_url();
    prepare(&url).await?;
    cluster
        .client()
        .await?
        .batch_execute("CREATE TABLE before (id int PRIMARY KEY); INSERT INTO before SELECT generate_series(1, 5000)")
        .await?;
    let load = Load::start(&Options { url: url.clone(), clients: 4, script: Script::Insert, seed: 7 });
    more_writes(&load, "writes before").await?;

    // A fourth.
    let four = cluster.add_node(None, PATIENCE * 2, &mut tell).await?;
    assert_eq!(four, NodeId(4));
    assert_eq!(voters(&cluster).await?, [1, 2, 3, 4]);
    let log = std::fs::read_to_string(cluster.sidecar_log(four))?;
    ensure!(log.contains("seeded index="), "it was not seeded:\n{log}");
    more_writes(&load, "writes with four").await?;

    // The leader leaves.
    let leader = cluster.leader().await?;
    let gone = *cluster.info().node(leader).context("the leader is a node")?;
    cluster.remove_node(leader, &mut tell).await?;
    ensure!(cluster.leader().await? != leader, "it leads still");
    ensure!(cluster.info().node(leader).is_none() && !voters(&cluster).await?.contains(&leader.0), "it is a member still");
    more_writes(&load, "writes without the old leader").await?;

    // Its id is never given away again, by whomever it is asked for.
    let again = AddMember { node: leader, admin: gone.admin.to_string(), sql: gone.sql.to_string() };
    let refused = admin::add_member(&leader_address(&cluster).await?, &cluster.info().secret, &again).await;
    let refused = refused.expect_err("the id was used").to_string();
    ensure!(refused.contains("never used again") && refused.contains("hint:"), "{refused}");
    let refused = cluster.add_node(Some(leader), PATIENCE, &mut tell).await.expect_err("the id was used").to_string();
    ensure!(refused.contains("never used again"), "{refused}");

    // One is replaced, at the port of the one that left.
    let old = cluster.a_follower().await?;
    let five = cluster.replace_node(old, None, PATIENCE * 2, &mut tell).await?;
    assert_eq!(five, NodeId(5));
    let mut expected: Vec<u64> = (1..=5).filter(|id| ![leader.0, old.0].contains(id)).collect();
    expected.sort_unstable();
    assert_eq!(voters(&cluster).await?, expected);
    more_writes(&load, "writes after all").await?;

    let report = load.stop().await?;
    let audit = report.audit(&url).await?;
    assert_eq!(audit.lost.len(), 0, "lost, such as {:?}", audit.lost.first());
    assert_eq!(audit.ghosts.len(), 0, "refused, and there all the same, such as {:?}", audit.ghosts.first());
    println!("{} acknowledged, {} unknown", audit.acknowledged, audit.unknown);
    cluster.assert_identical(&["public.howdah_load", "public.before"]).await?;

    // The proxy has found those that its configuration did not name: writes get through to a newcomer that leads.
    cluster.switchover(Some(five)).await?;
    cluster.wait_until("the newcomer leads", PATIENCE, |seen| seen.leader().is_some_and(|leader| leader.id == five)).await?;
    cluster.client().await?.batch_execute("INSERT INTO before VALUES (9999)").await?;

    // The new membership is what a restart of everything resumes.
    cluster.stop().await?;
    cluster.start().await?;
    cluster.wait_settled(PATIENCE).await?;
    assert_eq!(voters(&cluster).await?, expected);
    assert_eq!(show(&cluster.client().await?, "SELECT count(*) FROM before").await?, "5001");
    cluster.assert_identical(&["public.howdah_load", "public.before"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_not_cut_below_a_living_majority() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let leader = cluster.leader().await?;
    let followers: Vec<_> = cluster.nodes().into_iter().filter(|node| *node != leader).collect();
    cluster.kill_node(followers[0]).await?;
    let address = leader_address(&cluster).await?;
    let secret = cluster.info().secret.clone();
    let refused = admin::remove_member(&address, "no secret of this cluster", followers[0]).await;
    ensure!(refused.expect_err("no secret").to_string().contains("secret"), "anybody may");
    // Who answered the leader within the last 3 s counts as living, so the dead one does not from here on.
    tokio::time::sleep(LIVING_ACK_AGE_MAX + Duration::from_secs(1)).await;
    let error = admin::remove_member(&address, &secret, followers[1]).await.expect_err("no majority would live").to_string();
    ensure!(error.contains("no majority") && error.contains("hint:"), "{error}");
    // The dead one may go, and then the group can do without.
    cluster.remove_node(followers[0], &mut tell).await?;
    cluster.client().await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    let follower = cluster.observe().await.node(followers[1]).map(|node| node.role);
    ensure!(follower == Some(Role::Follower), "{follower:?}");
    cluster.assert_identical(&["public.t"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_grows_from_one_node_to_five_and_then_survives_two_deaths() -> Result<()> {
    let mut cluster = Fixture::start_with(|options| options.nodes = 1).await?;
    let url = cluster.info().proxy_url();
    prepare(&url).await?;
    let load = Load::start(&Options { url: url.clone(), clients: 2, script: Script::Insert, seed: 11 });
    more_writes(&load, "writes with one").await?;
    for size in 2..=5 {
        cluster.add_node(None, PATIENCE * 2, &mut tell).await?;
        assert_eq!(voters(&cluster).await?, (1..=size).collect::<Vec<_>>());
        more_writes(&load, "writes with one more").await?;
    }
    let first = cluster.leader().await?;
    let other = cluster.a_follower().await?;
    cluster.kill_node(first).await?;
    cluster.kill_node(other).await?;
    more_writes(&load, "writes with three of five").await?;
    let three = cluster.observe().await.answers().count();
    assert_eq!(three, 3, "nobody died");
    for node in [first, other] {
        cluster.restart_node(node).await?;
        cluster.wait_caught_up(node, PATIENCE).await?;
    }
    let report = load.stop().await?;
    let audit = report.audit(&url).await?;
    ensure!(audit.lost.is_empty() && audit.ghosts.is_empty(), "{:?} lost, {:?} ghosts", audit.lost, audit.ghosts);
    cluster.wait_settled(PATIENCE).await?;
    cluster.assert_identical(&["public.howdah_load"]).await
}
