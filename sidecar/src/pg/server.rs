//! A managed Postgres: initdb, start, watch, stop.
//!
//! Invariants: Postgres starts closed (the files are written before), and never restarts by itself (`restart_after_crash = off`), so that
//! every start goes through the sidecar. Postgres refuses to run as root; then it runs as `os_user`.

use crate::config::Config;
use crate::pg::access::{self, Access};
use crate::pg::connect::Target;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
const START_POLL: Duration = Duration::from_millis(20);
/// For each way of stopping.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How much of the server's log goes into an error.
const LOG_TAIL_BYTES: u64 = 2_000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source} (postgres.bin_dir must hold PostgreSQL's programs)")]
    Run { program: String, source: io::Error },
    #[error("{program} failed: {output}")]
    Failed { program: String, output: String },
    #[error("{program} did not end within {COMMAND_TIMEOUT:?}")]
    TimedOut { program: String },
    #[error("no user {0} on this system: PostgreSQL will not run as root; create the user or set postgres.os_user")]
    NoSuchUser(String),
    #[error("PostgreSQL did not start: {0}")]
    Start(String),
    #[error("the PostgreSQL of {} heeds no signal: end it by hand", .0.display())]
    Stop(PathBuf),
    #[error("the access change did not take effect: {0}")]
    Access(io::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Connect(#[from] crate::pg::connect::Error),
}

#[derive(Debug, Clone, Copy)]
pub enum Shutdown {
    /// Ends sessions, writes a checkpoint.
    Fast,
    /// As a crash: what waits at the gate does not become visible before the next start.
    Immediate,
}

/// A managed Postgres and, while it runs, its process.
#[derive(Debug)]
pub struct Server {
    config: Config,
    run_as: Option<(u32, u32)>,
    child: Option<Child>,
}

impl Server {
    pub async fn new(config: &Config) -> Result<Self, Error> {
        let owner = fs::metadata("/proc/self").map_err(|source| Error::File { path: "/proc/self".into(), source })?;
        let run_as = if owner.uid() == 0 { Some(find_user(&config.postgres.os_user).await?) } else { None };
        Ok(Self { config: config.clone(), run_as, child: None })
    }

    #[must_use]
    pub fn target(config: &Config) -> Target {
        Target {
            host: config.postgres.socket_dir.clone(),
            port: config.postgres.listen.port(),
            user: config.postgres.superuser.clone(),
            password: config.postgres.superuser_password.clone(),
            database: config.postgres.database.clone(),
        }
    }

    /// What `postgres --version` says.
    pub(crate) async fn version(&self) -> Result<String, Error> {
        let program = || "postgres".to_owned();
        let output = self.command("postgres").arg("--version").kill_on_drop(true).output();
        let output = tokio::time::timeout(COMMAND_TIMEOUT, output).await.map_err(|_| Error::TimedOut { program: program() })?;
        let output = output.map_err(|source| Error::Run { program: program(), source })?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Makes the data directory if there is none.
    pub async fn init(&self) -> Result<(), Error> {
        let data = self.config.pg_data();
        self.own_dir(&self.config.postgres.socket_dir)?;
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        // initdb into a side folder: a crash in the middle leaves no half-made data directory behind.
        let fresh = data.with_extension("new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(|source| Error::File { path: fresh.clone(), source })?;
        }
        self.own_dir(&fresh)?;
        let mut initdb = self.command("initdb");
        initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions"]);
        initdb.arg("--username").arg(&self.config.postgres.superuser).arg("--pgdata").arg(&fresh);
        run("initdb", initdb).await?;
        let conf = fresh.join("postgresql.conf");
        let text = fs::read_to_string(&conf).map_err(|source| Error::File { path: conf.clone(), source })?;
        fs::write(&conf, text + &self.conf()).map_err(|source| Error::File { path: conf, source })?;
        fs::rename(&fresh, &data).map_err(|source| Error::File { path: data, source })
    }

    fn conf(&self) -> String {
        let mut text =
            String::from("\n# Howdah\nmax_prepared_transactions = 100\nmax_connections = 200\npassword_encryption = 'scram-sha-256'\n");
        for (name, value) in &self.config.postgres.settings {
            text += &format!("{name} = '{}'\n", value.replace('\'', "''"));
        }
        text + "include 'howdah.conf'\n"
    }

    /// Starts Postgres, closed, and returns when it answers. One that an earlier sidecar left behind is stopped first, at once: what waits at its gate
    /// must not be shown to sessions that end a moment later.
    pub async fn start(&mut self) -> Result<(), Error> {
        let data = self.config.pg_data();
        if data.join("postmaster.pid").exists() {
            self.stop(Shutdown::Immediate).await?;
        }
        let postgres = &self.config.postgres;
        access::write_files(&data, Access::Closed, &postgres.database, &postgres.superuser)
            .map_err(|source| Error::File { path: data.clone(), source })?;
        let deadline = Instant::now() + Duration::from_millis(self.config.timing.start_ms);
        loop {
            self.spawn()?;
            match self.wait_ready(deadline).await {
                // After kill -9 of a postmaster its children hold the shared memory for a moment, and PostgreSQL takes it for alive until it is collected.
                Err(Error::Start(tail)) if (tail.contains("shared memory block") || names_the_dead(&tail)) && Instant::now() < deadline => {
                    tokio::time::sleep(START_POLL * 5).await;
                }
                other => return other,
            }
        }
    }

    fn spawn(&mut self) -> Result<(), Error> {
        let log = self.log_path();
        let file = File::create(&log).map_err(|source| Error::File { path: log.clone(), source })?;
        let errors = file.try_clone().map_err(|source| Error::File { path: log, source })?;
        let postgres = &self.config.postgres;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.config.pg_data());
        let fixed = [
            ("wal_level", "logical".to_owned()),
            ("synchronous_standby_names", howdah_protocol::settings::GATE_APPLICATION_NAME.to_owned()),
            ("synchronous_commit", "on".to_owned()),
            ("restart_after_crash", "off".to_owned()),
            ("fsync", "on".to_owned()),
            ("full_page_writes", "on".to_owned()),
            ("listen_addresses", postgres.listen.ip().to_string()),
            ("port", postgres.listen.port().to_string()),
            ("unix_socket_directories", postgres.socket_dir.display().to_string()),
            ("unix_socket_permissions", "0700".to_owned()),
        ];
        for (name, value) in fixed {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().map_err(|source| Error::Run { program: "postgres".into(), source })?;
        self.child = Some(child);
        Ok(())
    }

    async fn wait_ready(&mut self, deadline: Instant) -> Result<(), Error> {
        let mut target = Self::target(&self.config);
        target.database = "postgres".to_owned();
        loop {
            let exited = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = exited {
                self.child = None;
                return Err(Error::Start(format!("it ended with {status}; its log says: {}", self.log_tail())));
            }
            match target.connect("howdah-start", "").await {
                Ok(_) => return Ok(()),
                // Begun anew, recovery would begin at its beginning.
                Err(error) if error.is_starting_up() => tokio::time::sleep(START_POLL).await,
                Err(error) if Instant::now() >= deadline => return Err(Error::Start(error.to_string())),
                Err(_) => tokio::time::sleep(START_POLL).await,
            }
        }
    }

    /// Resolves when the server process ends; never while there is none.
    pub async fn ended(&mut self) -> String {
        match self.child.as_mut() {
            Some(child) => {
                let status = child.wait().await;
                self.child = None;
                status.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            None => std::future::pending().await,
        }
    }

    /// On success no server of this data directory runs.
    pub async fn stop(&mut self, how: Shutdown) -> Result<(), Error> {
        let mode = match how {
            Shutdown::Fast => "fast",
            Shutdown::Immediate => "immediate",
        };
        for mode in [mode, "immediate"] {
            if !self.is_running() {
                break;
            }
            let mut pg_ctl = self.command("pg_ctl");
            pg_ctl.arg("stop").arg("-D").arg(self.config.pg_data()).args(["-m", mode, "-W", "-s"]);
            if let Err(error) = run("pg_ctl", pg_ctl).await {
                tracing::debug!(%error, mode, "the signal was not sent");
            }
            if !self.gone_within(STOP_TIMEOUT).await {
                tracing::warn!(mode, "PostgreSQL did not stop in time");
            }
        }
        if let Some(mut child) = self.child.take()
            && tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err()
        {
            tracing::warn!("PostgreSQL heeded no signal and is killed");
            child.kill().await.map_err(|source| Error::Run { program: "postgres".into(), source })?;
        }
        if self.is_running() { Err(Error::Stop(self.config.pg_data())) } else { Ok(()) }
    }

    /// `pg_ctl` would wait for a server that was killed and whose exit status nobody has collected yet.
    async fn gone_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(START_POLL).await;
        }
        true
    }

    /// A server that was killed leaves its file with its process id behind, and this id may be another's by now.
    fn is_running(&self) -> bool {
        let data = self.config.pg_data();
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        file.lines().next().and_then(|line| line.parse().ok()).is_some_and(|pid| serves(pid, &data))
    }

    /// Opens or closes the server to clients, and returns when it is so. Closing does not end the sessions that are there.
    pub async fn set_access(&self, was: Access, access: Access, session: &tokio_postgres::Client) -> Result<(), Error> {
        let (data, postgres) = (self.config.pg_data(), &self.config.postgres);
        access::write_files(&data, access, &postgres.database, &postgres.superuser).map_err(|source| Error::File { path: data, source })?;
        session.batch_execute("SELECT pg_catalog.pg_reload_conf()").await?;
        let open = access != Access::Closed;
        if open == (was != Access::Closed) {
            return Ok(());
        }
        access::wait_until(open, postgres.listen, howdah_protocol::settings::PROXY_ROLE, &postgres.database).await.map_err(Error::Access)
    }

    /// Removes the data directory: the node is to be seeded again. Only while stopped.
    pub fn wipe(&self) -> Result<(), Error> {
        let data = self.config.pg_data();
        if data.exists() {
            fs::remove_dir_all(&data).map_err(|source| Error::File { path: data, source })?;
        }
        Ok(())
    }

    /// A command of Postgres' own, as the user that owns the data directory.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = std::process::Command::new(self.config.postgres.bin_dir.join(program));
        command.current_dir("/").env("LC_ALL", "C.UTF-8").process_group(0);
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command.into()
    }

    fn own_dir(&self, path: &std::path::Path) -> Result<(), Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        if let Some((uid, gid)) = self.run_as {
            chown(path, Some(uid), Some(gid)).map_err(failed)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
    }

    fn log_path(&self) -> PathBuf {
        self.config.data_dir.join("postgres.log")
    }

    fn log_tail(&self) -> String {
        use std::io::{Read, Seek, SeekFrom};
        let tail = || -> io::Result<String> {
            let mut file = File::open(self.log_path())?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        tail().unwrap_or_else(|error| error.to_string())
    }
}

/// The name of the process that lives under this id.
fn living(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state ...", and a name may hold anything.
    let (name, state) = stat.rsplit_once(") ")?;
    let (_, name) = name.split_once('(')?;
    (!state.starts_with(['Z', 'X'])).then(|| name.to_owned())
}

/// The server did not start because of the lock file of one that is dead.
fn names_the_dead(said: &str) -> bool {
    let named = said.split_once("Is another postmaster (PID ").and_then(|(_, rest)| rest.split_once(')'));
    named.and_then(|(pid, _)| pid.parse().ok()).is_some_and(|pid| living(pid).is_none_or(|name| name != "postgres"))
}

/// The process lives and is the server of this data directory. Where it may not be asked for its directory (another user's, in a container), its name has to do.
fn serves(pid: u32, data: &Path) -> bool {
    let Some(name) = living(pid) else { return false };
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(cwd) => fs::canonicalize(data).is_ok_and(|data| data == cwd),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied && name == "postgres",
    }
}

pub(crate) async fn run(program: &str, mut command: Command) -> Result<(), Error> {
    let output = tokio::time::timeout(COMMAND_TIMEOUT, command.kill_on_drop(true).output())
        .await
        .map_err(|_| Error::TimedOut { program: program.to_owned() })?
        .map_err(|source| Error::Run { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Failed { program: program.to_owned(), output })
}

async fn find_user(name: &str) -> Result<(u32, u32), Error> {
    let ask = async |flag: &str| {
        let output = Command::new("id").args([flag, "--", name]).output().await;
        output.ok().and_then(|output| String::from_utf8_lossy(&output.stdout).trim().parse().ok())
    };
    match (ask("-u").await, ask("-g").await) {
        (Some(uid), Some(gid)) if uid != 0 => Ok((uid, gid)),
        _ => Err(Error::NoSuchUser(name.to_owned())),
    }
}

/// As [`run`], without a bound: a restore takes as long as the data is large. Cancelling the future ends the program.
pub(crate) async fn run_long(program: &str, mut command: Command) -> Result<(), Error> {
    let output = command.kill_on_drop(true).output().await.map_err(|source| Error::Run { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Failed { program: program.to_owned(), output: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

#[cfg(test)]
mod tests;
