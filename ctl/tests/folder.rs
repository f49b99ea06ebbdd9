//! The data folder of a local cluster: what is refused, what survives, and whether the binaries can read the files made for them. No process is started.

use howdah_ctl::cluster::{Binaries, Cluster, Error, Info, Lifetime, Options, Port};
use howdah_protocol::NodeId;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Below /tmp on purpose: as root, Postgres' user must get there, and TMPDIR may be private.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/tmp").expect("temporary folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
    dir
}

fn options(data: PathBuf) -> Options {
    Options {
        hosts: None,
        data,
        name: "test".to_owned(),
        nodes: 3,
        nodes_explicit: false,
        port: Port::Any,
        lifetime: Lifetime::Owned,
        purpose: "this test".to_owned(),
        // Programs that end at once: nothing here gets as far as waiting for them, except where their end is what is tested.
        binaries: Binaries { sidecar: PathBuf::from("/bin/false"), proxy: PathBuf::from("/bin/false") },
        pg_bin_dir: howdah_ctl::postgres::bin_dir().expect("PostgreSQL is installed"),
        os_user: "postgres".to_owned(),
        database: "app".to_owned(),
        app_role: "app".to_owned(),
        settings: BTreeMap::from([("shared_buffers".to_owned(), "64MB".to_owned())]),
        timing: BTreeMap::from([("start_ms".to_owned(), 30_000)]),
        sidecar: BTreeMap::new(),
        verify_interval_s: None,
        proxy: BTreeMap::new(),
        start_timeout: std::time::Duration::from_secs(20),
    }
}

#[tokio::test]
async fn the_sidecars_files_are_read_by_the_sidecar() {
    let dir = folder();
    let cluster = Cluster::create(options(dir.path().join("c"))).await.expect("created");
    for node in 1..=3 {
        let file = cluster.data().join(format!("node{node}/sidecar.toml"));
        assert_eq!(std::fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600);
        let config = howdah_sidecar::config::Config::load(&file).expect("a valid configuration");
        assert_eq!((config.node, config.peers.len()), (NodeId(node), 3));
        assert_eq!(config.pg_data(), cluster.pg_data(NodeId(node)));
        assert_eq!(config.postgres.listen, cluster.info().nodes[usize::try_from(node).expect("small") - 1].sql);
        assert_eq!(config.timing.start_ms, 30_000);
    }
}

#[tokio::test]
async fn a_folder_in_use_names_its_user() {
    let dir = folder();
    let data = dir.path().join("c");
    let _first = Cluster::create(options(data.clone())).await.expect("created");
    let error = Cluster::resume(options(data.clone())).await.expect_err("in use").to_string();
    assert!(error.contains("in use by this test") && error.contains(&std::process::id().to_string()), "{error}");
    assert_eq!(Cluster::owner(&data).map(|(_, purpose)| purpose), Some("this test".to_owned()));
}

