//! `howdahctl demo`: a cluster under load loses its leader, and the books say what that cost.
//!
//! Start, fill pgbench's tables, write from several connections, SIGKILL the leader's Postgres and sidecar, go on writing, restart the
//! node, wait until it follows again, stop, then audit every id that a client was told about and compare the nodes' data.

mod live;
mod report;

use crate::cli::signals::StopSignals;
use crate::cli::target::Target;
use crate::cli::{self, Outcome, up, verify};
use anyhow::{Context, bail};
use howdah_ctl::cluster::{Cluster, Info, Options, Port};
use howdah_ctl::core::gap::write_gap;
use howdah_ctl::load::{self, Load, Script};
use howdah_ctl::pgbench;
use howdah_protocol::verify::VerifyRequest;
use live::Live;
use report::Report;
use std::time::{Duration, Instant};

/// What the lock of the folder says about its holder.
pub(crate) const PURPOSE: &str = "howdahctl demo";
/// A folder is only wiped for a new demo when its cluster has this name.
const NAME: &str = "demo";
/// Crash recovery, repair or seeding of a few hundred megabytes.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(180);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
const SEED: u64 = 42;

pub(crate) async fn run(arguments: cli::Demo) -> anyhow::Result<Outcome> {
    let mut signals = StopSignals::install()?;
    let mut options = Options::new(arguments.data.clone().unwrap_or_else(|| cli::default_root().join(NAME)))?;
    options.name = NAME.to_owned();
    options.purpose = PURPOSE.to_owned();
    wipe(&options).await?;
    options.port = Port::Fixed(arguments.port);
    let mut cluster = Cluster::create(options.clone()).await?;

    let result = tokio::select! {
        result = show(&mut cluster, &options, &arguments) => Some(result),
        () = signals.received() => None,
    };
    let report = match result {
        Some(Ok(report)) => report,
        Some(Err(error)) => {
            let data = cluster.data().display().to_string();
            // The first error is the one that counts; stopping after it may well fail too.
            let _ = cluster.stop().await;
            return Err(error.context(format!("the demo did not get through; its logs are in {data}")));
        }
        None => return up::stop(cluster, signals).await,
    };
    let outcome = if report.good() { Outcome::Good } else { Outcome::Bad };
    println!("\n{report}");
    if arguments.exit {
        println!("\nstopping");
        match outcome {
            Outcome::Good => cluster.destroy().await?,
            Outcome::Bad => cluster.stop().await?,
        }
        return Ok(outcome);
    }
    up::print_welcome(&cluster, false);
    up::watch(&mut cluster, &mut signals).await;
    up::stop(cluster, signals).await.map(|_| outcome)
}

/// Each demo starts from nothing. Only what an earlier demo left is removed.
async fn wipe(options: &Options) -> anyhow::Result<()> {
    if !Info::exists(&options.data) {
        return Ok(());
    }
    let name = Info::load(&options.data)?.name;
    if name != NAME {
        bail!("{}: holds the cluster \"{name}\", which is not a demo's; choose another folder with --data", options.data.display());
    }
    Cluster::resume(options.clone()).await?.destroy().await.context("removing the last demo's data")
}

async fn show(cluster: &mut Cluster, options: &Options, arguments: &cli::Demo) -> anyhow::Result<Report> {
    let began = Instant::now();
    say(began, &format!("starting {} nodes and a proxy in {}", options.nodes, cluster.data().display()));
    cluster.start().await?;
    let info = cluster.info().clone();
    let url = info.proxy_url();
    say(began, &format!("filling pgbench's tables through the proxy (scale {})", arguments.scale));
    pgbench::init(&options.pg_bin_dir, &url, arguments.scale).await?;
    load::prepare(&url).await?;
    cluster.wait_settled(SETTLE_TIMEOUT).await?;

    let phase = Duration::from_secs(arguments.phase);
    say(began, &format!("{} clients write (TPC-B-like, each transaction with an id of its own; seed {SEED})", arguments.clients));
    let script = Script::TpcB { scale: arguments.scale };
    let load = Load::start(&load::Options { url: url.clone(), clients: arguments.clients, script, seed: SEED });
    let mut live = Live::new(began, &info, &load);
    live.run_for(phase).await;

    let killed = cluster.kill_leader().await?;
    say(began, &format!("SIGKILL: Postgres and sidecar of the leader, node {}", killed.node));
    live.run_for(phase).await;

    say(began, &format!("restarting node {}", killed.node));
    live.run_until(async {
        cluster.restart_node(killed.node).await?;
        cluster.wait_caught_up(killed.node, REJOIN_TIMEOUT).await
    })
    .await?;
    say(began, &format!("node {} follows again", killed.node));
    live.run_for(phase).await;
    drop(live);

    say(began, "stopping the load, counting");
    let books = load.stop().await?;
    let gap = write_gap(books.acks(), killed.at.saturating_duration_since(books.started));
    cluster.wait_settled(SETTLE_TIMEOUT).await?;
    let audit = books.audit(&url).await?;
    let verified = verify::verify(&Target::of(&info), VerifyRequest::default(), |_| {}).await?;
    Ok(Report { audit, gap, verified })
}

fn say(began: Instant, what: &str) {
    println!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
}
