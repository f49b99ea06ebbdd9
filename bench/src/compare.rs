//! `howdah-bench compare`: all targets side by side, in alternating rounds.

use crate::core::plan::{Cell, Target, Workload, cells};
use crate::core::summary::{Measured, Report, rows, table};
use crate::core::svg;
use crate::fixtures::{Fixtures, Wanted};
use crate::pgbench::{Protocol, Run};
use anyhow::ensure;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct Options {
    pub workloads: Vec<Workload>,
    pub targets: Vec<Target>,
    pub clients: Vec<u32>,
    pub select_clients: Vec<u32>,
    pub seconds: u32,
    pub rounds: u32,
    pub scale: u32,
    pub protocol: Protocol,
    pub bin_dir: PathBuf,
    pub pgbouncer: PathBuf,
    pub work: PathBuf,
    pub json: Option<PathBuf>,
    pub svg: Option<PathBuf>,
}

pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let cells = cells(&options.workloads, &options.clients, &options.select_clients, &options.targets);
    ensure!(!cells.is_empty(), "none of the targets belongs to any of the workloads");
    let mut targets: Vec<Target> = cells.iter().flat_map(|cell| cell.targets.clone()).collect();
    targets.sort();
    targets.dedup();
    println!("starting servers, scale {} ...", options.scale);
    let mut fixtures = Fixtures::start(&Wanted {
        targets,
        protocol: options.protocol,
        scale: options.scale,
        bin_dir: options.bin_dir.clone(),
        pgbouncer: options.pgbouncer.clone(),
        work: options.work.clone(),
    })
    .await?;
    let notes = fixtures.notes();
    notes.iter().for_each(|note| println!("note: {note}"));

    let mut report = Report { rows: Vec::new() };
    for cell in &cells {
        let mut rounds = Vec::new();
        for round in 0..options.rounds {
            rounds.push(measure(options, &mut fixtures, cell, round).await?);
        }
        report.rows.extend(rows(cell, &rounds));
        // After every cell: what was measured so far survives whatever happens next.
        save(options, &report)?;
    }
    fixtures.stop().await?;
    println!("\n{}", table(&report.rows));
    notes.iter().for_each(|note| println!("note: {note}"));
    Ok(report)
}

async fn measure(options: &Options, fixtures: &mut Fixtures, cell: &Cell, round: u32) -> anyhow::Result<Vec<(Target, Measured)>> {
    let run = Run {
        bin_dir: &options.bin_dir,
        scratch: options.work.join("pgbench"),
        workload: cell.workload,
        protocol: options.protocol,
        clients: cell.clients,
        seconds: options.seconds,
    };
    let mut results = Vec::new();
    for target in cell.order(round) {
        let endpoint = fixtures.settle(target).await?;
        let measured = run.against(&endpoint).await?;
        println!("{:<6} {:>3} clients  round {}  {target:<22} {:>8.0} tps", cell.workload, cell.clients, round + 1, measured.tps);
        results.push((target, measured));
    }
    Ok(results)
}

fn save(options: &Options, report: &Report) -> anyhow::Result<()> {
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(report)? + "\n")?;
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, svg::bars(&report.rows))?;
    }
    Ok(())
}
