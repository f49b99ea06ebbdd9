//! Breaks the system on purpose, and proves that it did.
//!
//! A fault is struck, stays for a while, and is healed; which one comes next is drawn from a deck, so that in a long run every kind happens as
//! often as every other. A strike that cannot be made here says why; one whose effect was not seen is called indeterminate, never a success.

mod disk;
mod fault;
mod network;
mod process;

pub use fault::Fault;

use crate::Fixture;
use crate::disk::Disks;
use crate::netns::Network;
use crate::workload::Shared;
use anyhow::{Context, Result};
use howdah_ctl::cluster::{Error, Paused};
use howdah_protocol::NodeId;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use std::sync::Arc;
use std::time::Duration;

/// A leader is there after a failover, and a failover after the last fault.
const LEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// A process that ends again at once is started this often.
const RESTARTS_MAX: usize = 5;

/// What became of a strike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strike {
    /// It happened; this is how one knows.
    Proven(String),
    /// It was tried, and its effect was not seen.
    Indeterminate(String),
    /// It cannot be done here.
    Skipped(String),
}

/// What there is to break.
#[derive(Debug)]
pub struct World {
    /// The fixture unmounts them when its cluster is gone.
    pub disks: Option<Arc<Disks>>,
    // The cluster goes before the network that it runs in.
    pub fixture: Fixture,
    pub network: Option<Network>,
}

#[derive(Debug)]
pub struct Nemesis {
    random: StdRng,
    faults: Vec<Fault>,
    deck: Vec<Fault>,
    paused: Vec<Paused>,
}

impl Nemesis {
    /// Same seed, same order of faults.
    #[must_use]
    pub fn new(seed: u64, faults: &[Fault]) -> Self {
        assert!(!faults.is_empty(), "a nemesis has something to do");
        Self { random: StdRng::seed_from_u64(seed), faults: faults.to_vec(), deck: Vec::new(), paused: Vec::new() }
    }

    /// The next fault; each once before any comes again.
    pub fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.faults);
            self.deck.shuffle(&mut self.random);
        }
        self.deck.pop().expect("it was just filled")
    }

    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    /// An error only where there is nobody to strike: a fault that did not go as it should is indeterminate.
    pub async fn strike(&mut self, fault: Fault, world: &mut World, clients: &Shared) -> Result<Strike> {
        let leader = leader(&world.fixture).await?;
        if fault.needs_network() {
            return match &mut world.network {
                Some(network) => {
                    let struck = network::strike(fault, hosts(&world.fixture, leader)?, network, &mut self.random).await;
                    Ok(struck.unwrap_or_else(|error| Strike::Indeterminate(format!("{error:#}"))))
                }
                None => Ok(Strike::Skipped("the cluster has no network of its own".to_owned())),
            };
        }
        let followers: Vec<NodeId> = world.fixture.nodes().into_iter().filter(|node| *node != leader).collect();
        let follower = *followers.choose(&mut self.random).context("a cluster of one has no follower")?;
        if fault.needs_disks() {
            return match &world.disks {
                Some(disks) => {
                    let struck = disk::strike(fault, [leader, follower], &world.fixture, disks, &mut self.random).await;
                    Ok(struck.unwrap_or_else(|error| Strike::Indeterminate(format!("{error:#}"))))
                }
                None => Ok(Strike::Skipped("the nodes have no disks of their own".to_owned())),
            };
        }
        match process::strike(fault, [leader, follower], world, clients, &mut self.random).await {
            Ok((strike, paused)) => {
                self.paused.extend(paused);
                Ok(strike)
            }
            Err(error) => Ok(Strike::Indeterminate(format!("{error:#}"))),
        }
    }

    /// Ends what stays of the strikes: everything runs and reaches everything. Says what had ended by itself.
    pub async fn heal(&mut self, world: &mut World) -> Result<Vec<String>> {
        self.paused.clear();
        if let Some(network) = &mut world.network {
            network.heal()?;
        }
        if let Some(disks) = &world.disks {
            disks.heal(&world.fixture)?;
        }
        let mut ended = Vec::new();
        for _ in 0..RESTARTS_MAX {
            ended.extend(world.fixture.take_ended().iter().map(ToString::to_string));
            match restart(&mut world.fixture).await {
                Err(Error::Ended { .. }) => {}
                other => return other.map(|()| ended).context("starting what was broken"),
            }
        }
        anyhow::bail!("a process ends again and again: {ended:#?}")
    }
}

async fn restart(fixture: &mut Fixture) -> Result<(), Error> {
    for node in fixture.nodes() {
        if fixture.sidecar_pid(node).is_none() {
            fixture.restart_node(node).await?;
        }
    }
    fixture.start_proxy()
}

async fn leader(fixture: &Fixture) -> Result<NodeId> {
    let seen = fixture.wait_until("a leader to break", LEADER_TIMEOUT, |seen| seen.leader().is_some()).await?;
    Ok(seen.leader().expect("that was waited for").id)
}

/// The nodes' hosts in the network.
fn hosts(fixture: &Fixture, leader: NodeId) -> Result<network::Hosts, Error> {
    let followers = fixture.nodes().into_iter().filter(|node| *node != leader);
    let followers = followers.map(|node| fixture.place(node)).collect::<Result<_, _>>()?;
    Ok(network::Hosts { leader: fixture.place(leader)?, followers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_seed_decides_and_every_kind_has_its_turn() {
        let faults = Fault::all();
        let draw = |seed| {
            let mut nemesis = Nemesis::new(seed, &faults);
            (0..faults.len() * 3).map(|_| nemesis.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        // Also before the last of a deck is drawn: no kind is ever more than one ahead of another.
        for drawn in (0..=faults.len() * 3).map(|length| draw(7)[..length].to_vec()) {
            let counts = faults.iter().map(|fault| drawn.iter().filter(|drawn| *drawn == fault).count());
            assert!(counts.clone().max() <= counts.min().map(|least| least + 1), "{drawn:?}");
        }
    }

    #[test]
    fn every_kind_is_in_one_list_and_has_a_name_of_its_own() {
        let (kinds, names): (BTreeSet<Fault>, BTreeSet<&str>) = Fault::all().into_iter().map(|fault| (fault, fault.name())).unzip();
        assert_eq!((kinds.len(), names.len()), (Fault::all().len(), Fault::all().len()));
    }
}
