//! Where PostgreSQL's programs are, and whom they run as.
//!
//! Debian keeps the server programs out of the PATH, one folder per major version, and Postgres refuses to run as root: both are known here
//! and nowhere else.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest major version that Howdah takes.
pub const MAJOR_MIN: u32 = 15;
/// Overrides the search.
pub const BIN_DIR_VARIABLE: &str = "HOWDAH_PG_BIN_DIR";
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";
/// The user that Postgres runs as when this process is root.
pub const OS_USER: &str = "postgres";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no PostgreSQL {MAJOR_MIN} or newer was found (looked for {DEBIAN_ROOT}/*/bin and pg_config); run `make deps`, or set {BIN_DIR_VARIABLE} to the folder of `initdb` and `postgres`"
    )]
    NotFound,
    #[error("{BIN_DIR_VARIABLE} is {}, but there is no `{program}` in it", .dir.display())]
    WrongFolder { dir: PathBuf, program: &'static str },
    #[error(
        "there is no user `{0}`, and PostgreSQL does not run as root; install PostgreSQL (its package makes the user) or run as another user"
    )]
    NoUser(String),
}

/// Folder of `initdb`, `postgres` and `pgbench`: the variable, else the newest Debian one, else what `pg_config` says.
pub fn bin_dir() -> Result<PathBuf, Error> {
    if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE).map(PathBuf::from) {
        return match ["initdb", "postgres"].into_iter().find(|program| !dir.join(program).exists()) {
            Some(program) => Err(Error::WrongFolder { dir, program }),
            None => Ok(dir),
        };
    }
    newest(Path::new(DEBIAN_ROOT)).or_else(from_pg_config).ok_or(Error::NotFound)
}

fn newest(root: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(root).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut versions: Vec<u32> = versions.filter(|major| *major >= MAJOR_MIN).collect();
    versions.sort_unstable();
    versions.into_iter().rev().map(|major| root.join(major.to_string()).join("bin")).find(|bin| bin.join("postgres").exists())
}

fn from_pg_config() -> Option<PathBuf> {
    let run = |argument: &str| {
        let output = Command::new("pg_config").arg(argument).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let major: u32 = run("--version")?.split_whitespace().nth(1)?.split('.').next()?.parse().ok()?;
    let bin = PathBuf::from(run("--bindir")?);
    (major >= MAJOR_MIN && bin.join("postgres").exists()).then_some(bin)
}

/// Client programs (`pgbench`, `psql`) live beside the server's or in the PATH.
#[must_use]
pub fn program(bin_dir: &Path, name: &str) -> PathBuf {
    let beside = bin_dir.join(name);
    if beside.exists() { beside } else { PathBuf::from(name) }
}

/// Whom Postgres runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

/// The account to drop to, `None` when this process is not root and Postgres may run as itself.
pub fn account(os_user: &str) -> Result<Option<Account>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    // `id` asks the name service as the system is set up to; /etc/passwd would only be one of its sources.
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, os_user]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    match (id("-u"), id("-g")) {
        (Some(uid), Some(gid)) => Ok(Some(Account { uid, gid })),
        _ => Err(Error::NoUser(os_user.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_is_installed_and_new_enough_wins() {
        let root = tempfile::tempdir().expect("temporary folder");
        for (major, installed) in [("9", true), ("14", true), ("15", true), ("16", true), ("17", false), ("common", true)] {
            let bin = root.path().join(major).join("bin");
            std::fs::create_dir_all(&bin).expect("folder");
            if installed {
                std::fs::write(bin.join("postgres"), "").expect("file");
            }
        }
        assert_eq!(newest(root.path()), Some(root.path().join("16/bin")));
        assert_eq!(newest(&root.path().join("none")), None);
    }

    #[test]
    fn an_unknown_user_is_an_error_that_says_what_to_do() {
        if rustix::process::geteuid().is_root() {
            let error = account("no-such-user-here").expect_err("unknown user");
            assert!(error.to_string().contains("install PostgreSQL"), "{error}");
        }
    }
}
