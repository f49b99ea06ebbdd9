//! Slow disks, and logs that take no more: a shim between each node and the C library (`shim.c`), which looks at an order at every fsync.

use crate::folder;
use anyhow::{Context, Result, ensure};
use howdah_ctl::cluster::{Cluster, Options};
use howdah_protocol::NodeId;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/disk/shim.c");

/// The shim, built. The processes of the cluster read it, so it goes after them.
#[derive(Debug)]
pub struct Shim {
    folder: TempDir,
}

/// Which of a node's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Log,
    Postgres,
    Both,
}

/// How a node's disks are to behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Every fsync takes so long.
    Slow { ms: u64, disk: Disk },
    /// No write to the log succeeds.
    LogFull,
}

/// How often the shim did what it was told to, by disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Struck {
    pub log: usize,
    pub postgres: usize,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::Postgres => "postgres",
            Self::Both => "both",
        })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { ms, disk } => write!(f, "slow {ms} {disk}"),
            Self::LogFull => f.write_str("full"),
        }
    }
}

impl Struck {
    /// Every disk that was meant felt it.
    #[must_use]
    pub fn covers(self, disk: Disk) -> bool {
        (disk == Disk::Postgres || self.log > 0) && (disk == Disk::Log || self.postgres > 0)
    }
}

impl Shim {
    /// Why none can be built here, if so.
    #[must_use]
    pub fn why_not() -> Option<String> {
        Command::new("cc").arg("--version").output().err().map(|error| format!("no C compiler to make a bad disk with: {error}"))
    }

    pub fn build() -> Result<Self> {
        let shim = Self { folder: folder()? };
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(shim.library()).arg(SOURCE).arg("-ldl").output();
        let built = built.context("running cc")?;
        ensure!(built.status.success(), "cc: {}", String::from_utf8_lossy(&built.stderr));
        Ok(shim)
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("disk.so")
    }

    /// Every sidecar of the cluster, and every Postgres that a sidecar starts, will run above the shim.
    pub fn put_under(&self, options: &mut Options) -> Result<()> {
        let (library, sidecar) = (self.library(), &options.binaries.sidecar);
        // Called with: --config DIR/nodeN/sidecar.toml
        let script = format!(
            "#!/bin/sh\nHOWDAH_TEST_DISK=\"$(dirname \"$2\")/disk\" LD_PRELOAD='{}' exec '{}' \"$@\"\n",
            library.display(),
            sidecar.display()
        );
        let wrapper = self.folder.path().join("sidecar");
        fs::write(&wrapper, script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        options.binaries.sidecar = wrapper;
        Ok(())
    }
}

fn order_file(cluster: &Cluster, node: NodeId) -> PathBuf {
    cluster.data().join(format!("node{node}")).join("disk")
}

/// From now on the node's disks behave like this.
pub fn tell(cluster: &Cluster, node: NodeId, order: Order) -> Result<()> {
    let path = order_file(cluster, node);
    // Two users write to it.
    let struck = path.with_extension("struck");
    fs::write(&struck, "")?;
    fs::set_permissions(&struck, fs::Permissions::from_mode(0o666))?;
    // In one step, so that no half of it is obeyed.
    let next = path.with_extension("next");
    fs::write(&next, order.to_string())?;
    fs::rename(&next, &path).with_context(|| path.display().to_string())
}

/// The effect of the node's last order, so far.
pub fn struck(cluster: &Cluster, node: NodeId) -> Struck {
    let notes = fs::read(order_file(cluster, node).with_extension("struck")).unwrap_or_default();
    let count = |letter| notes.iter().filter(|note| **note == letter).count();
    Struck { log: count(b'l'), postgres: count(b'p') }
}

/// The node's disks are well again; so they are where nothing was ordered.
pub fn heal(cluster: &Cluster, node: NodeId) -> Result<()> {
    match fs::remove_file(order_file(cluster, node)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_written_as_the_shim_reads_it() {
        assert_eq!(Order::Slow { ms: 250, disk: Disk::Postgres }.to_string(), "slow 250 postgres");
        assert_eq!(Order::LogFull.to_string(), "full");
    }

    #[test]
    fn each_disk_that_was_meant_must_have_felt_it() {
        let log = Struck { log: 1, postgres: 0 };
        assert!(log.covers(Disk::Log) && !log.covers(Disk::Postgres) && !log.covers(Disk::Both));
        assert!(Struck { log: 1, postgres: 2 }.covers(Disk::Both) && !Struck::default().covers(Disk::Log));
    }
}
