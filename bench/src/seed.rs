//! `howdah-bench seed`: what does it cost to fill a new node while the group serves?
//!
//! One cluster, one load (pgbench's TPC-B at the leader) that never pauses. In this order: a while of the load alone; `pg_basebackup` from the
//! leader, as PostgreSQL's own way to get the same data to another machine; the load alone again; a node is added, which is filled from a
//! follower (or else the leader), follows, and votes. All on one busy machine: so it is the floor of the filling's pace that is measured. The throughput of a phase is the median of its seconds; each copy is compared with the while before it.

use crate::fixtures::howdah;
use crate::fixtures::server::{basebackup, sql};
use crate::load::{Load, Window};
use crate::pgbench::Endpoint;
use anyhow::{Context, ensure};
use howdah_ctl::cluster::Cluster;
use howdah_ctl::core::table::{Align, render};
use howdah_ctl::pgbench;
use howdah_protocol::admin::{MemberStep, SeedingStage};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// pgbench's tables and their indexes, per unit of scale.
const MEGABYTES_PER_SCALE: u32 = 15;
/// The load alone, before each copy.
const QUIET: Duration = Duration::from_secs(20);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(600);
const ADD_TIMEOUT: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
pub struct Options {
    pub megabytes: u32,
    pub clients: u32,
    pub nodes: u32,
    /// `seed.megabytes_per_second_busy` of all nodes, where it is not to be their default.
    pub floor: Option<u32>,
    pub bin_dir: PathBuf,
    pub work: PathBuf,
    pub json: Option<PathBuf>,
}

/// The JSON form is a contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub kind: &'static str,
    pub database_bytes: u64,
    pub clients: u32,
    pub nodes_before: u32,
    /// `follower` or `leader`.
    pub filled_from: &'static str,
    pub seeding: Copy,
    pub pg_basebackup: Copy,
}

/// One way of copying: how long it took, and what it left of the throughput.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Copy {
    pub seconds: f64,
    pub tps_before: f64,
    pub tps_during: f64,
    pub ratio: f64,
}

pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut settings = howdah::options(&options.bin_dir, &options.work.join("seed"))?;
    settings.nodes = options.nodes;
    if let Some(floor) = options.floor {
        let table = BTreeMap::from([("megabytes_per_second_busy", i64::from(floor))]);
        settings.sidecar.insert("seed".to_owned(), table.into());
    }
    let mut cluster = Cluster::create(settings).await?;
    cluster.start().await.context("starting the cluster")?;
    let scale = options.megabytes.div_ceil(MEGABYTES_PER_SCALE).max(options.clients);
    let leader = cluster.leader().await?;
    let url = cluster.info().node_url(leader).context("the leader is one of the nodes")?;
    let superuser = cluster.info().superuser(leader).context("the leader is one of the nodes")?;
    println!("{} nodes; loading scale {scale} ...", options.nodes);
    let began = Instant::now();
    pgbench::init(&options.bin_dir, &url, scale).await?;
    cluster.wait_settled(SETTLE_TIMEOUT).await?;
    // Otherwise autovacuum and checkpoints would find the new rows in one phase or another.
    for node in &cluster.info().nodes {
        let superuser = cluster.info().superuser(node.id).context("it is one of the nodes")?;
        // Nobody lets a follower's own commits through its gate.
        let local = format!("{superuser} options='-c synchronous_commit=local'");
        sql(&local, "VACUUM ANALYZE").await?;
        sql(&local, "CHECKPOINT").await?;
    }
    let bytes = sql(&superuser, "SELECT pg_database_size(current_database())").await?;
    let database_bytes: u64 = bytes.unwrap_or_default().parse().context("the size of the database")?;
    println!("{} MiB loaded in {:.0} s", database_bytes >> 20, began.elapsed().as_secs_f64());

    let mut load = Load::start(&options.bin_dir, &options.work.join("load"), &Endpoint { url, options: "" }, options.clients)?;
    // The first seconds fill caches.
    tokio::time::sleep(QUIET / 4).await;
    let copy = options.work.join("basebackup");
    let pg_basebackup = phase(&mut load, "pg_basebackup", basebackup(&options.bin_dir, &superuser, &copy)).await?;
    std::fs::remove_dir_all(&copy)?;
    let mut stages: Vec<(Option<SeedingStage>, SystemTime)> = Vec::new();
    let mut giver = None;
    let mut tell = |step: &MemberStep| {
        giver = step.seeding.and_then(|seeding| seeding.from).or(giver);
        let stage = step.seeding.map(|seeding| seeding.stage);
        if stages.last().is_none_or(|(last, _)| *last != stage) {
            println!("  {}", step.seeding.map_or_else(|| step.detail.clone(), |seeding| seeding.to_string()));
            stages.push((stage, SystemTime::now()));
        }
    };
    let seeding = phase(&mut load, "seeding", async {
        cluster.add_node(None, ADD_TIMEOUT, &mut tell).await?;
        Ok(())
    })
    .await?;
    stages.push((None, SystemTime::now()));
    for ((stage, from), (_, to)) in stages.iter().zip(&stages[1..]) {
        // Where it was too short to be measured, there is nothing to tell.
        if let Ok(tps) = load.median(Window::between(*from, *to)) {
            println!(
                "  {}: {tps:.0} tps",
                stage.map_or_else(|| "before and after".to_owned(), |stage| format!("{stage:?}").to_lowercase())
            );
        }
    }
    ensure!(cluster.leader().await? == leader, "the leader changed: nothing was measured");
    let filled_from = if giver.context("who gave the rows was not seen")? == leader { "leader" } else { "follower" };
    drop(load);
    cluster.wait_settled(SETTLE_TIMEOUT).await?;
    cluster.stop().await?;

    let (clients, nodes_before) = (options.clients, options.nodes);
    let report = Report { kind: "seed", database_bytes, clients, nodes_before, filled_from, seeding, pg_basebackup };
    println!("\n{}", table(&report));
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(report)
}

