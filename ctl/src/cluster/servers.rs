//! The Postgres of a node, found through its data directory: the postmaster and every process below it.
//!
//! Backends outlive a killed postmaster for a moment and hold the shared memory, so that the next start fails: they are killed too, and waited for.

use super::Error;
use super::process::{KILLED_TIMEOUT, start_time, stat};
use rustix::process::{Pid, Signal};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// pid and start time; the postmaster first, so that it does not start new ones for those that die.
    processes: Vec<(i32, u64)>,
    /// Id of the System V segment by which Postgres tells whether another one uses its folder.
    segment: Option<String>,
}

/// What runs on this data directory right now; nothing when no Postgres does.
pub(crate) fn of(pg_data: &Path) -> Servers {
    let Some(postmaster) = postmaster(pg_data) else { return Servers::default() };
    let mut processes: Vec<(i32, u64)> = start_time(postmaster).map(|start| (postmaster, start)).into_iter().collect();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let children = pids.filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == postmaster));
    processes.extend(children.filter_map(|pid| Some((pid, start_time(pid)?))));
    Servers { processes, segment: segment(pg_data) }
}

/// postmaster.pid has key and id of the segment in its seventh line.
fn segment(pg_data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(pg_data.join("postmaster.pid")).ok()?;
    text.lines().nth(6)?.split_whitespace().nth(1).map(str::to_owned)
}

/// The pid in postmaster.pid is only believed when that process' working directory is this data directory: the file survives crashes.
pub(crate) fn postmaster(pg_data: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(pg_data.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let works_in = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (works_in == pg_data.canonicalize().ok()?).then_some(pid)
}

impl Servers {
    /// pids and start times, the postmaster first.
    pub(crate) fn processes(&self) -> &[(i32, u64)] {
        &self.processes
    }

    /// A request to the postmaster, which passes it on to the others.
    pub(crate) fn ask(&self, signal: Signal) {
        if let Some((pid, start)) = self.processes.first() {
            send(*pid, *start, signal);
        }
    }

    pub(crate) fn kill(&mut self) {
        for (pid, start) in &self.processes {
            send(*pid, *start, Signal::KILL);
        }
    }

    /// For a killed Postgres that may never start again in its folder: only a start would take its segment away, and the system has 4,096.
    pub(crate) fn remove_segment(&self) {
        if let Some(id) = &self.segment {
            // Where there is no ipcrm, or no segment any more, nothing is worse than before.
            let _ = Command::new("ipcrm").args(["-m", id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }

    pub(crate) async fn wait_gone(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + KILLED_TIMEOUT;
        while self.processes.iter().any(|(pid, start)| start_time(*pid) == Some(*start)) {
            if Instant::now() >= deadline {
                return Err(Error::TimedOut {
                    what: "the end of a killed Postgres".to_owned(),
                    after: KILLED_TIMEOUT,
                    detail: String::new(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

/// To the process that was meant, not to another that got its pid.
pub(super) fn send(pid: i32, start: u64, signal: Signal) {
    if start_time(pid) == Some(start)
        && let Some(pid) = Pid::from_raw(pid)
    {
        // It can only fail because the process ended in between; whoever sends looks for the effect.
        let _ = rustix::process::kill_process(pid, signal);
    }
}
