//! pgbench in the background, for as long as something else is measured, and its throughput second by second.

use crate::pgbench::Endpoint;
use anyhow::{Context, ensure};
use howdah_ctl::core::percentile::median;
use howdah_ctl::postgres;
use howdah_ctl::spawn::{self, LastWord};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than anything that is measured beside it.
const SECONDS_MAX: u32 = 24 * 3600;

#[derive(Debug)]
pub struct Load {
    child: Child,
    output: PathBuf,
}

/// Throughput of the second that ended at `at` (of the Unix epoch).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    at: f64,
    tps: f64,
}

/// A time span, in seconds of the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    from: f64,
    to: f64,
}

impl Load {
    /// TPC-B, prepared.
    pub fn start(bin_dir: &Path, scratch: &Path, endpoint: &Endpoint, clients: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(scratch)?;
        let output = scratch.join("load.log");
        let file = std::fs::File::create(&output)?;
        let mut command = Command::new(postgres::program(bin_dir, "pgbench"));
        command.args(["--no-vacuum", "--protocol", "prepared", "--progress", "1", "--progress-timestamp"]);
        command.args(["--client", &clients.to_string(), "--jobs", &clients.min(2).to_string(), "--time", &SECONDS_MAX.to_string()]);
        command.arg(&endpoint.url).env("PGOPTIONS", endpoint.options);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = spawn::owned(command, LastWord::Terminate).context("starting pgbench")?;
        Ok(Self { child, output })
    }

    /// Median of the throughputs of the seconds within the window. Fails when pgbench has ended, or measured fewer than three.
    pub fn median(&mut self, window: Window) -> anyhow::Result<f64> {
        let said = std::fs::read_to_string(&self.output)?;
        ensure!(self.child.try_wait()?.is_none(), "pgbench ended:\n{said}");
        let within: Vec<f64> = samples(&said).iter().filter(|sample| window.holds(**sample)).map(|sample| sample.tps).collect();
        ensure!(within.len() >= 3, "{} samples of the load, too few", within.len());
        median(&within).context("no sample")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Window {
    #[must_use]
    pub fn since(from: SystemTime) -> Self {
        Self::between(from, SystemTime::now())
    }

    #[must_use]
    pub fn between(from: SystemTime, to: SystemTime) -> Self {
        Self { from: epoch(from), to: epoch(to) }
    }

    fn holds(self, sample: Sample) -> bool {
        sample.at - 1.0 >= self.from && sample.at <= self.to
    }
}

fn epoch(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// Lines such as `progress: 1700000000.123 s, 2345.6 tps, lat 3.4 ms stddev 1.2, 0 failed`.
fn samples(said: &str) -> Vec<Sample> {
    let sample = |line: &str| {
        let (at, rest) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
        let tps = rest.split_once(" tps")?.0;
        Some(Sample { at: at.parse().ok()?, tps: tps.parse().ok()? })
    };
    said.lines().filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_within_the_window_are_those_that_began_and_ended_in_it() {
        let said = "pgbench (15.1)\nprogress: 100.5 s, 10.0 tps, lat 1.0 ms stddev 1.0, 0 failed\nprogress: 101.5 s, 20.5 tps, lat 1 ms\n";
        let samples = samples(said);
        assert_eq!(samples, [Sample { at: 100.5, tps: 10.0 }, Sample { at: 101.5, tps: 20.5 }]);
        let window = Window { from: 100.0, to: 102.0 };
        assert_eq!(samples.iter().filter(|sample| window.holds(**sample)).count(), 1);
    }
}
