//! A PostgreSQL of its own, shared by all tests of this binary, gone when the binary is.

use howdah_ctl::cluster::free_port;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

pub const PASSWORD: &str = "secret";
pub const PROXY_PASSWORD: &str = "proxy-secret";
/// The role that tests log in as; it owns the database.
pub const USER: &str = "app";
pub const DATABASE: &str = "appdb";
pub const EPOCH: u64 = 4711;

pub struct Postgres {
    pub port: u16,
    /// With its input held open: the server is stopped when this end is closed, however the tests end.
    _shell: std::process::Child,
    folder: PathBuf,
}

/// Stands in for what the sidecar installs.
const SCHEMA: &str = "
    CREATE ROLE howdah_proxy LOGIN PASSWORD 'proxy-secret';
    CREATE ROLE app LOGIN SUPERUSER PASSWORD 'secret';
    CREATE ROLE \"o'neil\\\" LOGIN PASSWORD 'it''s';
    CREATE ROLE nologin NOLOGIN PASSWORD 'secret';
";
const OBJECTS: &str = "
    CREATE SCHEMA howdah;
    GRANT USAGE ON SCHEMA howdah TO PUBLIC;
    CREATE FUNCTION howdah.serving_epoch() RETURNS bigint LANGUAGE sql AS 'SELECT 4711::bigint';
    CREATE FUNCTION howdah.user_lookup(name text) RETURNS TABLE (verifier text, can_login boolean) LANGUAGE sql SECURITY DEFINER
        AS 'SELECT rolpassword, rolcanlogin FROM pg_authid WHERE rolname = name';
    REVOKE ALL ON FUNCTION howdah.user_lookup(text) FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION howdah.user_lookup(text) TO howdah_proxy;
    CREATE TABLE howdah.captured (at timestamptz DEFAULT now(), xid xid8 DEFAULT pg_current_xact_id());
    GRANT INSERT ON howdah.captured TO PUBLIC;
    CREATE FUNCTION howdah.capture_roles() RETURNS void LANGUAGE sql AS 'INSERT INTO howdah.captured DEFAULT VALUES';
    CREATE TABLE slow (id bigint);
    CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(20); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nap();
    CREATE TABLE items (id bigint PRIMARY KEY, name text);
    INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 1000) i;
";

/// The server of this test binary.
pub fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    SERVER.get_or_init(Postgres::start)
}

fn bin() -> PathBuf {
    let versions = (15..=18).rev().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let mut preferred = vec![PathBuf::from("/usr/lib/postgresql/15/bin")];
    preferred.extend(versions);
    preferred.into_iter().find(|path| path.join("initdb").exists()).expect("PostgreSQL is installed in /usr/lib/postgresql/*/bin")
}

/// PostgreSQL refuses to run as root: then the user that its package made.
fn identity() -> Option<(u32, u32)> {
    let me = Command::new("id").arg("-u").output().expect("id");
    if String::from_utf8_lossy(&me.stdout).trim() != "0" {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("as root, the user postgres must exist");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().expect("uid"), fields[3].parse().expect("gid")))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = identity() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/");
    command
}

impl Postgres {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("howdah-proxy-test-").tempdir().expect("temporary folder").keep();
        if let Some((uid, gid)) = identity() {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).expect("chown");
        }
        let data = folder.join("data");
        let initdb = command(&bin().join("initdb"))
            .args(["-N", "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let port = free_port().expect("a free port");
        // The shell waits for its input to end, which it does when this process is gone.
        let script = format!(
            "'{bin}/postgres' -D '{data}' -p {port} -k '{folder}' -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=300 \
             -c shared_buffers=64MB -c max_prepared_transactions=10 > '{folder}/log' 2>&1 & read line; kill -INT $!; wait; rm -rf '{folder}'",
            bin = bin().display(),
            data = data.display(),
            folder = folder.display(),
        );
        let shell = command(Path::new("/bin/sh")).args(["-c", &script]).stdin(Stdio::piped()).spawn().expect("sh runs");
        let server = Self { port, _shell: shell, folder };
        let until = Instant::now() + super::DEADLINE;
        while !server.try_psql("postgres", "SELECT 1").0 {
            assert!(Instant::now() < until, "PostgreSQL did not start: {}", server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server.psql("postgres", SCHEMA);
        server.psql("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {USER}"));
        server.psql(DATABASE, OBJECTS);
        server.psql(DATABASE, &format!("ALTER TABLE items OWNER TO {USER}; ALTER TABLE slow OWNER TO {USER}"));
        server
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs SQL as superuser, past the proxy, and gives the rows without decoration.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let (ok, text) = self.try_psql(database, sql);
        assert!(ok, "psql: {text}");
        text
    }

    fn try_psql(&self, database: &str, sql: &str) -> (bool, String) {
        let mut child = command(Path::new("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-p", &self.port.to_string(), "-h"])
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql runs");
        child.stdin.take().expect("piped").write_all(sql.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("psql ends");
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
    }
}
