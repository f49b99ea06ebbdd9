//! The PostgreSQL that tests run against.

use std::path::{Path, PathBuf};

/// Folder of the programs of the newest one, where Debian's packages put it.
pub(crate) fn programs() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed").filter_map(Result::ok);
    let version = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = folders.map(|folder| folder.path()).filter(|path| path.join("bin/postgres").exists()).max_by_key(|path| version(path));
    newest.expect("PostgreSQL is installed").join("bin")
}
