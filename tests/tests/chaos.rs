//! A short run of the proof. `make chaos` runs it longer.

use anyhow::{Result, ensure};
use howdah_tests::chaos::{self, Event, Options};
use howdah_tests::nemesis::{Fault, Strike};
use howdah_tests::workload::Workloads;
use howdah_tests::{Fixture, eventually};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

const SEED: u64 = 20_260;
/// Each of these wants the machine for itself.
static TURN: Mutex<()> = Mutex::const_new(());

fn options(duration: Duration, faults: &[Fault], network: bool) -> Options {
    Options { seed: SEED, duration, faults: faults.to_vec(), nodes: 3, network, progress: |line| println!("{line}") }
}

/// The faults one after the other; as many as the time allows, each proven.
#[tokio::test(flavor = "multi_thread")]
async fn processes_die_and_hang_and_no_promise_is_broken() -> Result<()> {
    let _turn = TURN.lock().await;
    let report = chaos::run(&options(Duration::from_secs(45), Fault::PROCESS, false)).await?;
    ensure!(!report.violated(), "seed {SEED}:\n{}", report.markdown("chaos"));
    ensure!(report.follower_reads > 0, "no read was served by a follower");
    let proven: usize = Fault::PROCESS.iter().map(|fault| report.proven(*fault)).sum();
    ensure!(proven >= 3, "only {proven} faults in the whole time:\n{}", report.markdown("chaos"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_parts_and_no_promise_is_broken() -> Result<()> {
    let _turn = TURN.lock().await;
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

/// Of the log, of Postgres, of both: half a minute is enough for the six kinds on a machine that has nothing else to do.
#[tokio::test(flavor = "multi_thread")]
async fn disks_are_slow_and_full_and_no_promise_is_broken() -> Result<()> {
    let _turn = TURN.lock().await;
    let report = chaos::run(&options(Duration::from_secs(30), Fault::DISK, false)).await?;
    ensure!(!report.violated(), "seed {SEED}:\n{}", report.markdown("chaos"));
    let done = |event: &&Event| matches!(event.strike, Strike::Proven(_) | Strike::Skipped(_));
    let done = report.events.iter().filter(done).count();
    ensure!(done >= 2, "only {done} faults in the whole time:\n{}", report.markdown("chaos"));
    Ok(())
}

/// On hosts of their own too: the one that comes gets the spare host, the next one the host of the one that left.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go_between_partitions() -> Result<()> {
    let _turn = TURN.lock().await;
    if let Some(why) = howdah_tests::netns::why_not() {
        println!("skipped: {why}");
        return Ok(());
    }
    let report = chaos::run(&options(Duration::from_secs(20), &[Fault::ReplaceNode, Fault::LeaderAlone], true)).await?;
    ensure!(!report.violated(), "seed {SEED}:\n{}", report.markdown("chaos"));
    ensure!(report.proven(Fault::ReplaceNode) > 0, "no node was replaced:\n{}", report.markdown("chaos"));
    Ok(())
}

/// The judges with the real clients before them: data that somebody tampered with behind everybody's back is told, and only that.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_tampered_with_is_noticed() -> Result<()> {
    let _turn = TURN.lock().await;
    const TAMPER: &str =
        "UPDATE bank SET balance = balance + 1 WHERE id = 0; DELETE FROM elements WHERE id = (SELECT min(id) FROM elements);
        UPDATE append_serializable SET list = list[2:] WHERE key = (SELECT min(key) FROM append_serializable);
        UPDATE register SET value = -1 WHERE key = (SELECT min(key) FROM register)";
    let local = tokio::task::LocalSet::new();
    let judged = local.run_until(async {
        let fixture = Fixture::start().await?;
        let mut workloads = Workloads::start(&fixture.info().proxy_url(), SEED).await?;
        let shared = Arc::clone(workloads.shared());
        eventually("work", async || Ok(shared.counts().acknowledged), |count| *count > 1000).await?;
        workloads.stop().await?;
        fixture.client().await?.batch_execute(TAMPER).await?;
        workloads.judge().await
    });
    for (name, findings) in judged.await? {
        let tampered = ["bank", "set", "register", "list-append, serializable"].contains(&name);
        ensure!(findings.is_clean() != tampered && findings.checked > 0, "{name}: {findings:#?}");
    }
    Ok(())
}
