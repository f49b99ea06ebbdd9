//! One owner per folder: an exclusive file lock, with the owner's name in the file for whoever finds it taken.
//!
//! The lock is the kernel's, so a crashed owner never leaves it behind; the text is only for people.

use super::Error;
use super::files::Layout;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

const LOOKS_MAX: u32 = 5;
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: i32,
    purpose: String,
}

impl DirLock {
    pub(crate) fn take(layout: &Layout, purpose: &str) -> Result<Self, Error> {
        let path = layout.lock();
        let io = || Error::io(path.display().to_string());
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(io())?;
        let mut locked = file.try_lock();
        for _ in 0..LOOKS_MAX {
            // `holder` below takes the lock for a blink to see whether it is free.
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(LOOK);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = read(&mut file).unwrap_or(Holder { pid: 0, purpose: "another process".to_owned() });
                return Err(Error::InUse { data: layout.root().to_owned(), holder: holder.purpose, pid: holder.pid });
            }
            Err(TryLockError::Error(source)) => return Err(io()(source)),
        }
        let holder = Holder { pid: rustix::process::getpid().as_raw_nonzero().get(), purpose: purpose.to_owned() };
        let text = serde_json::to_vec(&holder).expect("plain data serialises");
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)
        };
        write().map_err(io())?;
        Ok(Self { _file: file })
    }
}

/// Who holds the lock right now, if anybody does.
pub(crate) fn holder(layout: &Layout) -> Option<(i32, String)> {
    let mut file = OpenOptions::new().read(true).write(true).open(layout.lock()).ok()?;
    match file.try_lock() {
        // Free; the lock that this took goes with the file.
        Ok(()) => None,
        Err(_) => read(&mut file).map(|holder| (holder.pid, holder.purpose)),
    }
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_learns_who_is_first_and_gets_it_afterwards() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let layout = Layout::of(dir.path()).expect("exists");
        assert!(holder(&layout).is_none());
        let first = DirLock::take(&layout, "the first").expect("free");
        let error = DirLock::take(&layout, "the second").expect_err("taken").to_string();
        assert!(error.contains("in use by the first") && error.contains(&std::process::id().to_string()), "{error}");
        assert_eq!(holder(&layout).map(|(_, purpose)| purpose), Some("the first".to_owned()));
        drop(first);
        assert!(holder(&layout).is_none());
        DirLock::take(&layout, "the second").expect("free again");
    }
}
