//! Faults of the network: who does not reach whom, in which direction, for how long.

use super::{Fault, Strike};
use crate::netns::{Network, Slowness};
use anyhow::{Context, Result, bail};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::time::Duration;

const FLAPS: usize = 4;
const FLAP_MS: std::ops::Range<u64> = 100..700;

pub(super) async fn strike(fault: Fault, leader: usize, network: &mut Network, random: &mut StdRng) -> Result<Strike> {
    let proxy = network.hosts() - 1;
    let followers: Vec<usize> = (0..proxy).filter(|host| *host != leader).collect();
    let follower = *followers.choose(random).context("a cluster of one has no follower")?;
    let everybody: Vec<usize> = (0..network.hosts()).collect();
    let cuts = match fault {
        Fault::LeaderAlone => both(&[leader], &everybody),
        Fault::LeaderCutFromFollowers => both(&[leader], &followers),
        Fault::LeaderWithProxy => both(&[leader, proxy], &followers),
        Fault::FollowerAlone => both(&[follower], &everybody),
        Fault::ProxyAlone => both(&[proxy], &everybody),
        Fault::OneLink => both(&[leader], &[follower]),
        Fault::LeaderMute => everybody.iter().map(|other| (leader, *other)).collect(),
        Fault::LeaderDeaf => everybody.iter().map(|other| (*other, leader)).collect(),
        Fault::Flapping => return flap(leader, &everybody, network, random).await,
        Fault::NarrowNetwork => return slow(Slowness::Narrow, network),
        Fault::LossyNetwork => return slow(Slowness::Lossy, network),
        _ => bail!("{fault:?} is a fault of processes"),
    };
    let cuts: Vec<(usize, usize)> = cuts.into_iter().filter(|(from, to)| from != to).collect();
    install(&cuts, network)?;
    prove(&cuts, network).await
}

fn both(side: &[usize], other: &[usize]) -> Vec<(usize, usize)> {
    side.iter().flat_map(|one| other.iter().flat_map(move |two| [(*one, *two), (*two, *one)])).collect()
}

fn install(cuts: &[(usize, usize)], network: &mut Network) -> Result<()> {
    cuts.iter().try_for_each(|(from, to)| network.cut(*from, *to))
}

/// One of the cut directions is tried, and the way back where that is not cut.
async fn prove(cuts: &[(usize, usize)], network: &Network) -> Result<Strike> {
    let (from, to) = *cuts.first().context("a partition cuts something")?;
    let back_is_cut = cuts.contains(&(to, from));
    let (forth, home) = (network.probe(from, to), network.probe(to, from));
    let (there, back) = tokio::task::spawn_blocking(|| anyhow::Ok((forth.passes()?, home.passes()?))).await??;
    let text = format!("{} directions cut; datagrams from host {from} to host {to}: {there}, back: {back}", cuts.len());
    Ok(if !there && back != back_is_cut { Strike::Proven(text) } else { Strike::Indeterminate(text) })
}

async fn flap(leader: usize, everybody: &[usize], network: &mut Network, random: &mut StdRng) -> Result<Strike> {
    let cuts: Vec<(usize, usize)> = both(&[leader], everybody).into_iter().filter(|(from, to)| from != to).collect();
    let mut proven = 0;
    for _ in 0..FLAPS {
        install(&cuts, network)?;
        proven += usize::from(matches!(prove(&cuts, network).await?, Strike::Proven(_)));
        tokio::time::sleep(Duration::from_millis(random.random_range(FLAP_MS))).await;
        network.heal()?;
        tokio::time::sleep(Duration::from_millis(random.random_range(FLAP_MS))).await;
    }
    let text = format!("host {leader} cut off {proven} times of {FLAPS}");
    Ok(if proven == FLAPS { Strike::Proven(text) } else { Strike::Indeterminate(text) })
}

fn slow(how: Slowness, network: &mut Network) -> Result<Strike> {
    for host in 0..network.hosts() {
        if let Err(error) = network.slow_down(host, how) {
            network.heal()?;
            return Ok(Strike::Skipped(format!("{error:#}")));
        }
    }
    Ok(Strike::Proven(format!("{} hosts slowed down: {how:?}", network.hosts())))
}
