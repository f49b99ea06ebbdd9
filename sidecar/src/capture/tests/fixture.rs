//! A PostgreSQL of the test's own, in a folder of its own, reachable by Unix socket only.

use crate::capture::{Handle, Options, start};
use crate::core::entry::Writer;
use crate::pg::connect::Target;
use crate::pg::installed;
use crate::pg::replication;
use howdah_protocol::{Epoch, InstanceId, Lsn, NodeId, settings};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Anything a test waits for takes less than this, on a busy machine too.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
pub(super) const WRITER: Writer = Writer { node: NodeId(1), instance: InstanceId(2), epoch: Epoch(3) };

pub(super) struct Postgres {
    folder: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

impl Postgres {
    pub(super) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A new server with a publication, a table `t (id int primary key, note text)`, and further settings.
    pub(super) async fn start_with(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("howdah-pg-").tempdir().expect("a temporary folder");
        let port = settings.iter().find_map(|line| line.strip_prefix("port=")).map_or(5432, |port| port.parse().expect("a port"));
        if let Some((uid, gid)) = unprivileged() {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).expect("the folder is ours");
        }
        let mut this = Self { folder, port, server: None };
        let mut initdb = this.program("initdb");
        initdb.args(["--no-sync", "-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "trust", "-D"]).arg(this.data());
        let made = initdb.output().expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let fixed = [
            "listen_addresses=''",
            "wal_level=logical",
            "max_prepared_transactions=10",
            "synchronous_standby_names='howdah'",
            "max_connections=60",
            "shared_buffers=256MB",
            "max_wal_size=4GB",
            "autovacuum=off",
        ];
        let path = this.data().join("postgresql.conf");
        let mut config = std::fs::read_to_string(&path).expect("initdb wrote it");
        for line in fixed.iter().chain(settings) {
            config.push_str(line);
            config.push('\n');
        }
        std::fs::write(&path, config).expect("the folder is ours");
        this.restart().await;
        let schema = format!(
            "CREATE SCHEMA howdah; CREATE TABLE howdah.progress (id int PRIMARY KEY);
             CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION {} FOR ALL TABLES",
            settings::PUBLICATION
        );
        this.local().await.batch_execute(&schema).await.expect("the schema");
        this
    }

    /// Starts the server that does not run.
    pub(super) async fn restart(&mut self) {
        assert!(self.server.is_none(), "it runs");
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        let mut server = self.program("postgres");
        server.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        server.stdout(Stdio::null()).stderr(log).process_group(0);
        self.server = Some(server.spawn().expect("postgres starts"));
        until("PostgreSQL takes connections", async || self.target().connect("fixture", "").await.is_ok()).await;
    }

    /// Ends the server as a crash does: nothing is written, nobody is waited for.
    pub(super) fn crash(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = self.program("pg_ctl").args(["stop", "-s", "-m", "immediate", "-D"]).arg(self.data()).status();
            let _ = server.wait();
        }
    }

    pub(super) fn target(&self) -> Target {
        Target {
            host: self.folder.path().to_owned(),
            port: self.port,
            user: "postgres".to_owned(),
            password: None,
            database: "postgres".to_owned(),
        }
    }

    /// A client: its COMMITs wait for the gate.
    pub(super) async fn client(&self) -> Client {
        self.target().connect("client", "-c synchronous_commit=on").await.expect("a session")
    }

    /// A session whose COMMITs wait for nobody.
    pub(super) async fn local(&self) -> Client {
        self.target().connect("local", "").await.expect("a session")
    }

    pub(super) fn options(&self) -> Options {
        let mut options = Options::new(self.target(), WRITER, Lsn(0));
        // A line of several, whatever is fastest: the order among them is what is tested.
        options.limits.proposals_in_flight_max = 4;
        options
    }

    /// Makes the slot and attaches a gate.
    pub(super) async fn gate(&self, log: &super::log::Log) -> Handle {
        replication::create_slot(&self.target(), settings::SLOT).await.expect("a slot");
        let handle = start(self.options(), log.clone());
        handle.attached().await.expect("attached");
        handle
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(installed::programs().join(name));
        command.current_dir(self.folder.path());
        if let Some((uid, gid)) = unprivileged() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let from = log.len().saturating_sub(4_000);
            eprintln!("the server's log ended with:\n{}", log.get(from..).unwrap_or_default());
        }
        self.crash();
    }
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package makes.
fn unprivileged() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self").expect("Linux").uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("Linux");
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("the user that PostgreSQL's package makes");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().expect("a number"));
    fields.next().zip(fields.next())
}

/// Waits until the condition holds; fails the test when it does not in time.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The number of sessions that wait for the gate.
pub(super) async fn waiting(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    client.query_one(sql, &[]).await.expect("a count").get(0)
}
