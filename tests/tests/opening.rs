//! To lead is to open: a node that has the log and cannot open its PostgreSQL soon must not keep the group waiting.
//!
//! In each test a session on a follower itself holds a table that it needs to apply, or to open.

use anyhow::{Context, Result, ensure};
use howdah_ctl::admin;
use howdah_ctl::cluster::Observed;
use howdah_protocol::NodeId;
use howdah_tests::{Fixture, PATIENCE, eventually};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Ten seconds until a leader that is not open hands on; the rest is for a machine that does other things too.
const SERVED: Duration = Duration::from_secs(40);

/// Apply waits for readers for longer than any of this takes.
async fn start() -> Result<(Fixture, Client)> {
    let fixture = Fixture::start_with(|options| drop(options.sidecar.insert("apply_delay_max_s".to_owned(), 600.into()))).await?;
    let client = fixture.client().await?;
    client.batch_execute("CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES; CREATE TABLE other (id int)").await?;
    fixture.wait_settled(PATIENCE).await?;
    // Where the start took long, a node leaves leading to others for a while.
    let well = |seen: &Observed| seen.answers().all(|node| node.trouble.is_none());
    fixture.wait_until("all nodes are well", PATIENCE, well).await?;
    Ok((fixture, client))
}

/// A session on the node itself, that holds the table until it ends.
async fn hold(fixture: &Fixture, node: NodeId, mode: &str) -> Result<Client> {
    let session = fixture.node_client(node).await?;
    session.batch_execute(&format!("BEGIN; LOCK TABLE t IN {mode} MODE")).await?;
    Ok(session)
}

/// The Raft leadership goes to this node, whatever it makes of it.
async fn give(fixture: &Fixture, from: NodeId, to: NodeId) -> Result<()> {
    let address = fixture.info().node(from).context("no such node")?.admin.to_string();
    let handed = admin::switchover(&address, &fixture.info().secret, Some(to)).await?;
    ensure!(handed.to == to, "{handed:?}");
    Ok(())
}

async fn writes(fixture: &Fixture) -> Result<()> {
    let began = Instant::now();
    let write = async || match fixture.client().await {
        Ok(client) => Ok(client.batch_execute("INSERT INTO other VALUES (1)").await.is_ok()),
        Err(_) => Ok(false),
    };
    let written = eventually("a write", write, |written| *written);
    tokio::time::timeout(SERVED, written).await.context("nobody serves")??;
    println!("served after {:?}", began.elapsed());
    Ok(())
}

fn said(fixture: &Fixture, node: NodeId) -> Result<String> {
    Ok(std::fs::read_to_string(fixture.sidecar_log(node))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_the_way_of_apply_is_ended_when_the_group_waits() -> Result<()> {
    let (fixture, client) = start().await?;
    let (old, new) = (fixture.leader().await?, fixture.a_follower().await?);
    let held = hold(&fixture, new, "SHARE").await?;
    // What it must apply before it may open.
    client.batch_execute("INSERT INTO t DEFAULT VALUES").await?;
    give(&fixture, old, new).await?;
    writes(&fixture).await?;
    ensure!(fixture.leader().await? == new, "it led, and does not any more");
    let log = said(&fixture, new)?;
    ensure!(log.contains("sessions that blocked apply for 1s were ended"), "nothing was in its way:\n{log}");
    ensure!(held.batch_execute("SELECT 1").await.is_err(), "the session lives");
    fixture.assert_identical(&["public.t", "public.other"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_open_hands_on_to_one_that_can() -> Result<()> {
    let (fixture, _client) = start().await?;
    let (old, stuck) = (fixture.leader().await?, fixture.a_follower().await?);
    // This lock has a transaction id, and a new slot waits until all that have one are over.
    let held = hold(&fixture, stuck, "ACCESS EXCLUSIVE").await?;
    give(&fixture, old, stuck).await?;
    writes(&fixture).await?;
    let log = said(&fixture, stuck)?;
    ensure!(log.contains("has not opened its PostgreSQL for 10 s"), "it did not lead:\n{log}");
    ensure!(fixture.leader().await? != stuck, "it could not lead");
    drop(held);
    fixture.wait_caught_up(stuck, PATIENCE).await?;
    fixture.assert_identical(&["public.t", "public.other"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_far_behind_leaves_leading_to_another() -> Result<()> {
    let (mut fixture, client) = start().await?;
    // Where both followers are as good, the lower id would be first.
    let behind = fixture.a_follower().await?;
    let held = hold(&fixture, behind, "SHARE").await?;
    client.batch_execute("INSERT INTO t DEFAULT VALUES").await?;
    let address = fixture.info().node(behind).context("no such node")?.admin.to_string();
    let trouble = async || Ok(admin::status(&address).await.ok().and_then(|status| status.trouble));
    eventually("a node that knows that it is behind", trouble, |told| told.as_ref().is_some_and(|told| told.contains("apply is"))).await?;
    let killed = fixture.kill_leader().await?;
    writes(&fixture).await?;
    ensure!(fixture.leader().await? != behind, "it cannot open");
    ensure!(!said(&fixture, behind)?.contains("applying what is decided"), "it led");
    drop(held);
    fixture.restart_node(killed.node).await?;
    fixture.wait_caught_up(killed.node, PATIENCE).await?;
    fixture.wait_caught_up(behind, PATIENCE).await?;
    fixture.assert_identical(&["public.t", "public.other"]).await
}
