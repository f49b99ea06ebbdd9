//! One pgbench run: started, waited for, its report and its log of single transactions read.

use crate::core::plan::Workload;
use crate::core::summary::Measured;
use anyhow::{Context, bail, ensure};
use howdah_ctl::core::percentile::percentile;
use howdah_ctl::postgres;
use howdah_ctl::spawn::{self, LastWord};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// On top of the run's own time: connecting, and a failover in the middle.
const SLACK: Duration = Duration::from_secs(60);
/// Reads are so many that a part of them gives the same percentile.
const SELECT_SAMPLING: f64 = 0.1;

/// How pgbench sends its statements (-M).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    Simple,
    Extended,
    Prepared,
}

/// Where pgbench connects, and with which PGOPTIONS.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub url: String,
    pub options: &'static str,
}

#[derive(Debug, Clone)]
pub struct Run<'a> {
    pub bin_dir: &'a Path,
    /// For the log of single transactions; emptied before each run.
    pub scratch: PathBuf,
    pub workload: Workload,
    pub protocol: Protocol,
    pub clients: u32,
    pub seconds: u32,
}

impl Run<'_> {
    pub async fn against(&self, endpoint: &Endpoint) -> anyhow::Result<Measured> {
        if self.scratch.exists() {
            std::fs::remove_dir_all(&self.scratch)?;
        }
        std::fs::create_dir_all(&self.scratch)?;
        let said = self.execute(endpoint).await?;
        let (tps, latency_ms_avg) = parse(&said).with_context(|| format!("pgbench said:\n{said}"))?;
        let latency_ms_p99 = p99(&self.scratch)?.context("pgbench logged no transaction")?;
        Ok(Measured { tps, latency_ms_avg, latency_ms_p99 })
    }

    async fn execute(&self, endpoint: &Endpoint) -> anyhow::Result<String> {
        let output = self.scratch.join("output");
        let file = std::fs::File::create(&output)?;
        let mut command = Command::new(postgres::program(self.bin_dir, "pgbench"));
        command.arg("--no-vacuum").arg("--protocol").arg(match self.protocol {
            Protocol::Simple => "simple",
            Protocol::Extended => "extended",
            Protocol::Prepared => "prepared",
        });
        // Two threads drive everything that two cores can serve; more would only take time from the servers.
        let threads = self.clients.min(2).to_string();
        command.args(["--client", &self.clients.to_string(), "--jobs", &threads, "--time", &self.seconds.to_string()]);
        command.arg("--log").arg("--log-prefix").arg(self.scratch.join("transactions"));
        if self.workload == Workload::Select {
            command.args(["--select-only", "--sampling-rate", &SELECT_SAMPLING.to_string()]);
        }
        command.arg(&endpoint.url).env("PGOPTIONS", endpoint.options);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut child = spawn::owned(command, LastWord::Terminate).context("starting pgbench")?;
        let deadline = Instant::now() + Duration::from_secs(self.seconds.into()) + SLACK;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                bail!("pgbench did not end: {}", std::fs::read_to_string(&output)?);
            }
            tokio::time::sleep(POLL).await;
        };
        let said = std::fs::read_to_string(&output)?;
        ensure!(status.success(), "pgbench ended with {status}:\n{said}");
        Ok(said)
    }
}

/// Throughput and average latency from pgbench's report. A report with failed transactions is no measurement.
fn parse(said: &str) -> anyhow::Result<(f64, f64)> {
    let number = |start: &str| {
        let rest = said.lines().find_map(|line| line.strip_prefix(start)).with_context(|| format!("no line \"{start}\""))?;
        rest.split_whitespace().next().unwrap_or_default().parse::<f64>().with_context(|| format!("after \"{start}\""))
    };
    if let Ok(failed) = number("number of failed transactions: ") {
        ensure!(failed == 0.0, "{failed} transactions failed");
    }
    ensure!(!said.contains("aborted"), "a client was aborted");
    Ok((number("tps = ")?, number("latency average = ")?))
}

/// 99th percentile in milliseconds over all threads' logs; lines are `client number time_us script epoch us`.
fn p99(scratch: &Path) -> anyhow::Result<Option<f64>> {
    let mut samples: Vec<u64> = Vec::new();
    for entry in std::fs::read_dir(scratch)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("transactions")) {
            let text = std::fs::read_to_string(&path)?;
            samples.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
        }
    }
    #[allow(clippy::cast_precision_loss)] // microseconds of one transaction
    Ok(percentile(&mut samples, 99.0).map(|us| us as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "pgbench (15.1)\nnumber of transactions actually processed: 10\nnumber of failed transactions: 0 (0.000%)\n\
        latency average = 0.517 ms\ninitial connection time = 2.1 ms\ntps = 1934.2 (without initial connection time)\n";

    #[test]
    fn the_report_is_read() {
        assert_eq!(parse(GOOD).expect("good"), (1934.2, 0.517));
    }

    #[test]
    fn failures_are_no_measurement() {
        assert!(parse(&GOOD.replace("transactions: 0", "transactions: 3")).is_err());
        assert!(parse(&format!("{GOOD}pgbench: error: client 3 aborted in command 2")).is_err());
        assert!(parse("").is_err());
    }
}
