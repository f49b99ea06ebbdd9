//! `howdah-chaos`: the proof for as long as one wants, with a report.

use clap::{Parser, ValueEnum};
use howdah_tests::chaos::{self, Options};
use howdah_tests::nemesis::Fault;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const EXIT_VIOLATED: u8 = 1;
const EXIT_NOT_DONE: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Faults {
    /// Everything that this machine can do
    All,
    /// Processes only, all on this host
    Process,
    /// The network only
    Network,
    /// Slow and full disks only, all on this host
    Disk,
}

/// Breaks a cluster for a while, under load, and judges what its clients saw.
///
/// Exit codes: 0 nothing was violated; 1 something was; 2 wrong command line; 3 not done.
#[derive(Debug, Parser)]
#[command(name = "howdah-chaos", version)]
struct Arguments {
    /// How long faults are struck
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    minutes: f64,
    /// Decides the order of the faults and what clients ask [default: from the clock]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Which faults are struck
    #[arg(long, value_enum, default_value_t = Faults::All)]
    faults: Faults,
    /// Nodes of the cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=9))]
    nodes: u32,
    /// Where the report goes: NAME.md and NAME.svg
    #[arg(long, value_name = "DIR", default_value = "docs/chaos")]
    report: PathBuf,
    /// Name of the report's files [default: seed-S]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_VIOLATED),
        Err(error) => {
            eprintln!("howdah-chaos: {error:#}");
            ExitCode::from(EXIT_NOT_DONE)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs(),
    };
    let faults = match arguments.faults {
        Faults::All => Fault::all(),
        Faults::Disk => Fault::DISK.to_vec(),
        Faults::Process => Fault::PROCESS.to_vec(),
        Faults::Network => Fault::NETWORK.to_vec(),
    };
    println!("seed {seed}; the same faults in the same order: --seed {seed}");
    let duration = Duration::try_from_secs_f64(arguments.minutes * 60.0)?;
    let (nodes, network) = (arguments.nodes, matches!(arguments.faults, Faults::All | Faults::Network));
    let options = Options { seed, duration, faults, nodes, network, progress: |line| println!("{line}") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        // Either way the cluster and its network are taken down: their destructors run.
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            report = chaos::run(&options) => report,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminated.recv() => anyhow::bail!("told to end"),
        }
    })?;
    let name = arguments.name.clone().unwrap_or_else(|| format!("seed-{seed}"));
    report.write(&arguments.report, &name)?;
    println!("{}", if report.violated() { "VIOLATED" } else { "nothing was violated" });
    println!("report: {}", arguments.report.join(name + ".md").display());
    Ok(!report.violated())
}
