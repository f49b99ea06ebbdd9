//! `howdah-bench`: parsing, folders, exit codes.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use howdah_bench::core::plan::{Target, Workload};
use howdah_bench::pgbench::Protocol;
use howdah_bench::{compare, failover, seed};
use howdah_ctl::postgres;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXIT_NOT_DONE: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  howdah-bench compare --seconds 10 --rounds 5 --json compare.json --svg compare.svg
  howdah-bench compare --workloads select --targets pgbouncer,howdah-proxy-leader
  howdah-bench failover --runs 20 --json failover.json
  howdah-bench seed --megabytes 1000 --clients 8 --json seed.json
  howdah-bench failover --kind switchover --runs 30
  sudo howdah-bench failover --kind cut --runs 30

All Postgres servers run on this machine with the same settings and fsync on, apart from what their replication needs.
Each round runs every target once, in rotating order, each after a checkpoint and with its replicas caught up.

PgBouncer: prepared statements in transaction pooling need 1.21. An older one (Debian 12: 1.18) pools per session when pgbench uses
prepared statements, which is less work than a transaction pool does; --protocol extended or simple compares transaction pools,
--pgbouncer names another one.

Exit codes: 0 measured; 2 wrong command line; 3 not measured, or a commit was lost, or a planned switchover showed in an error at a client.";

/// Howdah beside PostgreSQL's own replication and PgBouncer, in one run.
#[derive(Debug, Parser)]
#[command(name = "howdah-bench", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// pgbench against every target in alternating rounds
    Compare(Compare),
    /// The write gap when the leader dies, vanishes, or is told to hand over
    Failover(Failover),
    /// What is left of the leader's throughput while a new node is filled, and how long that takes, beside pg_basebackup
    Seed(Seed),
}

#[derive(Debug, Args)]
struct Common {
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the servers' data goes (a real disk, and a folder that Postgres' user can enter); removed at the end
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    work: PathBuf,
    /// Keep the servers' data and logs
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
struct Compare {
    #[command(flatten)]
    common: Common,
    /// Draw the results
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// What pgbench runs: its TPC-B-like transaction, or SELECTs by key
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Workload::Tpcb, Workload::Select])]
    workloads: Vec<Workload>,
    /// Only these [default: all of the workloads']
    #[arg(long, value_enum, value_delimiter = ',')]
    targets: Vec<Target>,
    /// Client counts for tpcb
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32], value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: Vec<u32>,
    /// Client counts for select
    #[arg(long, value_delimiter = ',', default_values_t = [16], value_parser = clap::value_parser!(u32).range(1..=64))]
    select_clients: Vec<u32>,
    /// Length of one run
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How often each target runs under each load; ratios are taken within a round
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// pgbench scale: 100,000 accounts each. Below the number of clients one measures waiting for row locks
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    scale: u32,
    /// How pgbench sends its statements
    #[arg(long, value_enum, default_value_t = Protocol::Prepared)]
    protocol: Protocol,
    /// The PgBouncer to compare with
    #[arg(long, value_name = "PATH", env = "HOWDAH_PGBOUNCER", default_value = "/usr/sbin/pgbouncer")]
    pgbouncer: PathBuf,
}

#[derive(Debug, Args)]
struct Failover {
    #[command(flatten)]
    common: Common,
    /// What happens to the leader
    #[arg(long, value_enum, default_value_t = failover::Kind::Kill)]
    kind: failover::Kind,
    /// How many times
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
}

#[derive(Debug, Args)]
struct Seed {
    #[command(flatten)]
    common: Common,
    /// Size of the database, indexes included; at least one unit of pgbench's scale (15 MB) per client
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    megabytes: u32,
    /// Clients of pgbench, all the while
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// Nodes before one is added
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=8))]
    nodes: u32,
    /// Megabytes per second that the filling sends at least, however busy this machine is (`seed.megabytes_per_second_busy`); else the sidecar's default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    floor: Option<u32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("howdah-bench: {error:#}");
            ExitCode::from(EXIT_NOT_DONE)
        }
    }
}

fn measure(arguments: Arguments) -> anyhow::Result<()> {
    let bin_dir = postgres::bin_dir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.command {
        Command::Compare(args) => {
            let work = Work::make(&args.common)?;
            let options = compare::Options {
                workloads: args.workloads,
                targets: args.targets,
                clients: args.clients,
                select_clients: args.select_clients,
                seconds: args.seconds,
                rounds: args.rounds,
                scale: args.scale,
                protocol: args.protocol,
                bin_dir,
                pgbouncer: args.pgbouncer,
                work: work.path().to_owned(),
                json: args.common.json,
                svg: args.svg,
            };
            runtime.block_on(interruptible(compare::run(&options)))?;
        }
        Command::Failover(args) => {
            let work = Work::make(&args.common)?;
            let options =
                failover::Options { kind: args.kind, runs: args.runs, bin_dir, work: work.path().to_owned(), json: args.common.json };
            runtime.block_on(interruptible(failover::run(&options)))?;
        }
        Command::Seed(args) => {
            let work = Work::make(&args.common)?;
            let options = seed::Options {
                megabytes: args.megabytes,
                clients: args.clients,
                nodes: args.nodes,
                floor: args.floor,
                bin_dir,
                work: work.path().to_owned(),
                json: args.common.json,
            };
            runtime.block_on(interruptible(seed::run(&options)))?;
        }
    }
    Ok(())
}

/// Ctrl-C drops the work, and with it every server: their destructors end them.
async fn interruptible<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}

/// The folder of one benchmark.
struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    fn make(common: &Common) -> anyhow::Result<Self> {
        let mut dir =
            tempfile::Builder::new().prefix("howdah-bench-").tempdir_in(&common.work).with_context(|| common.work.display().to_string())?;
        // Postgres' user passes through.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))?;
        if common.keep {
            dir.disable_cleanup(true);
            println!("data and logs stay in {}", dir.path().display());
        }
        Ok(Self { dir })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent_and_lists_are_split() {
        Arguments::command().debug_assert();
        let line = ["howdah-bench", "compare", "--clients", "1,8", "--targets", "native-sync+pgbouncer,howdah-sync", "--json", "f"];
        match Arguments::try_parse_from(line).expect("a good line").command {
            Command::Compare(args) => {
                assert_eq!(args.clients, [1, 8]);
                assert_eq!(args.targets, [Target::NativeSyncPgbouncer, Target::HowdahSync]);
            }
            Command::Failover(_) | Command::Seed(_) => panic!("wrong command"),
        }
        assert!(Arguments::try_parse_from(["howdah-bench", "compare", "--targets", "oracle"]).is_err());
    }
}
