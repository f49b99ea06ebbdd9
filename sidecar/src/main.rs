//! howdah-sidecar: runs beside one Postgres.

use anyhow::{Context, Result};
use clap::Parser;
use howdah_protocol::admin::{NodeStatus, Role};
use howdah_protocol::{LogIndex, Term};
use howdah_sidecar::admin::{self, Admin, metrics::Metrics, outcome::Asker};
use howdah_sidecar::config::{Config, Peer};
use howdah_sidecar::health::Watcher;
use howdah_sidecar::pg::precheck::precheck;
use howdah_sidecar::pg::server::Server;
use howdah_sidecar::raft;
use howdah_sidecar::repair;
use howdah_sidecar::retention::Retention;
use howdah_sidecar::role::Manager;
use howdah_sidecar::seed::Source;
use howdah_sidecar::status::Board;
use howdah_sidecar::verify::{Attendant, Schedule, Verifier};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Commands that wait for the role manager.
const COMMANDS_MAX: usize = 8;

/// The sidecar of one PostgreSQL server: captures its transactions, replicates them through the group's log, applies the others'.
///
/// Stop it with SIGTERM: it hands leadership over, ends client sessions and stops a managed PostgreSQL.
#[derive(Debug, Parser)]
#[command(version, after_help = "The log level is set by HOWDAH_LOG, such as HOWDAH_LOG=info,howdah_sidecar=debug.")]
struct Arguments {
    /// The configuration file (TOML)
    #[arg(long, env = "HOWDAH_SIDECAR_CONFIG")]
    config: PathBuf,
    /// Only check the configuration file
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let config = Config::load(&arguments.config)?;
    if arguments.check {
        println!("{}: good", arguments.config.display());
        return Ok(());
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOWDAH_LOG").unwrap_or_else(|_| "info,openraft=warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> Result<()> {
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
    let listener = TcpListener::bind(config.admin_listen).await.with_context(|| {
        format!(
            "cannot listen on admin_listen = {}: is another sidecar running, or the port in use? choose another port",
            config.admin_listen
        )
    })?;
    precheck(&config).await?;
    let raft = raft::open(raft_options(&config)).await?;
    let board = Board::new(identity(&config));
    board.follow_log(&raft);
    tokio::spawn(board.clone().run());

    let (commands, received) = mpsc::channel(COMMANDS_MAX);
    let (stop, stopped) = watch::channel(false);
    let verifier = Verifier::new(&config, Server::target(&config), raft.clone(), board.clone());
    let service = Admin {
        board: board.clone(),
        status: board.published(),
        group: config.group,
        secret: config.secret.as_str().into(),
        raft: raft.clone(),
        commands,
        seed: Source::new(Server::target(&config), config.postgres.bin_dir.clone(), config.seed, raft.clone(), board.clone()),
        asker: Asker::new(Server::target(&config)),
        repair: repair::Source::new(Server::target(&config)),
        attendant: Attendant::new(&config, Server::target(&config), raft.clone(), board.clone()),
        verifier: verifier.clone(),
        metrics: Metrics::new(),
    };
    tokio::spawn(admin::serve(listener, service));
    tokio::spawn(stop_on_signal(stop));
    tokio::spawn(Schedule { verifier, interval: Duration::from_secs(config.verify_interval_s) }.run());

    let retention = Retention {
        raft: raft.clone(),
        log_bytes_max: config.log_bytes_max,
        log_age_max: Duration::from_secs(config.log_age_max_s),
        needed: board.needed.subscribe(),
    };
    tokio::spawn(retention.run());

    tokio::spawn(Watcher::new(&config, raft.clone(), board.clone()).run());

    let manager = Manager::new(&config, raft.clone(), board, received, stopped).await?;
    let ended = manager.run().await;
    raft.shutdown().await;
    Ok(ended?)
}

async fn stop_on_signal(stop: watch::Sender<bool>) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("no signal handlers: stop by SIGKILL only");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to stop");
    stop.send_replace(true);
}

fn raft_options(config: &Config) -> raft::Options {
    // A node that joins forms no group: it waits to be added to one.
    let peer = |peer: &Peer| raft::Peer { node: peer.node, admin_addr: peer.admin.clone(), sql_addr: peer.sql.clone() };
    let hosts: Vec<_> = config.peers.iter().map(peer).collect();
    let founders = if config.join { Vec::new() } else { hosts.clone() };
    let dir = config.data_dir.join("raft");
    let mut options = raft::Options::new(dir, config.cluster.clone(), config.group, config.node, founders, config.secret.clone());
    options.hosts = hosts;
    options.timings.heartbeat = Duration::from_millis(config.timing.heartbeat_ms);
    options.timings.election_min = Duration::from_millis(config.timing.election_min_ms);
    options.timings.election_max = Duration::from_millis(config.timing.election_max_ms);
    options
}

fn identity(config: &Config) -> NodeStatus {
    NodeStatus {
        cluster: config.cluster.clone(),
        group: config.group,
        id: config.node,
        role: Role::Starting,
        open: false,
        epoch: None,
        term: Term::default(),
        leader: None,
        committed_index: LogIndex::default(),
        applied_index: LogIndex::default(),
        lag_ms: 0,
        postgres_version: String::new(),
        sql_address: config.me().sql.clone(),
        admin_address: config.me().admin.clone(),
        detail: "starting".to_owned(),
        seeding: None,
        verified: None,
        trouble: None,
    }
}
