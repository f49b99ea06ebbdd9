//! How fast one connection applies TPC-B. A measurement: run it alone, in release, with `--ignored`.

use super::fixture::Pair;
use tokio::time::Instant;

const TRANSACTIONS_PER_ENTRY: usize = 32;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// CPU time of a process so far, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS_PER_SECOND
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
    let cpu_before = cpu_seconds(std::process::id());
    let began = Instant::now();
    pair.start();
    pair.caught_up().await;
    let took = began.elapsed();
    let cpu_here = cpu_seconds(std::process::id()) - cpu_before;
    let pid: i32 =
        pair.target.query_one("SELECT pid FROM pg_stat_activity WHERE application_name = 'howdah-apply'", &[]).await.unwrap().get(0);
    let cpu_postgres = cpu_seconds(pid.unsigned_abs());
    pair.compare().await;
    let after = pair.applied();
    println!(
        "{} transactions in {took:.2?}: {:.0} per second, {} batches, {} row by row; \
         CPU {cpu_here:.2} s here, {cpu_postgres:.2} s in server process {pid}",
        transactions.len(),
        transactions.len() as f64 / took.as_secs_f64(),
        after.batches.saturating_sub(before.batches),
        after.fallbacks
    );
}
