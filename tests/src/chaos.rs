//! The proof: all workloads, all faults, one seed; then everything heals, and what clients saw is judged.
//!
//! ```text
//! start -> clients work -> (strike, hold, heal, wait until it serves again)* -> clients stop -> settle -> replicas compared -> histories judged
//! ```
//!
//! What counts as a violation: an anomaly that a workload's mode forbids, replicas that differ, a service or a node that does not come back. A
//! fault that could not be proven is told, and is no success of the system.

mod report;
mod timeline;

pub use report::{Event, Report, Sample};

use crate::disk::Disks;
use crate::nemesis::{Fault, Nemesis, World};
use crate::netns::{self, Network};
use crate::workload::{Shared, Workloads};
use crate::{Fixture, PATIENCE};
use anyhow::{Context, Result};
use howdah_ctl::admin;
use howdah_protocol::admin::Role;
use rand::Rng;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Acknowledged commits before the first fault and between two of them: the service is there. Reads alone would not show that.
const PROGRESS: u64 = 50;
/// From the end of a fault until clients are served again, and until every node follows again.
const BACK_TIMEOUT: Duration = Duration::from_secs(60);
const REJOIN_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it is waited before it is looked whether one of them has ended since.
const REJOIN_LOOK: Duration = Duration::from_secs(5);
/// A return that took longer is worth a note: the node was seeded again, or waited for a time-out.
const REJOIN_SLOW: Duration = Duration::from_secs(10);
const HOLD_MS: std::ops::Range<u64> = 300..4000;
/// Now and then the next fault does not wait until all nodes are back.
const HASTE: f64 = 0.25;
const SAMPLE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    /// Faults are struck for so long; settling and judging come after it.
    pub duration: Duration,
    pub faults: Vec<Fault>,
    pub nodes: u32,
    /// Hosts as network namespaces, where they can be made.
    pub network: bool,
    /// Told what happens, as it happens.
    pub progress: fn(&str),
}

/// Runs on one thread: the clients live in a [`tokio::task::LocalSet`].
pub async fn run(options: &Options) -> Result<Report> {
    let local = tokio::task::LocalSet::new();
    local.run_until(all(options)).await
}

async fn all(options: &Options) -> Result<Report> {
    let mut report = Report::new(options);
    let mut world = world(options, &mut report).await?;
    let url = world.fixture.info().proxy_url();
    let mut workloads = Workloads::start(&url, options.seed).await?;
    let shared = Arc::clone(workloads.shared());
    report.began = shared.began();
    let samples = Rc::new(RefCell::new(Vec::new()));
    let sampler = tokio::task::spawn_local(sample(Arc::clone(&shared), Rc::clone(&samples)));

    disturb(options, &mut world, &shared, &mut report).await?;

    workloads.stop().await?;
    sampler.abort();
    report.samples = samples.take();
    report.counts = shared.counts();
    report.notes.extend(errors(&world.fixture));
    (options.progress)("clients stopped; comparing the replicas");
    match world.fixture.compare().await {
        Ok(comparison) => report.replicas(&comparison),
        Err(error) => report.violations.push(format!("the replicas cannot be compared: {error:#}")),
    }
    (options.progress)("judging the histories");
    match workloads.judge().await {
        Ok(verdicts) => report.verdicts = verdicts,
        Err(error) => report.violations.push(format!("{error:#}")),
    }
    for (name, findings) in &report.verdicts {
        (options.progress)(&format!("{name}: {findings}"));
    }
    report.ended = report.began.elapsed();
    if report.violated() {
        (options.progress)(&format!("data and logs stay in {}", world.fixture.keep().display()));
    }
    Ok(report)
}

async fn world(options: &Options, report: &mut Report) -> Result<World> {
    let network = match options.network.then(netns::why_not) {
        // One is spare, for the node that comes before another leaves; one is the proxy's.
        Some(None) => Some(Network::make(options.nodes as usize + 2)?),
        Some(Some(why)) => {
            report.notes.push(format!("no network of its own: {why}"));
            None
        }
        None => None,
    };
    let hosts = network.as_ref().map(Network::cluster_hosts);
    let disks = options.faults.iter().any(|fault| fault.needs_disks()).then(Disks::new).transpose()?.map(Arc::new);
    let mut shimmed = Ok(());
    let change = |cluster: &mut howdah_ctl::cluster::Options| {
        if hosts.is_some() {
            // Alone in its network, so the ports are free.
            cluster.port = howdah_ctl::cluster::Port::Default;
        }
        cluster.nodes = options.nodes;
        cluster.hosts = hosts;
        shimmed = disks.as_ref().map_or(Ok(()), |disks| disks.put_under(cluster));
    };
    let prepare = |fixture: &mut Fixture| disks.as_ref().map_or(Ok(()), |disks| disks.make_all(fixture));
    let fixture = Fixture::start_prepared(change, prepare).await?;
    shimmed.context("putting a shim under the nodes")?;
    if let Some(disks) = &disks {
        report.notes.extend(disks.why_not_slow().map(|why| format!("no slow disks: {why}")));
        report.notes.extend(disks.why_not_full().map(|why| format!("no full disks: {why}")));
    }
    Ok(World { disks, fixture, network })
}

