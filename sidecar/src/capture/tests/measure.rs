//! What the gate costs: pgbench with a log that writes and syncs one file, beside pgbench without a gate. Run by hand:
//! `CARGO_PROFILE_TEST_OPT_LEVEL=3 cargo test -p howdah-sidecar measure -- --ignored --nocapture`

use super::fixture::Postgres;
use crate::capture::{Handle, ProposeError, Proposer, start};
use crate::pg::replication;
use bytes::Bytes;
use howdah_protocol::{LogIndex, settings};
use std::future::Future;
use std::io::Write;
use std::sync::mpsc;
use tokio::sync::oneshot;

/// Appends entries to a file; one sync serves all that wait for it.
struct FileLog(mpsc::Sender<(Bytes, oneshot::Sender<()>)>);

impl FileLog {
    fn new() -> Self {
        let (send, receive) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>();
        std::thread::spawn(move || {
            let mut file = tempfile::Builder::new().tempfile_in("/var/tmp").unwrap();
            while let Ok(first) = receive.recv() {
                let batch: Vec<_> = std::iter::once(first).chain(receive.try_iter()).collect();
                batch.iter().for_each(|(entry, _)| file.write_all(entry).unwrap());
                file.as_file().sync_data().unwrap();
                for (_, decided) in batch {
                    let _ = decided.send(());
                }
            }
        });
        Self(send)
    }
}

impl Proposer for FileLog {
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<LogIndex, ProposeError>> + Send + 'static + use<> {
        let (decide, decided) = oneshot::channel();
        self.0.send((entry, decide)).unwrap();
        async move { decided.await.map(|()| LogIndex(0)).map_err(|_| ProposeError::Unknown("gone".to_owned())) }
    }
}

/// Transactions per second.
fn pgbench(postgres: &Postgres, clients: &str, options: &str) -> f64 {
    let mut command = postgres.program("pgbench");
    command.arg("-h").arg(postgres.target().host).args(["-U", "postgres", "-n", "-M", "prepared", "-T", &seconds(), "-c", clients]);
    command.args(["-j", "2", "postgres"]).env("PGOPTIONS", options);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("tps")).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

fn seconds() -> String {
    std::env::var("HOWDAH_SECONDS").unwrap_or_else(|_| "8".to_owned())
}

/// CPU time of this process, the file log's included.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Clock ticks of 10 ms, in user mode and in the kernel.
    [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

fn report(gate: &Handle, cpu_ms: u64) {
    let metrics = gate.metrics();
    let counts = metrics.snapshot();
    println!("{counts:?}");
    println!(
        "{} us of CPU per transaction, commits per entry {:.1}, transactions per read {:.2}, mean wait {} us",
        cpu_ms * 1_000 / counts.transactions,
        counts.transactions as f64 / counts.entries as f64,
        counts.transactions as f64 / counts.reads as f64,
        metrics.confirm_us.sum() / metrics.confirm_us.count().max(1),
    );
    println!("{:?}", metrics.confirm_us.buckets().filter(|(_, count)| *count > 0).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure() {
    let postgres = Postgres::start_with(&["shared_buffers='512MB'", "max_connections=100"]).await;
    let mut load = postgres.program("pgbench");
    load.arg("-h").arg(postgres.target().host).args(["-U", "postgres", "-i", "-q", "-s", "20", "postgres"]);
    load.env("PGOPTIONS", "-c synchronous_commit=local");
    assert!(load.output().unwrap().status.success());
    let clients = std::env::var("HOWDAH_CLIENTS").unwrap_or_else(|_| "1 8 32".to_owned());
    let lines = std::env::var("HOWDAH_IN_FLIGHT").unwrap_or_else(|_| "4".to_owned());
    for (clients, line) in clients.split_whitespace().flat_map(|clients| lines.split_whitespace().map(move |line| (clients, line))) {
        println!("{clients} clients");
        let mut tps = (Vec::new(), Vec::new());
        for _ in 0..3 {
            tps.0.push(pgbench(&postgres, clients, "-c synchronous_commit=local"));
            replication::create_slot(&postgres.target(), settings::SLOT).await.unwrap();
            let mut options = postgres.options();
            options.limits.proposals_in_flight_max = line.parse().unwrap();
            let gate = start(options, FileLog::new());
            gate.attached().await.unwrap();
            let before = cpu_ms();
            tps.1.push(pgbench(&postgres, clients, "-c synchronous_commit=on"));
            report(&gate, cpu_ms() - before);
            gate.stop().await;
            replication::drop_slot(&postgres.target(), settings::SLOT).await.unwrap();
        }
        println!("{clients} clients, {line} in flight: no gate {:.0?}, gate {:.0?}", tps.0, tps.1);
    }
}
