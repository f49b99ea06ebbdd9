//! Processes that hang: they live, hold their sockets and locks, and do nothing (SIGSTOP), until they go on as if no time had passed.

use super::process::{start_time, stat};
use super::{Cluster, Error, servers};
use howdah_protocol::NodeId;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// A process in the middle of a write to a slow disk stops when that is done.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// The part of a node that a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Postgres,
    Sidecar,
    Both,
}

/// Processes that hang as long as this lives.
#[derive(Debug, Default)]
#[must_use = "what was paused goes on when this is dropped"]
pub struct Paused {
    processes: Vec<(i32, u64)>,
}

impl Cluster {
    /// SIGSTOP to a part of a node; returns when every process of it stands still.
    pub async fn pause(&self, node: NodeId, part: Part) -> Result<Paused, Error> {
        let mut paused = Paused::default();
        if part != Part::Postgres {
            let pid = self.sidecar_pid(node);
            paused.stop(pid.and_then(|pid| Some((pid, start_time(pid)?))));
        }
        if part != Part::Sidecar {
            // The postmaster first: once it stands it starts nobody new, and its children can be counted.
            let pg_data = self.layout.pg_data(node);
            paused.stop(servers::of(&pg_data).processes().first().copied());
            paused.stand().await?;
            paused.stop(servers::of(&pg_data).processes().iter().skip(1).copied());
        }
        paused.stand().await?;
        Ok(paused)
    }

    /// SIGSTOP to the proxy.
    pub async fn pause_proxy(&self) -> Result<Paused, Error> {
        let mut paused = Paused::default();
        paused.stop(self.proxy_pid().and_then(|pid| Some((pid, start_time(pid)?))));
        paused.stand().await?;
        Ok(paused)
    }
}

impl Paused {
    /// How many of them stand still now, as the kernel says. Those that were killed meanwhile do not count.
    #[must_use]
    pub fn standing(&self) -> usize {
        self.processes.iter().filter(|(pid, start)| stands(*pid, *start)).count()
    }

    fn stop(&mut self, processes: impl IntoIterator<Item = (i32, u64)>) {
        for (pid, start) in processes {
            servers::send(pid, start, Signal::STOP);
            self.processes.push((pid, start));
        }
    }

    async fn stand(&self) -> Result<(), Error> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.processes.iter().any(|(pid, start)| start_time(*pid) == Some(*start) && !stands(*pid, *start)) {
            if Instant::now() >= deadline {
                let what = "the standstill of processes that were sent SIGSTOP".to_owned();
                return Err(Error::TimedOut { what, after: STOP_TIMEOUT, detail: String::new() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

fn stands(pid: i32, start: u64) -> bool {
    start_time(pid) == Some(start) && stat(pid).is_some_and(|stat| stat.state == 'T')
}

impl Drop for Paused {
    fn drop(&mut self) {
        for (pid, start) in &self.processes {
            servers::send(*pid, *start, Signal::CONT);
        }
    }
}
