//! A small disk of its own under a folder: a file that is formatted and mounted, so that it can be full while the machine's disk is not.
//!
//! Filling it reserves blocks and writes nothing, so it is done at once, and so is emptying it. The file has no name any more once it is
//! mounted: whatever becomes of the tests, it goes with the mount.

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sparse: the machine's disk holds what is written to it.
const SIZE_BYTES: u64 = 8 << 30;
/// A Postgres has a thousand files for each database.
const FILES: &str = "16384";
/// Less is not worth another step of filling.
const STEP_MIN_BYTES: u64 = 4096;
/// What is tried to be written in proof.
const PROBE_BYTES: usize = 256 << 10;
const BALLAST: &str = "ballast";
const PROBE: &str = "probe";

/// Mounted as long as this lives.
#[derive(Debug)]
pub struct Volume {
    at: PathBuf,
}

impl Volume {
    /// Why none can be mounted here, if so.
    #[must_use]
    pub fn why_not() -> Option<String> {
        let tried = crate::folder().and_then(|folder| Self::mount(folder.path()).map(drop));
        tried.err().map(|error| format!("no disk of its own can be mounted: {error:#}"))
    }

    /// Over an empty folder, which keeps its owner and mode.
    pub fn mount(at: &Path) -> Result<Self> {
        let before = fs::metadata(at).with_context(|| at.display().to_string())?;
        // On the machine's disk, not on the one that it may be mounted on: what is full there would be lost here.
        let image = tempfile::Builder::new().prefix("howdah-test-").suffix(".image").tempfile_in(crate::TEMP)?;
        image.as_file().set_len(SIZE_BYTES)?;
        // What a root user may fill beyond the others is nothing here; and the machine's own file system has a journal.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-N", FILES, "-O", "^has_journal"], &[image.path()])?;
        run("mount", &["-o", "loop"], &[image.path(), at])?;
        let volume = Self { at: at.to_owned() };
        fs::remove_dir(at.join("lost+found"))?;
        fs::set_permissions(at, before.permissions())?;
        std::os::unix::fs::chown(at, Some(before.uid()), Some(before.gid()))?;
        Ok(volume)
    }

    /// Takes what is left of it, to the last block, and proves that nothing more goes in.
    pub fn fill(&self) -> Result<String> {
        let ballast = File::create(self.at.join(BALLAST))?;
        let (mut length, mut step) = (0, self.free()?);
        while step >= STEP_MIN_BYTES {
            match fallocate(&ballast, FallocateFlags::empty(), length, step) {
                Ok(()) => length += step,
                Err(_) => step /= 2,
            }
        }
        let probe = self.at.join(PROBE);
        let tried = File::create(&probe).and_then(|mut file| {
            file.write_all(&vec![1; PROBE_BYTES])?;
            file.sync_all()
        });
        let _ = fs::remove_file(&probe);
        let refused = tried.err().context("it takes more although it was filled")?;
        ensure!(refused.kind() == io::ErrorKind::StorageFull, "another error than that it is full: {refused}");
        Ok(format!("{} MiB taken, then: {refused}", length >> 20))
    }

    /// Gives back what [`Self::fill`] took, where it did.
    pub fn empty(&self) -> Result<()> {
        match fs::remove_file(self.at.join(BALLAST)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn free(&self) -> Result<u64> {
        let found = statvfs(&self.at)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Whoever was killed a moment ago may still have a file open.
        let _ = run("umount", &["-l"], &[self.at.as_path()]);
    }
}

fn run(program: &str, words: &[&str], paths: &[&Path]) -> Result<()> {
    // Tools of the administrator are not on everybody's way.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let done = Command::new(program).env("PATH", path).args(words).args(paths).output().with_context(|| format!("running {program}"))?;
    ensure!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_when_it_says_so_and_well_again_when_it_was_emptied() -> Result<()> {
        if let Some(why) = Volume::why_not() {
            println!("skipped: {why}");
            return Ok(());
        }
        let folder = crate::folder()?;
        let volume = Volume::mount(folder.path())?;
        fs::write(folder.path().join("before"), vec![1; PROBE_BYTES])?;
        for _ in 0..2 {
            println!("{}", volume.fill()?);
            assert!(fs::write(folder.path().join("while"), vec![1; PROBE_BYTES]).is_err());
            volume.empty()?;
            fs::write(folder.path().join("after"), vec![1; PROBE_BYTES])?;
        }
        assert_eq!(fs::read(folder.path().join("before"))?.len(), PROBE_BYTES);
        Ok(())
    }
}
