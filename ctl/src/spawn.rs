//! Starts child processes: those that die with this one, and those that do not.
//!
//! Linux sends the parent-death signal when the *thread* that forked the child ends, not the process. Tokio's worker and blocking threads
//! come and go, so every child is forked by one thread that lives as long as the process does.

use rustix::process::{Pid, Signal};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};

type Job = (Command, SyncSender<io::Result<Child>>);

/// What the kernel tells a child when its parent dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastWord {
    /// SIGTERM: a graceful end.
    Terminate,
    /// SIGINT: for Postgres, whose SIGTERM waits for its clients to leave.
    Interrupt,
}

/// Starts a child that gets `last_word` when this process dies, in whatever way.
pub fn owned(mut command: Command, last_word: LastWord) -> io::Result<Child> {
    // Its own process group: Ctrl-C in a terminal reaches this process only, which then stops the others in order.
    command.process_group(0);
    let parent = rustix::process::getpid();
    let signal = match last_word {
        LastWord::Terminate => Signal::TERM,
        LastWord::Interrupt => Signal::INT,
    };
    #[allow(unsafe_code)]
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe calls are allowed. It makes two
    // raw system calls (prctl, getppid), allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || die_with(parent, signal));
    }
    let (answer, answered) = sync_channel(1);
    let gone = || io::Error::other("the thread that starts processes is gone");
    forker().send((command, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

/// Starts a child that outlives this process.
pub fn detached(mut command: Command) -> io::Result<Child> {
    command.process_group(0).spawn()
}

fn die_with(parent: Pid, signal: Signal) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    // The parent may have died before the line above took effect; then nobody is left to send the signal.
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

fn forker() -> &'static Sender<Job> {
    static FORKER: OnceLock<Sender<Job>> = OnceLock::new();
    FORKER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                // Ends never: the sender is static.
                for (mut command, answer) in jobs {
                    // A caller that went away leaves a child that dies with the process, as all do.
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a process that cannot start one thread cannot run a cluster");
        sender
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let ask = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60");
            owned(command, LastWord::Terminate).expect("sleep starts")
        });
        let mut child = ask.join().expect("asked");
        assert!(child.try_wait().expect("wait").is_none(), "the child died with the thread");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
}
