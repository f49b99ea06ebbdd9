//! A throw-away Postgres: its own folder, a Unix socket only, gone with the value.

use crate::pg::connect::Target;
use crate::pg::installed;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const CONFIG: &str = "
listen_addresses = ''
wal_level = logical
max_wal_senders = 4
max_replication_slots = 4
shared_buffers = 64MB
fsync = off
max_prepared_transactions = 4
autovacuum = off
deadlock_timeout = 100ms
lc_monetary = 'C'
";

#[derive(Debug)]
pub(crate) struct Server {
    dir: PathBuf,
    _template: Arc<Template>,
}

/// Postgres does not run as root: then it is the user `postgres`.
fn owner() -> Option<(u32, u32)> {
    static OWNER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *OWNER.get_or_init(|| {
        let id = String::from_utf8(Command::new("id").arg("-u").output().expect("id runs").stdout).unwrap();
        if id.trim() != "0" {
            return None;
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("root needs the user postgres for tests");
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
    })
}

fn program(name: &str) -> PathBuf {
    installed::programs().join(name)
}

fn run(program_path: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program_path);
    command.args(arguments).current_dir("/").env("LC_ALL", "C.UTF-8");
    if let Some((uid, gid)) = owner() {
        command.uid(uid).gid(gid);
    }
    command.output().unwrap_or_else(|error| panic!("{}: {error}", program_path.display()))
}

fn run_well(program_path: &Path, arguments: &[&str]) {
    let output = run(program_path, arguments);
    assert!(output.status.success(), "{} {arguments:?}: {output:?}", program_path.display());
}

fn fresh_dir(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("howdah-apply-{}-{serial}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    if let Some((uid, gid)) = owner() {
        chown(&dir, Some(uid), Some(gid)).unwrap();
    }
    dir
}

/// A data folder that servers are copies of, so that initdb runs about once per test process. Lives while a server does.
#[derive(Debug)]
struct Template(PathBuf);

impl Template {
    fn get() -> Arc<Self> {
        static CURRENT: Mutex<Weak<Template>> = Mutex::new(Weak::new());
        let mut current = CURRENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        current.upgrade().unwrap_or_else(|| {
            let template = Arc::new(Self(fresh_dir("template")));
            let data = template.0.join("data");
            run_well(
                &program("initdb"),
                &["-D", data.to_str().unwrap(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
            );
            *current = Arc::downgrade(&template);
            template
        })
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Server {
    pub(crate) fn start(name: &str, more: &str) -> Self {
        let dir = fresh_dir(name);
        let data = dir.join("data");
        let template = Template::get();
        run_well(Path::new("/bin/cp"), &["-r", template.0.join("data").to_str().unwrap(), data.to_str().unwrap()]);
        let config = format!("{CONFIG}\nunix_socket_directories = '{}'\n{more}\n", dir.display());
        std::fs::write(data.join("postgresql.auto.conf"), config).unwrap();
        let server = Self { dir, _template: template };
        server.launch();
        server
    }

    fn launch(&self) {
        let (data, log) = (self.dir.join("data"), self.dir.join("log"));
        run_well(&program("pg_ctl"), &["-D", data.to_str().unwrap(), "-l", log.to_str().unwrap(), "-w", "-t", "60", "start"]);
    }

    pub(crate) fn target(&self) -> Target {
        Target { host: self.dir.clone(), port: 5432, user: "postgres".into(), password: None, database: "postgres".into() }
    }

    pub(crate) async fn client(&self) -> Client {
        // The same text form on both sides, also for what is compared.
        const SETTINGS: &str = "-c datestyle=ISO,YMD -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex";
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.target().connect("test", SETTINGS).await {
                Ok(client) => return client,
                // A server that is in crash recovery comes back.
                Err(error) if Instant::now() > deadline => panic!("{error}\n{}", self.log()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Runs a client program against this server.
    pub(crate) fn client_program(&self, name: &str, arguments: &[&str]) {
        let socket = self.dir.to_str().unwrap();
        let connection = ["-h", socket, "-U", "postgres", "postgres"];
        run_well(&program(name), &[arguments, &connection].concat());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// SIGKILL to a server process: all backends go down and the server recovers from its WAL. Returns once the server has noticed:
    /// a client that connects before that is thrown out again.
    pub(crate) async fn kill(&self, pid: i32) {
        let died = format!("(PID {pid}) was terminated by signal 9");
        run_well(Path::new("/bin/kill"), &["-9", &pid.to_string()]);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.log().contains(&died) {
            assert!(Instant::now() < deadline, "the server notices that {pid} died: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        run(&program("pg_ctl"), &["-D", self.dir.join("data").to_str().unwrap(), "-m", "immediate", "-w", "stop"]);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