#[tokio::test]
async fn a_resumed_cluster_keeps_its_ports_and_passwords_and_refuses_others() {
    let dir = folder();
    let data = dir.path().join("c");
    let first = Cluster::create(options(data.clone())).await.expect("created").info().clone();
    let again = Cluster::open(options(data.clone())).await.expect("resumed").info().clone();
    assert_eq!((first.proxy_url(), first.secret, first.nodes), (again.proxy_url(), again.secret, again.nodes));

    let other_port = Options { port: Port::Fixed(first.proxy.port() + 1), ..options(data.clone()) };
    let other_nodes = Options { nodes: 5, nodes_explicit: true, ..options(data.clone()) };
    for (options, expected) in [(other_port, "has port"), (other_nodes, "has 3 nodes")] {
        let error = Cluster::open(options).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn settings_that_postgres_does_not_take_are_refused_before_anything_is_written() {
    let dir = folder();
    let data = dir.path().join("c");
    let with = |name: &str, value: &str| {
        let settings = BTreeMap::from([(name.to_owned(), value.to_owned()), ("work_mem".to_owned(), "16MB".to_owned())]);
        Options { settings, ..options(data.clone()) }
    };
    for (name, value, expected) in [
        ("nonsense", "1", "setting nonsense=1: unrecognized configuration parameter \"nonsense\""),
        ("shared_buffers", "lots", "invalid value"),
        ("wal_compression", "perhaps", "Available values"),
        ("max_connections", "0", "outside the valid range"),
        ("FSYNC", "off", "Howdah sets this one itself"),
        ("synchronous_standby_names", "", "Howdah sets this one itself"),
        ("shared-buffers", "64MB", "no name of a setting"),
    ] {
        let error = Cluster::open(with(name, value)).await.expect_err(expected).to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        assert!(!data.exists(), "{name}={value} left a folder");
    }
    // Settings that `--describe-config` does not tell, of libraries, and with characters that need care.
    for (name, value) in
        [("zero_damaged_pages", "on"), ("auto_explain.log_analyze", "on"), ("log_line_prefix", "%m '[%p]' "), ("TimeZone", "UTC")]
    {
        drop(Cluster::open(with(name, value)).await.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    let error = Cluster::open(with("nonsense", "1")).await.expect_err("the folder is there now").to_string();
    assert!(error.contains("unrecognized"), "{error}");
}

#[tokio::test]
async fn strangers_folders_are_left_alone() {
    let dir = folder();
    std::fs::write(dir.path().join("thesis.txt"), "precious").expect("file");
    let error = Cluster::create(options(dir.path().to_owned())).await.expect_err("not empty");
    assert!(matches!(error, Error::NotEmpty(_)), "{error}");
    assert!(matches!(Info::load(dir.path()), Err(Error::NoCluster(_))));
    assert!(matches!(Info::load(Path::new("/no/such/folder")), Err(Error::NoCluster(_))));
}

#[tokio::test]
async fn a_port_in_use_is_named_before_anything_is_written() {
    let dir = folder();
    let data = dir.path().join("c");
    // It never starts, and keeps other tests from its block.
    let claimed = Cluster::create(options(dir.path().join("other"))).await.expect("created");
    let free = claimed.info().clone();
    let taken = free.nodes[1].sql;
    let listener = TcpListener::bind(taken).expect("free until now");
    let fixed = || Options { port: Port::Fixed(free.proxy.port()), ..options(data.clone()) };
    let error = Cluster::open(fixed()).await.expect_err("port in use").to_string();
    assert!(error.contains(&format!("port {} (Postgres of node 2)", taken.port())) && error.contains("--port"), "{error}");
    assert!(!data.exists(), "it is bound to ports that it cannot have");
    drop(listener);
    Cluster::open(fixed()).await.expect("now they are free");
}

#[tokio::test]
async fn a_cluster_keeps_its_ports_when_another_takes_one() {
    let dir = folder();
    let mut cluster = Cluster::create(options(dir.path().join("c"))).await.expect("created");
    let taken = cluster.info().nodes[1].sql;
    let _listener = TcpListener::bind(taken).expect("free until now");
    let error = cluster.start().await.expect_err("port in use").to_string();
    assert!(error.contains(&format!("port {} (Postgres of node 2)", taken.port())) && error.contains("stop what listens"), "{error}");
    assert!(!error.contains("--port"), "advice that cannot be followed: {error}");
}

#[tokio::test]
async fn a_process_that_ends_at_once_ends_the_wait_with_its_name() {
    let dir = folder();
    let mut cluster = Cluster::create(options(dir.path().join("c"))).await.expect("created");
    let error = cluster.start().await.expect_err("nothing runs");
    assert!(matches!(&error, Error::Ended { .. }), "{error}");
}

#[tokio::test]
async fn a_folder_that_postgres_cannot_enter_is_refused_before_anything_is_made() {
    if howdah_ctl::postgres::account("postgres").expect("user").is_none() {
        // Not root: Postgres runs as this user, who can enter whatever it made itself.
        return;
    }
    let dir = folder();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).expect("permissions");
    let error = Cluster::create(options(dir.path().join("c"))).await.expect_err("closed folder").to_string();
    assert!(error.contains(&dir.path().display().to_string()) && error.contains("chmod"), "{error}");
}

#[tokio::test]
async fn node_counts_are_bounded() {
    let dir = folder();
    for nodes in [0, 10] {
        let error = Cluster::create(Options { nodes, ..options(dir.path().join("c")) }).await.expect_err("count");
        assert!(matches!(error, Error::NodeCount { .. }), "{error}");
    }
}