/// The load alone, then the load beside `work`.
async fn phase(load: &mut Load, name: &str, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Copy> {
    let quiet = SystemTime::now();
    tokio::time::sleep(QUIET).await;
    let tps_before = load.median(Window::since(quiet))?;
    let (began, from) = (Instant::now(), SystemTime::now());
    work.await.with_context(|| name.to_owned())?;
    let seconds = began.elapsed().as_secs_f64();
    let tps_during = load.median(Window::since(from)).with_context(|| format!("{name} took {seconds:.1} s"))?;
    println!("{name}: {seconds:.1} s, {tps_before:.0} -> {tps_during:.0} tps");
    Ok(Copy { seconds, tps_before, tps_during, ratio: tps_during / tps_before })
}

fn table(report: &Report) -> String {
    let columns = [
        ("copy", Align::Left),
        ("seconds", Align::Right),
        ("MB/s", Align::Right),
        ("tps before", Align::Right),
        ("tps during", Align::Right),
        ("ratio", Align::Right),
    ];
    #[allow(clippy::cast_precision_loss)] // a database of less than 2^52 bytes
    let megabytes = report.database_bytes as f64 / 1e6;
    let line = |name: &str, copy: Copy| {
        vec![
            name.to_owned(),
            format!("{:.1}", copy.seconds),
            format!("{:.1}", megabytes / copy.seconds),
            format!("{:.0}", copy.tps_before),
            format!("{:.0}", copy.tps_during),
            format!("{:.2}", copy.ratio),
        ]
    };
    render(
        &columns,
        &[line(&format!("seeding, from a {}", report.filled_from), report.seeding), line("pg_basebackup", report.pg_basebackup)],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_exactly_the_promised_keys() {
        let copy = Copy { seconds: 2.0, tps_before: 100.0, tps_during: 75.0, ratio: 0.75 };
        let filled_from = "follower";
        let report = Report {
            kind: "seed",
            database_bytes: 2_000_000,
            clients: 8,
            nodes_before: 3,
            filled_from,
            seeding: copy,
            pg_basebackup: copy,
        };
        let one = serde_json::json!({"seconds": 2.0, "tps_before": 100.0, "tps_during": 75.0, "ratio": 0.75});
        let expected = serde_json::json!({"kind": "seed", "database_bytes": 2_000_000, "clients": 8, "nodes_before": 3,
            "filled_from": "follower", "seeding": one, "pg_basebackup": one});
        assert_eq!(serde_json::to_value(&report).expect("serialises"), expected);
        assert!(table(&report).contains("1.0"), "{}", table(&report));
    }
}
