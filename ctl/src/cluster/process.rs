//! One sidecar or proxy: started, recorded in its pid file, watched, ended.
//!
//! A pid alone names nobody, the kernel reuses it. A record holds the process' start time too, and only a process that matches both is
//! ever signalled.

use super::files::{Layout, ProcessFiles};
use super::manifest::{Manifest, write_private};
use super::{Error, Lifetime, servers};
use crate::spawn::{self, LastWord};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);
/// SIGKILL is not negotiable, but the kernel may be busy freeing memory.
pub(super) const KILLED_TIMEOUT: Duration = Duration::from_secs(20);
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 15;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: i32,
    start_time: u64,
    detached: bool,
}

#[derive(Debug)]
pub(crate) struct Process {
    files: ProcessFiles,
    record: Record,
    child: Child,
}

impl Process {
    /// In a network namespace where one is named; the program takes the place of `ip`, so it keeps its pid and its parent.
    pub(crate) fn start(files: ProcessFiles, binary: &Path, lifetime: Lifetime, namespace: Option<&str>) -> Result<Self, Error> {
        let io = |what: &Path| Error::io(what.display().to_string());
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&files.log).map_err(io(&files.log))?;
        let mut command = match namespace {
            None => Command::new(binary),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary);
                command
            }
        };
        command.arg("--config").arg(&files.config).stdin(Stdio::null());
        // Postgres refuses to start in, and complains about, a folder that its user cannot read.
        command.current_dir("/");
        command.stdout(log.try_clone().map_err(io(&files.log))?).stderr(log);
        let child = match lifetime {
            Lifetime::Owned => spawn::owned(command, LastWord::Terminate),
            Lifetime::Detached => spawn::detached(command),
        };
        let child = child.map_err(Error::io(format!("starting {}", binary.display())))?;
        let pid = i32::try_from(child.id()).expect("pids fit in 31 bits");
        let record = Record { pid, start_time: start_time(pid).unwrap_or_default(), detached: lifetime == Lifetime::Detached };
        let process = Self { files, record, child };
        write_private(&process.files.pid, &serde_json::to_string(&process.record).expect("plain data serialises"))?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.record.pid
    }

    /// How it ended and what it said last, if it ended.
    pub(crate) fn ended(&mut self) -> Option<Error> {
        let status = self.child.try_wait().ok().flatten()?;
        let files = &self.files;
        Some(Error::Ended { name: files.name.clone(), how: status.to_string(), log: files.log.clone(), tail: tail(&files.log) })
    }

    pub(crate) fn log_tail(&self) -> (PathBuf, String) {
        (self.files.log.clone(), tail(&self.files.log))
    }

    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    /// A child that was not waited for keeps its pid, so the signal cannot hit a stranger.
    fn signal(&mut self, signal: Signal) {
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), Pid::from_raw(self.record.pid)) {
            // It can only fail because the process ended in between, which is what was wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits for the end; kills after `grace`.
    pub(crate) async fn wait_ended(&mut self, grace: Duration) -> Result<(), Error> {
        if !self.wait_until(Instant::now() + grace).await {
            self.kill();
        }
        self.wait_gone().await
    }

    /// Waits for the end of a process that was killed.
    pub(crate) async fn wait_gone(&mut self) -> Result<(), Error> {
        if !self.wait_until(Instant::now() + KILLED_TIMEOUT).await {
            return Err(Error::TimedOut { what: format!("the end of {}", self.files.name), after: KILLED_TIMEOUT, detail: String::new() });
        }
        forget(&self.files.pid);
        Ok(())
    }

    async fn wait_until(&mut self, deadline: Instant) -> bool {
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Blocks until a killed process is gone; for destructors.
    pub(crate) fn reap(&mut self) {
        let _ = self.child.wait();
        forget(&self.files.pid);
    }
}

fn forget(pid_file: &Path) {
    // A record that stays behind matches no living process.
    let _ = std::fs::remove_file(pid_file);
}

/// Start time in clock ticks since boot, `None` for a process that is gone or only waits to be reaped.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    stat(pid).filter(|stat| stat.state != 'Z' && stat.state != 'X').map(|stat| stat.start_time)
}

pub(super) struct Stat {
    pub(super) state: char,
    pub(super) parent: i32,
    start_time: u64,
}

pub(super) fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, parentheses and spaces too.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
    Some(Stat { state: fields.first()?.chars().next()?, parent: fields.get(1)?.parse().ok()?, start_time: fields.get(19)?.parse().ok()? })
}

/// The recorded process lives.
pub(crate) fn runs(files: &ProcessFiles) -> bool {
    recorded(files).is_some()
}

