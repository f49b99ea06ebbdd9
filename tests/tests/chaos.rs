//! A short run of the proof. `make chaos` runs it longer.

use anyhow::{Result, ensure};
use howdah_tests::chaos::{self, Options};
use howdah_tests::nemesis::Fault;
use std::time::Duration;

const SEED: u64 = 20_260;

fn options(duration: Duration, faults: &[Fault], network: bool) -> Options {
    Options { seed: SEED, duration, faults: faults.to_vec(), nodes: 3, network, progress: |line| println!("{line}") }
}

/// The faults one after the other; as many as the time allows, each proven.
#[tokio::test(flavor = "multi_thread")]
async fn processes_die_and_hang_and_no_promise_is_broken() -> Result<()> {
    let report = chaos::run(&options(Duration::from_secs(45), Fault::PROCESS, false)).await?;
    ensure!(!report.violated(), "seed {SEED}:\n{}", report.markdown("chaos"));
    ensure!(report.follower_reads > 0, "no read was served by a follower");
    let proven: usize = Fault::PROCESS.iter().map(|fault| report.proven(*fault)).sum();
    ensure!(proven >= 3, "only {proven} faults in the whole time:\n{}", report.markdown("chaos"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_parts_and_no_promise_is_broken() -> Result<()> {
    if let Some(why) = howdah_tests::netns::why_not() {
        println!("skipped: {why}");
        return Ok(());
    }
    let report = chaos::run(&options(Duration::from_secs(30), Fault::NETWORK, true)).await?;
    ensure!(!report.violated(), "seed {SEED}:\n{}", report.markdown("chaos"));
    let proven: usize = Fault::NETWORK.iter().map(|fault| report.proven(*fault)).sum();
    ensure!(proven >= 2, "only {proven} faults in the whole time:\n{}", report.markdown("chaos"));
    Ok(())
}
