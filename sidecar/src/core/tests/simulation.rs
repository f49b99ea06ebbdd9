//! A small world in which everything goes wrong, played thousands of times from a seed.
//!
//! ```text
//!  clients, readers <--> Postgres (model) <--> a sidecar's steps <--> log (model) <--> network (model)
//!         |                                        |
//!         v                                        +-- decides nothing: assemble, decisions, role, divergence, coalesce, outcomes,
//!      oracle: what was told and seen,                 lease are the code that runs in production
//!              against what the group decided
//! ```
//!
//! What the oracle holds against every run:
//! - what a client was told to be committed is decided, and what it was told to be refused never is;
//! - who reads sees a prefix of the decided log, whole transactions, nothing that may still vanish; under a lease nothing acknowledged is missing;
//! - the log holds what each Postgres committed in the order of commit, once, without a hole;
//! - no row of the log meets other rows than it left; at the end all nodes hold what the log makes, repaired ones too;
//! - one epoch is one node's; and in peace everything comes to rest with one open leader.
//!
//! The steps of `role`, `capture`, `repair` and `apply` are told again in `node` and `repair`, without the waiting. They are a copy, as
//! everything that talks to a server must be here; what is at stake in them is each time one call into a core.

mod clients;
mod log;
mod node;
mod oracle;
mod postgres;
mod repair;
mod wire;
mod world;

use oracle::Counts;
use std::ops::Range;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};
use world::{Mistake, World};

type Checked<T = ()> = Result<T, String>;

/// The sound system runs this often, or until the time is over on a slow machine.
const SEEDS: Range<u64> = 0..2_000;
const TIME_MAX: Duration = Duration::from_secs(20);
/// Each mistake is found within so many runs.
const SEEDS_TO_FIND: u64 = 2_000;

fn play(seed: u64, mistake: Option<Mistake>, tells: bool) -> Checked<Counts> {
    // An assertion of a core is a finding too.
    catch_unwind(|| World::new(seed, mistake, tells).run()).unwrap_or_else(|_| Err("a core has panicked".to_owned()))
}

/// `HOWDAH_SEED=n cargo test -p howdah-sidecar simulation` replays one run and tells it; `HOWDAH_SEEDS=n` plays so many, however long it takes.
#[test]
fn nothing_is_lost_and_nobody_sees_what_may_vanish() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (one, many) = (number("HOWDAH_SEED"), number("HOWDAH_SEEDS"));
    let tells = one.is_some();
    let seeds = match (one, many) {
        (Some(seed), _) => seed..seed + 1,
        (None, many) => many.map_or(SEEDS, |many| 0..many),
    };
    let (began, mut total, mut runs) = (Instant::now(), Counts::default(), 0);
    for seed in seeds {
        let counts = play(seed, None, tells).unwrap_or_else(|what| panic!("{what}; replay with HOWDAH_SEED={seed}"));
        total.add(counts);
        runs += 1;
        if many.is_none() && began.elapsed() > TIME_MAX {
            break;
        }
    }
    println!("{runs} runs in {:.1} s: {total:?}", began.elapsed().as_secs_f64());
    if runs >= 100 {
        let seen = [total.acknowledged, total.told, total.reads, total.linearizable, total.openings, total.repairs];
        assert!(seen.iter().all(|count| *count >= runs / 4), "the runs are about nothing: {total:?}");
    }
}

#[test]
fn every_known_mistake_is_found() {
    for mistake in Mistake::ALL {
        let found = (0..SEEDS_TO_FIND).find_map(|seed| play(seed, Some(*mistake), false).err().map(|what| (seed, what)));
        let (seed, what) = found.unwrap_or_else(|| panic!("{mistake:?} was not found in {SEEDS_TO_FIND} runs"));
        println!("{mistake:?}: seed {seed}: {what}");
    }
}

#[test]
fn a_seed_is_one_run() {
    for seed in 0..5 {
        assert_eq!(format!("{:?}", play(seed, None, false)), format!("{:?}", play(seed, None, false)));
    }
}
