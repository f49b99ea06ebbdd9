//! Faults of processes: they die, hang, are told to end, or are disturbed in the middle of a COMMIT.

use super::{Fault, Strike, World};
use crate::Fixture;
use crate::workload::Shared;
use anyhow::{Context, Result, bail};
use howdah_ctl::admin;
use howdah_ctl::cluster::{Part, Paused, Shutdown};
use howdah_protocol::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

const STORM: Duration = Duration::from_millis(1500);
/// The storm asks again so soon: a COMMIT takes a few milliseconds.
const STORM_PAUSE: Duration = Duration::from_millis(2);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(6);
/// A node is seeded in a few seconds.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(60);

type Done = (Strike, Option<Paused>);

pub(super) async fn strike(
    fault: Fault,
    [leader, follower]: [NodeId; 2],
    world: &mut World,
    clients: &Shared,
    random: &mut StdRng,
) -> Result<Done> {
    if fault == Fault::ReplaceNode {
        return replace(world, follower).await.map(|strike| (strike, None));
    }
    let fixture = &mut world.fixture;
    let proof = match fault {
        Fault::KillPostgres | Fault::KillSidecar | Fault::KillNode => kill(fault, leader, fixture).await?,
        Fault::KillFollower => kill(Fault::KillNode, follower, fixture).await?,
        Fault::KillProxy => {
            let pid = fixture.proxy_pid().context("the proxy does not run")?;
            fixture.kill_proxy().await?;
            gone(&[pid])?
        }
        Fault::KillEverything => {
            let pids = everything(fixture);
            fixture.kill_everything().await?;
            gone(&pids)?
        }
        Fault::PausePostgres => return paused(fixture.pause(leader, Part::Postgres).await?),
        Fault::PauseSidecar => return paused(fixture.pause(leader, Part::Sidecar).await?),
        Fault::PauseNode => return paused(fixture.pause(leader, Part::Both).await?),
        Fault::PauseFollower => return paused(fixture.pause(follower, Part::Both).await?),
        Fault::PauseProxy => return paused(fixture.pause_proxy().await?),
        Fault::FastShutdown => shut(leader, Shutdown::Fast, fixture).await?,
        Fault::ImmediateShutdown => shut(leader, Shutdown::Immediate, fixture).await?,
        Fault::StopNode => {
            let pids = of_node(fixture, leader);
            fixture.stop_node(leader).await?;
            gone(&pids)?
        }
        Fault::Switchover => return switchover(fixture, leader).await.map(|strike| (strike, None)),
        Fault::CancelStorm => return Ok((told(storm(clients, STORM).await, ""), None)),
        Fault::CancelStormAndKill => {
            let before = Duration::from_millis(random.random_range(200..1000));
            let sent = storm(clients, before).await;
            let killed = kill(Fault::KillNode, leader, fixture).await?;
            return Ok((told(sent + storm(clients, STORM).await, &killed), None));
        }
        _ => bail!("{fault:?} is no fault of processes"),
    };
    Ok((Strike::Proven(proof), None))
}

fn of_node(fixture: &Fixture, node: NodeId) -> Vec<i32> {
    fixture.sidecar_pid(node).into_iter().chain(fixture.postgres_pids(node)).collect()
}

fn everything(fixture: &Fixture) -> Vec<i32> {
    fixture.nodes().into_iter().flat_map(|node| of_node(fixture, node)).chain(fixture.proxy_pid()).collect()
}

async fn kill(fault: Fault, node: NodeId, fixture: &mut Fixture) -> Result<String> {
    let sidecar: Vec<i32> = fixture.sidecar_pid(node).into_iter().collect();
    let pids = match fault {
        Fault::KillPostgres => {
            let pids = fixture.postgres_pids(node);
            fixture.kill_postgres(node).await?;
            pids
        }
        Fault::KillSidecar => {
            fixture.kill_sidecar(node).await?;
            sidecar
        }
        _ => {
            let pids = of_node(fixture, node);
            fixture.kill_node(node).await?;
            pids
        }
    };
    gone(&pids).map(|proof| format!("node {node}: {proof}"))
}

/// Postgres' children come and go; of those that were there when it was struck none may be left. A pid that is in use again is not theirs.
fn gone(pids: &[i32]) -> Result<String> {
    let Some(first) = pids.first() else { bail!("nothing was running") };
    let left: Vec<&i32> = pids.iter().filter(|pid| !is_dead(**pid)).collect();
    if !left.is_empty() {
        bail!("still there after the fault: {left:?}");
    }
    Ok(format!("{} processes gone, such as pid {first}", pids.len()))
}

fn is_dead(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // A child of a dead postmaster waits for init to take note of its end.
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

async fn shut(node: NodeId, how: Shutdown, fixture: &mut Fixture) -> Result<String> {
    let postmaster: Vec<i32> = fixture.postgres_pids(node).into_iter().take(1).collect();
    fixture.shut_postgres(node, how).await?;
    gone(&postmaster).map(|proof| format!("node {node}, {how:?}: {proof}"))
}

fn paused(paused: Paused) -> Result<Done> {
    let standing = paused.standing();
    let strike = match standing {
        0 => Strike::Indeterminate("no process in state T".to_owned()),
        _ => Strike::Proven(format!("{standing} processes in state T")),
    };
    Ok((strike, Some(paused)))
}

async fn switchover(fixture: &Fixture, leader: NodeId) -> Result<Strike> {
    let address = fixture.info().node(leader).context("no such node")?.admin.to_string();
    Ok(match admin::switchover(&address, &fixture.info().secret, None).await {
        Ok(done) if done.from != done.to => Strike::Proven(format!("from node {} to node {}", done.from, done.to)),
        Ok(done) => Strike::Indeterminate(format!("from node {} to itself", done.from)),
        // Right after another fault there may be nobody who can take over.
        Err(error) => Strike::Indeterminate(format!("refused: {error}")),
    })
}

async fn replace(world: &mut World, old: NodeId) -> Result<Strike> {
    let World { fixture, disks, .. } = world;
    let ids = |fixture: &Fixture| fixture.nodes().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let before = ids(fixture);
    if let Some(disks) = disks {
        disks.make(fixture, fixture.next_id())?;
    }
    let new = fixture.replace_node(old, None, REPLACE_TIMEOUT, &mut |_| {}).await?;
    if let Some(disks) = disks {
        disks.remove(old);
    }
    Ok(Strike::Proven(format!("node {new} came, node {old} left: {before} are {} now", ids(fixture))))
}

/// How many cancel requests were sent to connections whose COMMIT was in flight.
async fn storm(clients: &Shared, length: Duration) -> usize {
    let (end, mut sent) = (Instant::now() + length, 0);
    while Instant::now() < end {
        let cancels = clients
            .commits_in_flight()
            .into_iter()
            .map(|token| async move { matches!(tokio::time::timeout(CANCEL_TIMEOUT, token.cancel_query(NoTls)).await, Ok(Ok(()))) });
        sent += futures::future::join_all(cancels).await.into_iter().filter(|sent| *sent).count();
        tokio::time::sleep(STORM_PAUSE).await;
    }
    sent
}

fn told(cancels: usize, more: &str) -> Strike {
    let text = format!("{cancels} cancel requests while a COMMIT was in flight. {more}");
    if cancels > 0 { Strike::Proven(text) } else { Strike::Indeterminate(text) }
}
