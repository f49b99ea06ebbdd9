//! `howdahctl down`: stops the cluster of a folder, whoever started it.

use super::{Down, Outcome, up};
use anyhow::bail;
use howdah_ctl::cluster::Cluster;
use rustix::process::{Pid, Signal};
use std::time::{Duration, Instant};

const STOP_TIMEOUT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

pub(crate) async fn run(arguments: Down) -> anyhow::Result<Outcome> {
    let data = arguments.data.dir();
    let mut stopped = false;
    if let Some((pid, purpose)) = Cluster::owner(&data) {
        let known = [up::PURPOSE, crate::demo::PURPOSE];
        let Some(pid) = Pid::from_raw(pid).filter(|_| known.contains(&purpose.as_str())) else {
            bail!("{}: in use by {purpose} (pid {pid}), which stops it itself", data.display());
        };
        rustix::process::kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Cluster::owner(&data).is_some() {
            if Instant::now() >= deadline {
                bail!("{purpose} (pid {}) did not stop within {} s", pid.as_raw_nonzero(), STOP_TIMEOUT.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
        stopped = true;
    }
    // Also behind a holder that only started what was missing.
    if Cluster::is_running(&data)? {
        Cluster::stop_detached(&data).await?;
        stopped = true;
    }
    println!("{}", if stopped { "stopped" } else { "not running" });
    Ok(Outcome::Good)
}