async fn disturb(options: &Options, world: &mut World, shared: &Shared, report: &mut Report) -> Result<()> {
    let mut nemesis = Nemesis::new(options.seed, &options.faults);
    served(shared, BACK_TIMEOUT).await.context("clients do not even work before the first fault")?;
    while report.began.elapsed() < options.duration {
        let fault = nemesis.draw();
        let at = report.began.elapsed();
        let strike = match nemesis.strike(fault, world, shared).await {
            Ok(strike) => strike,
            Err(error) => {
                report.violations.push(format!("before {}: {error:#}", fault.name()));
                break;
            }
        };
        let hold = Duration::from_millis(nemesis.random().random_range(HOLD_MS));
        tokio::time::sleep(hold).await;
        let ended = match nemesis.heal(world).await {
            Ok(ended) => ended,
            Err(error) => {
                report.violations.push(format!("after {}: {error:#}", fault.name()));
                break;
            }
        };
        let healed = report.began.elapsed();
        report.notes.extend(ended.into_iter().map(|what| format!("after {}: {what}", fault.name())));
        let back = served(shared, BACK_TIMEOUT).await;
        let event = Event { fault, at, healed, served: report.began.elapsed(), strike };
        (options.progress)(&event.to_string());
        report.events.push(event);
        report.follower_reads = report.follower_reads.max(follower_reads(&world.fixture).await);
        if let Err(error) = back {
            report.violations.push(format!(
                "{error:#} after {} at {:.1} s:\n{}",
                fault.name(),
                at.as_secs_f64(),
                world.fixture.observe().await.in_words()
            ));
            break;
        }
        if !nemesis.random().random_bool(HASTE) && !rejoined(&mut nemesis, world, fault, report).await {
            return Ok(());
        }
    }
    rejoined(&mut nemesis, world, Fault::Switchover, report).await;
    Ok(())
}

/// Until clients were served a number of times more.
async fn served(shared: &Shared, limit: Duration) -> Result<()> {
    let (goal, deadline) = (shared.counts().committed + PROGRESS, Instant::now() + limit);
    while shared.counts().committed < goal {
        anyhow::ensure!(Instant::now() < deadline, "clients were not served for {} s", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Until every node leads or follows; it is a violation where one does not.
async fn rejoined(nemesis: &mut Nemesis, world: &mut World, fault: Fault, report: &mut Report) -> bool {
    let all_there = |seen: &howdah_ctl::cluster::Observed| {
        let there = seen.answers().filter(|node| node.open && matches!(node.role, Role::Leader | Role::Follower)).count();
        there == seen.nodes.len() && seen.leader().is_some()
    };
    let began = Instant::now();
    let mut waited = Ok(());
    while began.elapsed() < REJOIN_TIMEOUT.max(PATIENCE) {
        waited = world.fixture.wait_until("every node's return", REJOIN_LOOK, all_there).await.map(|_| ());
        if waited.is_ok() {
            break;
        }
        // A process that ends of its own because of the fault may take its time, and ends behind the healing.
        match nemesis.heal(world).await {
            Ok(ended) => report.notes.extend(ended.into_iter().map(|what| format!("a while after {}: {what}", fault.name()))),
            Err(error) => {
                report.violations.push(format!("after {}: {error:#}", fault.name()));
                return false;
            }
        }
    }
    if let Err(error) = &waited {
        report.violations.push(format!("after {}: {error}", fault.name()));
    } else if began.elapsed() > REJOIN_SLOW {
        report.notes.push(format!("after {}: {:.0} s until every node was back", fault.name(), began.elapsed().as_secs_f64()));
    }
    waited.is_ok()
}

/// Reads that the proxy sent to followers since it was started last; without them the weaker modes were not put to the test.
async fn follower_reads(fixture: &Fixture) -> u64 {
    let metrics = admin::metrics(&fixture.info().proxy_admin.to_string()).await.unwrap_or_default();
    let value = metrics.lines().find_map(|line| line.strip_prefix("howdah_proxy_units_follower_total ")?.trim().parse().ok());
    value.unwrap_or_default()
}

/// How often each process said that a person must look. Under faults some of it is expected; it is for people to judge.
fn errors(fixture: &Fixture) -> Vec<String> {
    let logs = fixture.nodes().into_iter().map(|node| (format!("node {node}"), fixture.sidecar_log(node)));
    let count = |(name, log): (String, std::path::PathBuf)| {
        let lines = std::fs::read_to_string(log).unwrap_or_default().lines().filter(|line| line.contains(" ERROR ")).count();
        format!("{name}: {lines} ERROR lines in its log")
    };
    logs.chain([("proxy".to_owned(), fixture.proxy_log())]).map(count).collect()
}

async fn sample(shared: Arc<Shared>, samples: Rc<RefCell<Vec<Sample>>>) {
    let mut ticks = tokio::time::interval(SAMPLE);
    loop {
        ticks.tick().await;
        samples.borrow_mut().push(Sample { at: shared.began().elapsed(), counts: shared.counts() });
    }
}
