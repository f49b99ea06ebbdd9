//! Stopping servers that are dead, orphaned, or not there.

use super::*;
use crate::pg::installed;
use tokio::time::timeout;

/// Far below [`STOP_TIMEOUT`], far above what a stop takes.
const SOON: Duration = Duration::from_secs(10);

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("howdah-server-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn config(&self) -> Config {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = self.0.display();
        let programs = installed::programs();
        let text = format!(
            "cluster = \"c\"\nnode = 1\ndata_dir = \"{dir}\"\nadmin_listen = \"127.0.0.1:1\"\nsecret = \"0123456789abcdef\"
            peers = [{{ node = 1, admin = \"127.0.0.1:1\", sql = \"127.0.0.1:{port}\" }}]
            [postgres]
            mode = \"managed\"\nbin_dir = \"{}\"\nlisten = \"127.0.0.1:{port}\"\nsocket_dir = \"{dir}/s\"
            database = \"app\"\napp_role = \"app\"\napp_password = \"p\"\nproxy_password = \"q\"",
            programs.display()
        );
        let file = self.0.join("sidecar.toml");
        fs::write(&file, text).unwrap();
        Config::load(&file).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pid(config: &Config) -> String {
    fs::read_to_string(config.pg_data().join("postmaster.pid")).unwrap().lines().next().unwrap().to_owned()
}

fn kill(pid: &str) {
    assert!(std::process::Command::new("kill").args(["-9", pid]).status().unwrap().success());
}

#[tokio::test]
async fn a_killed_server_is_not_waited_for_and_starts_again() {
    let dir = Dir::new("killed");
    let config = dir.config();
    let mut server = Server::new(&config).await.unwrap();
    server.init().await.unwrap();
    server.start().await.unwrap();
    let old = pid(&config);
    kill(&old);
    assert!(Path::new(&format!("/proc/{old}")).exists(), "nobody has collected it: this is the case that pg_ctl waits for");
    timeout(SOON, server.start()).await.expect("in time").unwrap();
    assert_ne!(pid(&config), old);
    timeout(SOON, server.stop(Shutdown::Fast)).await.expect("in time").unwrap();
    assert!(!server.is_running());
}

/// Its sidecar was killed too, and whoever collects orphans takes its time.
#[tokio::test]
async fn a_server_starts_as_soon_as_a_dead_one_is_collected() {
    let dir = Dir::new("uncollected");
    let config = dir.config();
    let mut earlier = Server::new(&config).await.unwrap();
    earlier.init().await.unwrap();
    earlier.start().await.unwrap();
    kill(&pid(&config));
    let mut server = Server::new(&config).await.unwrap();
    // As for a node that is seeded again: what is left is the lock of the socket.
    server.wipe().unwrap();
    server.init().await.unwrap();
    let hindered = async {
        while !server_said(&config).contains("Is another postmaster") {
            tokio::time::sleep(START_POLL).await;
        }
        earlier.child.as_mut().unwrap().wait().await.unwrap();
    };
    let (started, ()) = timeout(SOON, async { tokio::join!(server.start(), hindered) }).await.expect("in time");
    started.unwrap();
    server.stop(Shutdown::Immediate).await.unwrap();
}

/// The process of a server that recovers, as long as it does.
fn recovering(pid: &str) -> Option<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let startup = |child: &&str| fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.contains("startup"));
    children.split_whitespace().find(startup).map(str::to_owned)
}

fn signal(name: &str, pid: &str) {
    assert!(std::process::Command::new("kill").args([name, pid]).status().unwrap().success());
}

#[tokio::test]
async fn recovery_takes_as_long_as_it_takes() {
    let dir = Dir::new("recovery");
    let config = dir.config();
    let mut server = Server::new(&config).await.unwrap();
    server.init().await.unwrap();
    server.start().await.unwrap();
    let mut target = Server::target(&config);
    target.database = "postgres".to_owned();
    // Enough to be found at it.
    let session = target.connect("test", "").await.unwrap();
    session.batch_execute("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 500000) i").await.unwrap();
    kill(&pid(&config));
    server.ended().await;
    server.spawn().unwrap();
    let postmaster = server.child.as_ref().unwrap().id().unwrap().to_string();
    let found = async {
        loop {
            if let Some(found) = recovering(&postmaster) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let startup = timeout(SOON, found).await.expect("it recovers");
    signal("-STOP", &startup);
    let later = async {
        let mut refused = 0;
        while refused < 3 {
            let error = target.connect("test", "").await.expect_err("it is held");
            refused += u32::from(error.is_starting_up());
        }
        signal("-CONT", &startup);
    };
    // Long past its time.
    let (ready, ()) = timeout(SOON, async { tokio::join!(server.wait_ready(Instant::now() + SOON / 100), later) }).await.expect("in time");
    ready.unwrap();
    server.stop(Shutdown::Immediate).await.unwrap();
}

fn server_said(config: &Config) -> String {
    fs::read_to_string(config.data_dir.join("postgres.log")).unwrap_or_default()
}

#[tokio::test]
async fn a_server_that_an_earlier_sidecar_left_behind_is_stopped_first() {
    let dir = Dir::new("orphan");
    let config = dir.config();
    let mut earlier = Server::new(&config).await.unwrap();
    earlier.init().await.unwrap();
    earlier.start().await.unwrap();
    let old = pid(&config);
    let mut server = Server::new(&config).await.unwrap();
    assert!(server.is_running(), "the other's");
    timeout(SOON, server.start()).await.expect("in time").unwrap();
    assert_ne!(pid(&config), old);
    assert!(earlier.child.as_mut().unwrap().try_wait().unwrap().is_some(), "it lives on");
    server.stop(Shutdown::Immediate).await.unwrap();
}

/// What a crash of the whole machine leaves behind, when the number has gone to the server of another data directory since.
#[tokio::test]
async fn a_process_that_only_has_the_number_is_left_alone() {
    let dir = Dir::new("reused");
    let config = dir.config();
    let mut server = Server::new(&config).await.unwrap();
    server.init().await.unwrap();
    let program = dir.0.join("postgres");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut other = std::process::Command::new(&program).arg("60").current_dir("/").spawn().unwrap();
    fs::write(config.pg_data().join("postmaster.pid"), format!("{}\n", other.id())).unwrap();
    assert!(!server.is_running());
    timeout(SOON, server.stop(Shutdown::Immediate)).await.expect("in time").unwrap();
    assert!(other.try_wait().unwrap().is_none(), "another's server was stopped");
    other.kill().unwrap();
    other.wait().unwrap();
}
