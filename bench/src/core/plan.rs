//! What is run against what, and in which order. The names are part of the output's contract.

use clap::ValueEnum;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Workload {
    /// pgbench's TPC-B-like transaction.
    Tpcb,
    /// One read by key (pgbench -S).
    Select,
}

/// Where pgbench connects, and what stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Target {
    /// A lone server without replication.
    Direct,
    /// A primary with two streaming standbys, commit on the primary's disk.
    NativeAsync,
    /// The same, commit on the primary's and one standby's disk (ANY 1).
    NativeSync,
    #[value(name = "native-sync+pgbouncer")]
    NativeSyncPgbouncer,
    /// The leader's Postgres itself, commit on a majority's disks.
    HowdahSync,
    /// The same, commit on the leader's disk.
    HowdahAsync,
    #[value(name = "howdah-sync+proxy")]
    HowdahSyncProxy,
    /// A lone server behind PgBouncer.
    Pgbouncer,
    /// Linearizable reads: the proxy sends them to the leader.
    HowdahProxyLeader,
    /// Eventual reads: the proxy spreads them over the followers.
    HowdahProxyFollower,
}

impl Workload {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tpcb => "tpcb",
            Self::Select => "select",
        }
    }

    #[must_use]
    pub fn targets(self) -> &'static [Target] {
        match self {
            Self::Tpcb => &[
                Target::Direct,
                Target::NativeAsync,
                Target::NativeSync,
                Target::NativeSyncPgbouncer,
                Target::HowdahSync,
                Target::HowdahAsync,
                Target::HowdahSyncProxy,
            ],
            Self::Select => &[Target::Direct, Target::Pgbouncer, Target::HowdahProxyLeader, Target::HowdahProxyFollower],
        }
    }

    /// The peer that a target is measured against.
    #[must_use]
    pub fn reference(self, target: Target) -> Target {
        match (self, target) {
            (Self::Tpcb, Target::HowdahSyncProxy | Target::NativeSyncPgbouncer) => Target::NativeSyncPgbouncer,
            (Self::Tpcb, Target::HowdahAsync | Target::NativeAsync) => Target::NativeAsync,
            (Self::Tpcb, _) => Target::NativeSync,
            (Self::Select, _) => Target::Pgbouncer,
        }
    }
}

impl Target {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::NativeAsync => "native-async",
            Self::NativeSync => "native-sync",
            Self::NativeSyncPgbouncer => "native-sync+pgbouncer",
            Self::HowdahSync => "howdah-sync",
            Self::HowdahAsync => "howdah-async",
            Self::HowdahSyncProxy => "howdah-sync+proxy",
            Self::Pgbouncer => "pgbouncer",
            Self::HowdahProxyLeader => "howdah-proxy-leader",
            Self::HowdahProxyFollower => "howdah-proxy-follower",
        }
    }

    #[must_use]
    pub fn needs_direct(self) -> bool {
        matches!(self, Self::Direct | Self::Pgbouncer)
    }

    #[must_use]
    pub fn needs_native(self) -> bool {
        matches!(self, Self::NativeAsync | Self::NativeSync | Self::NativeSyncPgbouncer)
    }

    #[must_use]
    pub fn needs_pgbouncer(self) -> bool {
        matches!(self, Self::Pgbouncer | Self::NativeSyncPgbouncer)
    }

    #[must_use]
    pub fn needs_howdah(self) -> bool {
        !self.needs_direct() && !self.needs_native()
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One comparison: every target under the same load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub workload: Workload,
    pub clients: u32,
    pub targets: Vec<Target>,
}

impl Cell {
    /// Who runs when in a round: everybody once, and over the rounds everybody in every place.
    #[must_use]
    pub fn order(&self, round: u32) -> Vec<Target> {
        let mut order = self.targets.clone();
        let len = order.len().max(1);
        order.rotate_left(round as usize % len);
        order
    }
}

/// All cells of a run. `wanted` limits the targets; cells without any are left out.
#[must_use]
pub fn cells(workloads: &[Workload], tpcb_clients: &[u32], select_clients: &[u32], wanted: &[Target]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for workload in workloads {
        let clients = if *workload == Workload::Tpcb { tpcb_clients } else { select_clients };
        let targets: Vec<Target> =
            workload.targets().iter().filter(|target| wanted.is_empty() || wanted.contains(target)).copied().collect();
        if !targets.is_empty() {
            cells.extend(clients.iter().map(|clients| Cell { workload: *workload, clients: *clients, targets: targets.clone() }));
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_the_rounds_everybody_runs_in_every_place() {
        let cell = Cell { workload: Workload::Select, clients: 1, targets: Workload::Select.targets().to_vec() };
        for place in 0..4 {
            let mut seen: Vec<_> = (0..4).map(|round| cell.order(round)[place]).collect();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 4);
        }
    }

    #[test]
    fn the_command_line_names_are_those_of_the_output() {
        for target in Target::value_variants() {
            assert_eq!(target.to_possible_value().expect("not hidden").get_name(), target.as_str());
        }
        for workload in Workload::value_variants() {
            assert_eq!(workload.to_possible_value().expect("not hidden").get_name(), workload.as_str());
            for target in workload.targets() {
                assert!(workload.targets().contains(&workload.reference(*target)), "{workload} {target}");
            }
        }
    }

    #[test]
    fn a_filter_leaves_no_empty_cells() {
        let cells = cells(&[Workload::Tpcb, Workload::Select], &[1, 8], &[16], &[Target::NativeSync]);
        assert_eq!(cells.iter().map(|cell| (cell.workload, cell.clients)).collect::<Vec<_>>(), [(Workload::Tpcb, 1), (Workload::Tpcb, 8)]);
    }
}
