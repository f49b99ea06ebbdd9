//! `howdah-bench failover`: how long can nobody write when the leader's processes are killed?
//!
//! One cluster, many runs. In each, several connections commit one tiny insert after the other through the proxy; the leader's Postgres and
//! sidecar get SIGKILL; the gap is the longest time between two successive acknowledged commits, of whichever connection, around that moment.
//! Between runs the killed node is restarted and must be a caught-up follower again. Every run also counts: a lost commit fails the benchmark.

use crate::fixtures::howdah;
use anyhow::{Context, ensure};
use howdah_ctl::cluster::Cluster;
use howdah_ctl::core::gap::write_gap;
use howdah_ctl::core::percentile::percentile;
use howdah_ctl::core::table::{Align, render};
use howdah_ctl::load::{self, Load, Script, Window};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const CLIENTS: u32 = 8;
/// Commits before the kill, so that the gap has a begin, and after the service came back, so that it has an end.
const COMMITS_BEFORE: u64 = 200;
const COMMITS_AFTER: u64 = 200;
const STEADY_TIMEOUT: Duration = Duration::from_secs(60);
const REJOIN_TIMEOUT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub struct Options {
    pub runs: u32,
    pub bin_dir: PathBuf,
    pub work: PathBuf,
    pub json: Option<PathBuf>,
}

/// The JSON form is a contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub kind: &'static str,
    pub gaps_ms: Vec<f64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

struct RunResult {
    gap: Duration,
    acknowledged: usize,
    unknown: usize,
}

pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut cluster = Cluster::create(howdah::options(&options.bin_dir, &options.work.join("failover"))?).await?;
    cluster.start().await.context("starting the cluster")?;
    let mut gaps = Vec::new();
    let mut lines = Vec::new();
    for number in 1..=options.runs {
        let (leader, result) = one(&mut cluster, u64::from(number)).await.with_context(|| format!("run {number}"))?;
        println!("run {number:>3}  node {leader} killed  gap {:>7.1} ms", millis(result.gap));
        lines.push(vec![
            number.to_string(),
            leader.to_string(),
            format!("{:.1}", millis(result.gap)),
            result.acknowledged.to_string(),
            result.unknown.to_string(),
        ]);
        gaps.push(result.gap);
        save(options, &report(&gaps))?;
    }
    cluster.stop().await?;
    let report = report(&gaps);
    let columns = [
        ("run", Align::Right),
        ("killed", Align::Right),
        ("gap ms", Align::Right),
        ("acknowledged", Align::Right),
        ("unknown", Align::Right),
    ];
    println!("\n{}", render(&columns, &lines));
    println!("\np50 {:.0} ms, p99 {:.0} ms, 0 lost", report.p50_ms, report.p99_ms);
    Ok(report)
}

async fn one(cluster: &mut Cluster, seed: u64) -> anyhow::Result<(howdah_ctl::NodeId, RunResult)> {
    let url = cluster.info().proxy_url();
    cluster.wait_settled(REJOIN_TIMEOUT).await?;
    load::prepare(&url).await?;
    let load = Load::start(&load::Options { url: url.clone(), clients: CLIENTS, script: Script::Insert, seed });
    acknowledged(&load, COMMITS_BEFORE).await.context("before the kill")?;
    let killed = cluster.kill_leader().await?;
    acknowledged(&load, load.window().acknowledged + COMMITS_AFTER).await.context("after the kill")?;
    let books = load.stop().await?;
    let audit = books.audit(&url).await?;
    ensure!(audit.lost.is_empty(), "{} acknowledged commits are lost: {:?}", audit.lost.len(), audit.lost);
    ensure!(audit.ghosts.is_empty(), "{} refused commits are there: {:?}", audit.ghosts.len(), audit.ghosts);
    let gap = write_gap(books.acks(), killed.at.saturating_duration_since(books.started)).context("no commit after the kill")?;
    cluster.restart_node(killed.node).await?;
    cluster.wait_follower(killed.node, REJOIN_TIMEOUT).await?;
    Ok((killed.node, RunResult { gap, acknowledged: audit.acknowledged, unknown: audit.unknown }))
}

async fn acknowledged(load: &Load, goal: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + STEADY_TIMEOUT;
    loop {
        let window = load.window();
        if window.acknowledged >= goal {
            return Ok(());
        }
        let Window { acknowledged, refused, unknown, .. } = window;
        ensure!(
            Instant::now() < deadline,
            "{acknowledged} of {goal} commits within {} s ({refused} refused, {unknown} unknown)",
            STEADY_TIMEOUT.as_secs()
        );
        tokio::time::sleep(POLL).await;
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn report(gaps: &[Duration]) -> Report {
    let mut sorted: Vec<f64> = gaps.iter().copied().map(millis).collect();
    let at = |sorted: &mut Vec<f64>, percent| percentile(sorted, percent).unwrap_or(0.0);
    let (p50_ms, p99_ms) = (at(&mut sorted, 50.0), at(&mut sorted, 99.0));
    Report { kind: "sigkill-leader-processes", gaps_ms: gaps.iter().copied().map(millis).collect(), p50_ms, p99_ms }
}

fn save(options: &Options, report: &Report) -> anyhow::Result<()> {
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(report)? + "\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_exactly_the_promised_keys_and_the_runs_in_order() {
        let json = serde_json::to_value(report(&[300, 100, 200].map(Duration::from_millis))).expect("serialises");
        assert_eq!(
            json,
            serde_json::json!({"kind": "sigkill-leader-processes", "gaps_ms": [300.0, 100.0, 200.0], "p50_ms": 200.0, "p99_ms": 300.0})
        );
    }
}
