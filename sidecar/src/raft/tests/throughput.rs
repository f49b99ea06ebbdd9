//! How fast three nodes decide: prints, so that a change that costs something is seen. A release build says more:
//! `cargo test --release -p howdah-sidecar --lib throughput -- --nocapture`.

use super::batch;
use super::group::Group;
use futures::stream::{FuturesUnordered, StreamExt};
use std::time::{Duration, Instant};

const ENTRY_LEN: usize = 1000;
const BUDGET: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_of_three_nodes() {
    for size in [1, 3] {
        let mut group = Group::start(size).await;
        let leader = group.leader().await;
        let line = group.line(leader).await;
        let mut number = 0;
        for in_flight in [1, 8, 32, 256] {
            let start = Instant::now();
            let mut latencies = Vec::new();
            let mut running = FuturesUnordered::new();
            while start.elapsed() < BUDGET {
                while running.len() < in_flight {
                    number += 1;
                    let (answer, began) = (line.propose(batch(1, number, ENTRY_LEN)), Instant::now());
                    running.push(async move {
                        answer.await.unwrap();
                        began.elapsed()
                    });
                }
                latencies.extend(running.next().await);
            }
            let took = start.elapsed();
            latencies.sort_unstable();
            let at = |share: usize| latencies[(latencies.len() - 1) * share / 100];
            let rate = latencies.len() as f64 / took.as_secs_f64();
            println!("{size} nodes, {in_flight:3} in flight: {rate:7.0} entries/s, p50 {:?}, p99 {:?}", at(50), at(99));
            while running.next().await.is_some() {}
        }
        group.stop_all().await;
    }
}

/// Heartbeats that are late because the processors are busy are not a dead leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_machine_keeps_its_leader() {
    const BUSY: Duration = Duration::from_secs(4);
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let term = group.handle(leader).role().borrow().term;
    let line = group.line(leader).await;
    let deadline = Instant::now() + BUSY;
    let threads = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    let burners: Vec<_> = (0..threads)
        .map(|_| {
            std::thread::spawn(move || {
                while Instant::now() < deadline {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let mut number = 0;
    while Instant::now() < deadline {
        number += 1;
        line.propose(batch(1, number, ENTRY_LEN)).await.unwrap();
    }
    for (at, handle) in group.handles() {
        assert_eq!(handle.role().borrow().term, term, "node {at}");
    }
    println!("{number} entries in {BUSY:?} beside {threads} busy threads");
    burners.into_iter().for_each(|burner| burner.join().unwrap());
    group.stop_all().await;
}
