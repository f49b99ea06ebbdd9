//! A PostgreSQL that is somebody else's: checked, and used where it is fit. And processes that are started wrongly.

use anyhow::{Context, Result, ensure};
use howdah_ctl::cluster::{Binaries, free_port};
use howdah_ctl::{admin, postgres};
use howdah_protocol::NodeId;
use howdah_protocol::admin::{AddMember, MemberState, Role};
use howdah_tests::{PATIENCE, connect, eventually, show};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const SECRET: &str = "0123456789abcdef";
const FIT: &str = "wal_level = logical\nmax_prepared_transactions = 10\nsynchronous_standby_names = 'howdah'\n";

/// A Postgres that nobody manages but this test.
struct Server {
    folder: TempDir,
    port: u16,
    bin_dir: PathBuf,
}

impl Server {
    fn start(conf: &str) -> Result<Self> {
        let server = Self { folder: howdah_tests::folder()?, port: free_port()?, bin_dir: postgres::bin_dir()? };
        if let Some(account) = postgres::account(postgres::OS_USER)? {
            chown(server.folder.path(), Some(account.uid), Some(account.gid))?;
        }
        let data = server.data();
        server.run("initdb", &["-D", path(&data), "-U", "boss", "-A", "trust", "-E", "UTF8", "--no-sync"])?;
        let settings = format!(
            "{conf}port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n",
            server.port,
            server.folder.path().display()
        );
        let file = data.join("postgresql.conf");
        std::fs::write(&file, std::fs::read_to_string(&file)? + &settings)?;
        server.run("pg_ctl", &["start", "-w", "-D", path(&data), "-l", path(&server.folder.path().join("log"))])?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(postgres::program(&self.bin_dir, program));
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(account) = postgres::account(postgres::OS_USER)? {
            command.uid(account.uid).gid(account.gid);
        }
        ensure!(command.status()?.success(), "{program} failed");
        Ok(())
    }

