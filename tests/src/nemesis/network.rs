//! Faults of the network: who does not reach whom, in which direction, for how long.

use super::{Fault, Strike};
use crate::netns::{Network, Slowness};
use anyhow::{Context, Result, bail};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::time::Duration;

/// Fewer nodes are each other's neighbours all.
const RING_MIN: usize = 4;
const FLAPS: usize = 4;
const FLAP_MS: std::ops::Range<u64> = 100..700;

/// Where the nodes are, in the network. Hosts are numbered from 0; one that no node has at present is nobody's.
pub(super) struct Hosts {
    pub(super) leader: usize,
    pub(super) followers: Vec<usize>,
}

pub(super) async fn strike(fault: Fault, hosts: Hosts, network: &mut Network, random: &mut StdRng) -> Result<Strike> {
    let Hosts { leader, followers } = hosts;
    let proxy = network.hosts() - 1;
    let follower = *followers.choose(random).context("a cluster of one has no follower")?;
    let nodes = [&[leader], followers.as_slice()].concat();
    let everybody = [nodes.as_slice(), &[proxy]].concat();
    let cuts = match fault {
        Fault::LeaderAlone => both(&[leader], &everybody),
        Fault::LeaderCutFromFollowers => both(&[leader], &followers),
        Fault::LeaderWithProxy => both(&[leader, proxy], &followers),
        Fault::FollowerAlone => both(&[follower], &everybody),
        Fault::ProxyAlone => both(&[proxy], &everybody),
        Fault::OneLink => both(&[leader], &[follower]),
        Fault::LeaderMute => everybody.iter().map(|other| (leader, *other)).collect(),
        Fault::LeaderDeaf => everybody.iter().map(|other| (*other, leader)).collect(),
        Fault::LeaderInMinority => {
            let mut sides = partition(leader, &followers);
            let side = usize::from(random.random_bool(0.5));
            sides[side].push(proxy);
            both(&sides[0], &sides[1])
        }
        Fault::Ring if nodes.len() < RING_MIN => return Ok(Strike::Skipped(format!("{} nodes are a ring already", nodes.len()))),
        Fault::Ring => ring(nodes.len()).into_iter().map(|(from, to)| (nodes[from], nodes[to])).collect(),
        Fault::Flapping => return flap(leader, &everybody, network, random).await,
        Fault::NarrowNetwork => return slow(Slowness::Narrow, network),
        Fault::LossyNetwork => return slow(Slowness::Lossy, network),
        _ => bail!("{fault:?} is no fault of the network"),
    };
    let cuts: Vec<(usize, usize)> = cuts.into_iter().filter(|(from, to)| from != to).collect();
    install(&cuts, network)?;
    prove(&cuts, network).await
}

/// The leader with as many others as do not make a majority, and the rest.
fn partition(leader: usize, followers: &[usize]) -> [Vec<usize>; 2] {
    let (with, without) = followers.split_at(followers.len().saturating_sub(1) / 2);
    [[&[leader], with].concat(), without.to_vec()]
}

/// Everybody but the two neighbours is out of reach; the proxy reaches all.
fn ring(nodes: usize) -> Vec<(usize, usize)> {
    let near = |one: usize, other: usize| matches!((one + nodes - other) % nodes, distance if distance <= 1 || distance == nodes - 1);
    (0..nodes).flat_map(|one| (0..nodes).filter(move |other| !near(one, *other)).map(move |other| (one, other))).collect()
}

fn both(side: &[usize], other: &[usize]) -> Vec<(usize, usize)> {
    side.iter().flat_map(|one| other.iter().flat_map(move |two| [(*one, *two), (*two, *one)])).collect()
}

fn install(cuts: &[(usize, usize)], network: &mut Network) -> Result<()> {
    Ok(cuts.iter().try_for_each(|(from, to)| network.cut(*from, *to))?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaders_side_is_no_majority_and_nobody_is_on_both() {
        for nodes in 2..=7 {
            let followers: Vec<usize> = (1..nodes).collect();
            let [minority, majority] = partition(0, &followers);
            assert!(
                minority.contains(&0) && minority.len() <= nodes / 2 && minority.len() + majority.len() == nodes,
                "{minority:?} {majority:?}"
            );
        }
        assert_eq!(partition(2, &[0, 1, 3, 4]), [vec![2, 0], vec![1, 3, 4]]);
    }

    #[test]
    fn in_a_ring_everybody_reaches_two() {
        let cuts = ring(5);
        for node in 0..5 {
            assert_eq!(cuts.iter().filter(|(from, _)| *from == node).count(), 2);
            assert!(!cuts.contains(&(node, (node + 1) % 5)) && !cuts.contains(&((node + 1) % 5, node)));
        }
    }
}
