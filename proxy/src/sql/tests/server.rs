//! A PostgreSQL of a test's own: unix socket only, in a folder that goes away with it.
//!
//! PostgreSQL does not run as root, so a test that does runs it as the system user `postgres`.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    folder: PathBuf,
    owner: Option<(u32, u32)>,
    postmaster: Child,
}

impl Server {
    /// Starts one with these lines in `pg_hba.conf`. Its superuser is `postgres`.
    pub(crate) fn start(hba: &str) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("howdah-sql-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let owner = owner();
        if let Some((uid, gid)) = owner {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let data = folder.join("data");
        expect_success(as_owner("initdb", owner).arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]));
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let postmaster = as_owner("postgres", owner)
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&folder)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "password_encryption=scram-sha-256"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { folder, owner, postmaster };
        server.wait_until_ready();
        server
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    pub(crate) fn psql(&self) -> Command {
        let mut psql = as_owner("psql", self.owner);
        psql.arg("-h").arg(&self.folder).args(["-p", "5432", "-U", "postgres", "-d", "postgres", "-X"]);
        psql
    }

    /// Rows without headers, columns split by `|`.
    pub(crate) fn query(&self, sql: &str) -> String {
        let output = expect_success(self.psql().args(["-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + START_MAX;
        while !self.psql().args(["-c", "SELECT 1"]).output().unwrap().status.success() {
            assert!(Instant::now() < deadline, "PostgreSQL did not start in {START_MAX:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = as_owner("pg_ctl", self.owner).arg("-D").arg(self.folder.join("data")).args(["stop", "-m", "immediate"]).output();
        if !stopped.is_ok_and(|output| output.status.success()) {
            let _ = self.postmaster.kill();
        }
        let _ = self.postmaster.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn expect_success(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn as_owner(program: &str, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(bin().join(program));
    command.current_dir(std::env::temp_dir()).env_remove("PGOPTIONS").env("LC_ALL", "C");
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
}

/// Whom PostgreSQL is to run as, where this process is root.
fn owner() -> Option<(u32, u32)> {
    let id = |args: &[&str]| {
        let output = expect_success(Command::new("id").args(args));
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    let me: u32 = id(&["-u"]);
    (me == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

/// Debian's place, the lowest version first: that is the oldest one that must work. Elsewhere what `pg_config` says.
fn bin() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let lowest = installed
        .filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists())
        .min();
    if let Some((_, bin)) = lowest {
        return bin;
    }
    let output = expect_success(Command::new("pg_config").arg("--bindir"));
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).to_owned()
}
