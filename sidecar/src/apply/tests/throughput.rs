//! How fast one connection applies TPC-B. A measurement: run it alone, in release, with `--ignored`.

use super::fixture::Pair;
use tokio::time::Instant;

const TRANSACTIONS_PER_ENTRY: usize = 32;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn tpcb_stream() {
    let mut pair = Pair::new().await;
    let scale = setting("HOWDAH_SCALE", 10).to_string();
    let each = (setting("HOWDAH_TRANSACTIONS", 100_000) / 8).to_string();
    for server in [&pair.source_server, &pair.target_server] {
        // What waits for a gate that nobody attends would hang: these sessions commit locally.
        server.client_program("psql", &["-qc", "ALTER SYSTEM SET synchronous_commit = 'local'", "-c", "SELECT pg_reload_conf()"]);
        server.client_program("pgbench", &["-i", "-q", "-s", &scale]);
        server.client_program("psql", &["-qc", "ALTER TABLE pgbench_history REPLICA IDENTITY FULL; CHECKPOINT"]);
    }
    pair.captured().await;
    pair.source_server.client_program("pgbench", &["-n", "-M", "prepared", "-c", "8", "-t", &each]);
    let transactions = pair.captured().await;
    let before = pair.applied();
    pair.stop().await;
    for chunk in transactions.chunks(TRANSACTIONS_PER_ENTRY) {
        let entry = pair.framer.batch(chunk);
        pair.log.append(Some(&entry));
    }
    let began = Instant::now();
    pair.start();
    pair.caught_up().await;
    let took = began.elapsed();
    pair.compare().await;
    let after = pair.applied();
    println!(
        "{} transactions in {took:.2?}: {:.0} per second, {} batches, {} row by row",
        transactions.len(),
        transactions.len() as f64 / took.as_secs_f64(),
        after.batches.saturating_sub(before.batches),
        after.fallbacks
    );
}
