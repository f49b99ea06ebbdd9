//! Faults of disks: they are slow, or full, the log's and Postgres' each for itself on the leader, both on a follower.

use super::{Fault, Strike};
use crate::Fixture;
use crate::disk::{Disk, Disks, Order, struck, tell};
use anyhow::{Result, bail};
use howdah_protocol::NodeId;
use rand::Rng;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};

/// From what one hardly notices to what costs a leader its place.
const SLOW_MS: std::ops::Range<u64> = 100..2500;
/// Until an fsync of each disk came by: a follower's Postgres has one now and then only.
const STRUCK_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

pub(super) async fn strike(
    fault: Fault,
    [leader, follower]: [NodeId; 2],
    fixture: &Fixture,
    disks: &Disks,
    random: &mut StdRng,
) -> Result<Strike> {
    let (node, disk) = match fault {
        Fault::SlowLog | Fault::FullLog => (leader, Disk::Log),
        Fault::SlowPostgresDisk | Fault::FullPostgresDisk => (leader, Disk::Postgres),
        Fault::SlowFollower | Fault::FullFollower => (follower, Disk::Both),
        _ => bail!("{fault:?} is no fault of disks"),
    };
    if matches!(fault, Fault::SlowLog | Fault::SlowPostgresDisk | Fault::SlowFollower) {
        if let Some(why) = disks.why_not_slow() {
            return Ok(Strike::Skipped(why.to_owned()));
        }
        return slow(node, disk, fixture, random.random_range(SLOW_MS)).await;
    }
    if let Some(why) = disks.why_not_full() {
        return Ok(Strike::Skipped(why.to_owned()));
    }
    Ok(Strike::Proven(format!("node {node}, {}", disks.fill(node, disk)?)))
}

async fn slow(node: NodeId, disk: Disk, fixture: &Fixture, ms: u64) -> Result<Strike> {
    tell(fixture, node, Order::Slow { ms, disk })?;
    let deadline = Instant::now() + STRUCK_TIMEOUT;
    while !struck(fixture, node).covers(disk) && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    let found = struck(fixture, node);
    let text = format!("node {node}: fsyncs that take {ms} ms: {} of the log, {} of PostgreSQL at once", found.log, found.postgres);
    Ok(if found.covers(disk) { Strike::Proven(text) } else { Strike::Indeterminate(text) })
}