fn recorded(files: &ProcessFiles) -> Option<Record> {
    let record: Record = serde_json::from_str(&std::fs::read_to_string(&files.pid).ok()?).ok()?;
    (start_time(record.pid) == Some(record.start_time)).then_some(record)
}

fn all(layout: &Layout, manifest: &Manifest) -> impl Iterator<Item = ProcessFiles> {
    std::iter::once(layout.proxy()).chain(manifest.ids().map(|node| layout.sidecar(node)))
}

/// SIGTERM to one recorded process, SIGKILL after `grace`.
pub(crate) async fn terminate_one(files: &ProcessFiles, grace: Duration) -> Result<(), Error> {
    for (signal, limit) in [(Signal::TERM, grace), (Signal::KILL, KILLED_TIMEOUT)] {
        if let Some(pid) = recorded(files).and_then(|record| Pid::from_raw(record.pid)) {
            let _ = rustix::process::kill_process(pid, signal);
        }
        let deadline = Instant::now() + limit;
        while recorded(files).is_some() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
    if recorded(files).is_some() {
        return Err(Error::TimedOut { what: format!("the end of {}", files.name), after: KILLED_TIMEOUT, detail: String::new() });
    }
    forget(&files.pid);
    Ok(())
}

pub(crate) fn any_recorded_runs(layout: &Layout, manifest: &Manifest) -> bool {
    all(layout, manifest).any(|files| recorded(&files).is_some())
}

pub(crate) fn any_detached_runs(layout: &Layout, manifest: &Manifest) -> bool {
    all(layout, manifest).any(|files| recorded(&files).is_some_and(|record| record.detached))
}

/// Ends what the last owner left: its processes got a signal from the kernel when it died and need a moment. A cluster that was detached on
/// purpose is not touched, that is an error.
pub(crate) async fn end_leftovers(layout: &Layout, manifest: &Manifest, grace: Duration) -> Result<(), Error> {
    let detached: Vec<String> = all(layout, manifest)
        .filter_map(|files| recorded(&files).filter(|record| record.detached).map(|record| format!("{}, pid {}", files.name, record.pid)))
        .collect();
    if !detached.is_empty() {
        return Err(Error::Running { data: layout.root().to_owned(), processes: detached.join("; ") });
    }
    terminate_recorded(layout, manifest, grace).await
}

/// SIGTERM to every recorded process, SIGKILL to it and to the node's Postgres after `grace`.
pub(crate) async fn terminate_recorded(layout: &Layout, manifest: &Manifest, grace: Duration) -> Result<(), Error> {
    signal_recorded(layout, manifest, Signal::TERM);
    if !recorded_end_within(layout, manifest, grace).await {
        signal_recorded(layout, manifest, Signal::KILL);
        if !recorded_end_within(layout, manifest, KILLED_TIMEOUT).await {
            let what = format!("the end of the processes of {}", layout.root().display());
            return Err(Error::TimedOut { what, after: KILLED_TIMEOUT, detail: String::new() });
        }
    }
    for node in manifest.ids() {
        let mut servers = servers::of(&layout.pg_data(node));
        servers.kill();
        servers.wait_gone().await?;
    }
    all(layout, manifest).for_each(|files| forget(&files.pid));
    Ok(())
}

fn signal_recorded(layout: &Layout, manifest: &Manifest, signal: Signal) {
    for record in all(layout, manifest).filter_map(|files| recorded(&files)) {
        if let Some(pid) = Pid::from_raw(record.pid) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

async fn recorded_end_within(layout: &Layout, manifest: &Manifest, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while any_recorded_runs(layout, manifest) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

fn tail(log: &Path) -> String {
    let read = || {
        let mut file = std::fs::File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(not readable: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let files = Layout::of(dir.path()).expect("exists").proxy();
        let pid = i32::try_from(std::process::id()).expect("small");
        let record = Record { pid, start_time: start_time(pid).expect("this process runs"), detached: false };
        write_private(&files.pid, &serde_json::to_string(&record).expect("serialises")).expect("written");
        assert_eq!(recorded(&files), Some(record.clone()));
        let other = Record { start_time: record.start_time + 1, ..record };
        write_private(&files.pid, &serde_json::to_string(&other).expect("serialises")).expect("written");
        assert_eq!(recorded(&files), None);
    }

    #[test]
    fn the_tail_is_the_end() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = dir.path().join("log");
        let text: Vec<String> = (0..2000).map(|nth| format!("line {nth}")).collect();
        std::fs::write(&log, text.join("\n")).expect("file");
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 1999"));
    }
}
