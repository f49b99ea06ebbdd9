//! pgbench's own tables, made by pgbench itself.

use crate::postgres;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Half an hour: scale 1000 on a slow disk.
const INIT_TIMEOUT: Duration = Duration::from_secs(1800);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}; it comes with PostgreSQL (Debian: postgresql-15)", .program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("pgbench -i did not end within {} s", INIT_TIMEOUT.as_secs())]
    TimedOut,
    #[error("pgbench -i failed ({how}):\n{said}")]
    Failed { how: String, said: String },
}

/// `pgbench -i -s SCALE` on the database behind `url`.
pub async fn init(bin_dir: &Path, url: &str, scale: u32) -> Result<(), Error> {
    let program = postgres::program(bin_dir, "pgbench");
    let mut command = Command::new(&program);
    command.args(["--initialize", "--quiet", "--scale", &scale.to_string(), url]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(INIT_TIMEOUT, command.output()).await {
        Ok(output) => output.map_err(|source| Error::Start { program, source })?,
        Err(_) => return Err(Error::TimedOut),
    };
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Failed { how: output.status.to_string(), said: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}
