//! `howdah-bench failover`: how long can nobody write when the leader changes?
//!
//! One cluster, many runs. In each, several connections commit tiny transactions one after the other through the proxy; the leader is struck (see
//! [`Kind`]); the gap is the longest time between two successive acknowledged commits, of whichever connection, around that moment. Between
//! runs everybody must be a caught-up follower again. Every run also counts: a lost commit fails the benchmark, and so does an error that
//! a client saw in a planned switchover.

mod scene;

use anyhow::{Context, ensure};
use howdah_ctl::NodeId;
use howdah_ctl::core::gap::write_gap;
use howdah_ctl::core::percentile::percentile;
use howdah_ctl::core::table::{Align, render};
use howdah_ctl::load::{self, Load, Script, Window};
use scene::Scene;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const CLIENTS: u32 = 8;
/// Commits before the fault, so that the gap has a begin, and after the service came back, so that it has an end.
const COMMITS_BEFORE: u64 = 200;
const COMMITS_AFTER: u64 = 200;
const STEADY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// SIGKILL to its Postgres and its sidecar
    Kill,
    /// Its host disappears from the network without a word; needs root, because hosts are network namespaces then
    Cut,
    /// It is told to hand over, as by `howdahctl switchover`
    Switchover,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "sigkill-leader-processes",
            Self::Cut => "cut-leader-host",
            Self::Switchover => "switchover",
        }
    }

    /// In a planned change open transactions are let finish, so there are some.
    fn script(self) -> Script {
        if self == Self::Switchover { Script::Mixed } else { Script::Insert }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub kind: Kind,
    pub runs: u32,
    pub bin_dir: PathBuf,
    pub work: PathBuf,
    pub json: Option<PathBuf>,
}

/// The JSON form is a contract: keys may be added.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub kind: &'static str,
    pub gaps_ms: Vec<f64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Transactions that were refused, or whose outcome the client was not told, in all runs.
    pub client_errors: usize,
    /// Acknowledged commits that are not in the database: it fails if there are any.
    pub lost: usize,
}

#[derive(Debug, Clone, Copy)]
struct RunResult {
    leader: NodeId,
    gap: Duration,
    acknowledged: usize,
    refused: usize,
    unknown: usize,
    /// From the end of the fault to a caught-up follower.
    back: Duration,
}

pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let mut scene = Scene::start(options).await?;
    let mut results = Vec::new();
    for number in 1..=options.runs {
        let result = one(&mut scene, u64::from(number)).await.with_context(|| format!("run {number}"))?;
        let RunResult { leader, gap, back, .. } = result;
        println!("run {number:>3}  node {leader} led  gap {:>7.1} ms  back after {:>4.1} s", millis(gap), back.as_secs_f64());
        results.push(result);
        save(options, &report(options.kind, &results))?;
    }
    scene.stop().await?;
    let report = report(options.kind, &results);
    show(&report, &results);
    ensure!(options.kind != Kind::Switchover || report.client_errors == 0, "clients saw {} errors", report.client_errors);
    Ok(report)
}

async fn one(scene: &mut Scene, seed: u64) -> anyhow::Result<RunResult> {
    let url = scene.settled().await?;
    load::prepare(&url).await?;
    let load = Load::start(&load::Options { url: url.clone(), clients: CLIENTS, script: scene.kind().script(), seed });
    acknowledged(&load, COMMITS_BEFORE).await.context("before the fault")?;
    let struck = scene.strike().await?;
    acknowledged(&load, load.window().acknowledged + COMMITS_AFTER).await.context("after the fault")?;
    let books = load.stop().await?;
    scene.prove(&struck).await?;
    let audit = books.audit(&url).await?;
    ensure!(audit.lost.is_empty(), "{} acknowledged commits are lost: {:?}", audit.lost.len(), audit.lost);
    ensure!(audit.ghosts.is_empty(), "{} refused commits are there: {:?}", audit.ghosts.len(), audit.ghosts);
    let gap = write_gap(books.acks(), struck.at.saturating_duration_since(books.started)).context("no commit after the fault")?;
    let healed = Instant::now();
    scene.heal(&struck).await?;
    Ok(RunResult {
        leader: struck.node,
        gap,
        acknowledged: audit.acknowledged,
        refused: audit.refused,
        unknown: audit.unknown,
        back: healed.elapsed(),
    })
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

fn report(kind: Kind, results: &[RunResult]) -> Report {
    let gaps_ms: Vec<f64> = results.iter().map(|result| millis(result.gap)).collect();
    let mut sorted = gaps_ms.clone();
    let mut at = |percent| percentile(&mut sorted, percent).unwrap_or(0.0);
    let (p50_ms, p99_ms) = (at(50.0), at(99.0));
    let client_errors = results.iter().map(|result| result.refused + result.unknown).sum();
    Report { kind: kind.name(), gaps_ms, p50_ms, p99_ms, client_errors, lost: 0 }
}

fn save(options: &Options, report: &Report) -> anyhow::Result<()> {
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(report)? + "\n")?;
    }
    Ok(())
}

fn show(report: &Report, results: &[RunResult]) {
    let line = |(nth, result): (usize, &RunResult)| {
        vec![
            (nth + 1).to_string(),
            result.leader.to_string(),
            format!("{:.1}", millis(result.gap)),
            result.acknowledged.to_string(),
            result.refused.to_string(),
            result.unknown.to_string(),
            format!("{:.1}", result.back.as_secs_f64()),
        ]
    };
    let lines: Vec<Vec<String>> = results.iter().enumerate().map(line).collect();
    let names = ["run", "leader", "gap ms", "acknowledged", "refused", "unknown", "back s"];
    let columns = names.map(|name| (name, Align::Right));
    println!("\n{}", render(&columns, &lines));
    let Report { kind, p50_ms, p99_ms, client_errors, .. } = report;
    println!("\n{kind}: p50 {p50_ms:.0} ms, p99 {p99_ms:.0} ms, {client_errors} errors at clients, 0 lost");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(gap_ms: u64, refused: usize) -> RunResult {
        let gap = Duration::from_millis(gap_ms);
        RunResult { leader: NodeId(1), gap, acknowledged: 400, refused, unknown: 1, back: Duration::ZERO }
    }

    #[test]
    fn the_json_has_the_promised_keys_and_the_runs_in_order() {
        let report = report(Kind::Kill, &[result(300, 0), result(100, 2), result(200, 0)]);
        assert_eq!(
            serde_json::to_value(report).expect("serialises"),
            serde_json::json!({
                "kind": "sigkill-leader-processes", "gaps_ms": [300.0, 100.0, 200.0], "p50_ms": 200.0, "p99_ms": 300.0,
                "client_errors": 5, "lost": 0
            })
        );
    }
}