    /// A sidecar's configuration for a PostgreSQL of its own, which joins as node 2.
    fn joining(&self, folder: &Path, admin: u16, sql: u16) -> Result<PathBuf> {
        let (bin_dir, folder) = (self.bin_dir.display(), folder.display());
        let text = format!(
            "cluster = 'attached'\nnode = 2\njoin = true\ndata_dir = '{folder}/two'\nadmin_listen = '127.0.0.1:{admin}'\n\
             secret = '0123456789abcdef'\npeers = [{{ node = 2, admin = '127.0.0.1:{admin}', sql = '127.0.0.1:{sql}' }}]\n\
             [postgres]\nmode = 'managed'\nbin_dir = '{bin_dir}'\nlisten = '127.0.0.1:{sql}'\nsocket_dir = '{folder}/socket'\n\
             database = 'postgres'\nsuperuser = 'boss'\napp_role = 'app'\napp_password = 'app'\nproxy_password = 'p'\n"
        );
        let file = PathBuf::from(format!("{folder}/two.toml"));
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// A sidecar's configuration for this server, as the only node of its cluster.
    fn config(&self, folder: &Path, admin: u16) -> Result<PathBuf> {
        let (bin_dir, socket_dir, port) = (self.bin_dir.display(), self.folder.path().display(), self.port);
        let text = format!(
            "cluster = 'attached'\nnode = 1\ndata_dir = '{}'\nadmin_listen = '127.0.0.1:{admin}'\nsecret = '0123456789abcdef'\n\
             peers = [{{ node = 1, admin = '127.0.0.1:{admin}', sql = '127.0.0.1:{port}' }}]\n\
             [postgres]\nmode = 'attached'\nbin_dir = '{bin_dir}'\nlisten = '127.0.0.1:{port}'\nsocket_dir = '{socket_dir}'\n\
             database = 'postgres'\nsuperuser = 'boss'\napp_role = 'app'\napp_password = 'app'\nproxy_password = 'p'\n",
            folder.join("sidecar").display()
        );
        let file = folder.join("sidecar.toml");
        std::fs::write(&file, text)?;
        Ok(file)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.run("pg_ctl", &["stop", "-m", "immediate", "-D", path(&self.data())]) {
            eprintln!("{error}");
        }
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are ASCII")
}

fn sidecar(config: &Path) -> Result<tokio::process::Command> {
    let mut command = tokio::process::Command::new(Binaries::find()?.sidecar);
    command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

async fn fails(config: &Path) -> Result<String> {
    let output: Output = tokio::time::timeout(PATIENCE, sidecar(config)?.output()).await.context("the sidecar neither runs nor ends")??;
    ensure!(!output.status.success(), "the sidecar took it");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misconfigured_server_is_refused_with_what_to_set() -> Result<()> {
    let (server, folder) = (Server::start("")?, howdah_tests::folder()?);
    let said = fails(&server.config(folder.path(), free_port()?)?).await?;
    for expected in ["set wal_level = logical", "set synchronous_standby_names = 'howdah'", "max_prepared_transactions is 0"] {
        ensure!(said.contains(expected), "no `{expected}` in\n{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fit_server_becomes_a_cluster_of_one() -> Result<()> {
    let (server, folder, port) = (Server::start(FIT)?, howdah_tests::folder()?, free_port()?);
    let config = server.config(folder.path(), port)?;
    let mut running = sidecar(&config)?.stderr(Stdio::inherit()).spawn()?;
    let address = format!("127.0.0.1:{port}");
    let is_open = async || Ok(admin::status(&address).await.ok());
    eventually("the node open as leader", is_open, |status| status.as_ref().is_some_and(|node| node.open && node.role == Role::Leader))
        .await?;
    let client = connect(&format!("postgresql://boss@127.0.0.1:{}/postgres", server.port)).await?;
    client.batch_execute("CREATE SCHEMA mine; CREATE TABLE mine.t (id int PRIMARY KEY); INSERT INTO mine.t VALUES (1)").await?;
    assert_eq!(show(&client, "SELECT count(*) FROM mine.t").await?, "1");

    // A second sidecar on the same port, and one in the same folder.
    let said = fails(&config).await?;
    assert!(said.contains("admin_listen"), "{said}");
    let other_port = folder.path().join("other.toml");
    std::fs::write(&other_port, std::fs::read_to_string(&config)?.replace(&format!(":{port}'"), &format!(":{}'", free_port()?)))?;
    let said = fails(&other_port).await?;
    assert!(said.contains("in use"), "{said}");

    // A sidecar of another cluster, in a folder of its own: the database is not its, and stays as it is.
    let passwords = "SELECT md5(string_agg(rolname || coalesce(rolpassword, ''), ',' ORDER BY rolname)) FROM pg_authid";
    let before = show(&client, passwords).await?;
    let stranger = folder.path().join("stranger.toml");
    let text =
        std::fs::read_to_string(&other_port)?.replace("'attached'", "'stranger'").replace("proxy_password = 'p'", "proxy_password = 'x'");
    // The mode is the same word.
    let text = text.replace("mode = 'stranger'", "mode = 'attached'").replace("/sidecar'", "/stranger'");
    std::fs::write(&stranger, text)?;
    let said = fails(&stranger).await?;
    assert!(said.contains("belongs to node 1 of cluster \"attached\""), "{said}");
    assert_eq!(show(&client, passwords).await?, before, "a stranger's password was set");
    assert!(!folder.path().join("stranger/raft").exists(), "a log was begun");

    // Without its sidecar nobody confirms commits, and none returns.
    running.kill().await?;
    let waiting = client.batch_execute("INSERT INTO mine.t VALUES (2)");
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err(), "a commit without a gate");
    Ok(())
}

/// Tables with and without a key, and what rests on them, from before there was a Howdah.
const BEFORE: &str = "
    SET synchronous_commit = local;
    CREATE SCHEMA old;
    CREATE TABLE old.t (id serial PRIMARY KEY, note text UNIQUE);
    INSERT INTO old.t (note) SELECT 'note ' || i FROM generate_series(1, 5000) i;
    CREATE TABLE old.keyless (a int, b text);
    INSERT INTO old.keyless SELECT i % 10, 'b' FROM generate_series(1, 100) i;";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_data_becomes_the_first_node_and_fills_the_second() -> Result<()> {
    let (server, folder) = (Server::start(FIT)?, howdah_tests::folder()?);
    let url = format!("postgresql://boss@127.0.0.1:{}/postgres", server.port);
    connect(&url).await?.batch_execute(BEFORE).await?;
    let (one, two, sql) = (free_port()?, free_port()?, free_port()?);
    let _first = sidecar(&server.config(folder.path(), one)?)?.stderr(Stdio::inherit()).spawn()?;
    let (first, second) = (format!("127.0.0.1:{one}"), format!("127.0.0.1:{two}"));
    let leads = async || Ok(admin::status(&first).await.is_ok_and(|node| node.open && node.role == Role::Leader));
    eventually("the first node open as leader", leads, |leads| *leads).await?;

    let mut joining = sidecar(&server.joining(folder.path(), two, sql)?)?.stderr(Stdio::inherit()).spawn()?;
    eventually("the second sidecar's answer", async || Ok(admin::status(&second).await.is_ok()), |answers| *answers).await?;
    let new = AddMember { node: NodeId(2), admin: second.clone(), sql: format!("127.0.0.1:{sql}") };
    let step = async || Ok(admin::add_member(&first, SECRET, &new).await.map(|step| step.state).map_err(|error| error.to_string()));
    let voted = eventually("the second node's vote", step, |state| *state == Ok(MemberState::Voter)).await?;
    ensure!(voted.is_ok(), "{voted:?}");

    // What was there before, and what is written now, in a table without a key too.
    let client = connect(&url).await?;
    client.batch_execute("UPDATE old.keyless SET b = 'changed' WHERE a = 3; INSERT INTO old.t (note) VALUES ('new')").await?;
    let index = admin::committed(&first).await?.index;
    let (here, there) = (admin::checksum(&first, SECRET, index).await?, admin::checksum(&second, SECRET, index).await?);
    assert_eq!(here.tables.get("old.t").map(|table| table.rows), Some(5001));
    assert_eq!(here.tables.get("old.keyless").map(|table| table.rows), Some(100));
    assert_eq!(there.tables, here.tables);

    // SIGTERM: its PostgreSQL goes with it.
    let pid = joining.id().context("it runs")?.to_string();
    ensure!(Command::new("kill").arg(&pid).status()?.success(), "no SIGTERM");
    ensure!(tokio::time::timeout(PATIENCE, joining.wait()).await??.success(), "it did not end well");
    Ok(())
}
