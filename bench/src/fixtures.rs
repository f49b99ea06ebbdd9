//! The servers under test. All Postgres servers get [`SETTINGS`]; apart from that, each gets only what its kind of replication needs.

pub mod howdah;
pub mod native;
pub mod pgbouncer;
pub mod server;

use crate::core::plan::Target;
use crate::pgbench::{Endpoint, Protocol};
use anyhow::Context;
use howdah::Howdah;
use howdah_ctl::pgbench;
use native::{Durability, Native};
use pgbouncer::PgBouncer;
use server::Server;
use std::path::{Path, PathBuf};

/// One list for everybody. Checkpoints come only when the benchmark asks for them, before each run.
pub const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "256MB"),
    ("max_connections", "200"),
    ("max_prepared_transactions", "100"),
    ("max_wal_size", "8GB"),
    ("min_wal_size", "1GB"),
    ("checkpoint_timeout", "60min"),
    ("autovacuum_naptime", "60s"),
];

/// Server connections that both proxies may hold: more than any number of clients here, so that neither queues.
pub const POOL_SIZE: u32 = 64;

/// What to start.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub targets: Vec<Target>,
    pub protocol: Protocol,
    pub scale: u32,
    pub bin_dir: PathBuf,
    pub pgbouncer: PathBuf,
    /// A folder that Postgres' user can enter.
    pub work: PathBuf,
}

/// What runs.
#[derive(Debug)]
pub struct Fixtures {
    direct: Option<Server>,
    native: Option<Native>,
    pgbouncer: Option<PgBouncer>,
    howdah: Option<Howdah>,
}

impl Fixtures {
    /// Starts what the targets need, and fills pgbench's tables in each.
    pub async fn start(wanted: &Wanted) -> anyhow::Result<Self> {
        let needs = |need: fn(Target) -> bool| wanted.targets.iter().any(|target| need(*target));
        let mut fixtures = Self { direct: None, native: None, pgbouncer: None, howdah: None };
        if needs(Target::needs_direct) {
            let lone = [("wal_level", "replica"), ("max_wal_senders", "0")];
            let server = Server::create(&wanted.bin_dir, &wanted.work.join("direct"), &lone).await.context("the lone server")?;
            pgbench::init(&wanted.bin_dir, &server.url(), wanted.scale).await?;
            fixtures.direct = Some(server);
        }
        if needs(Target::needs_native) {
            let native =
                Native::create(&wanted.bin_dir, &wanted.work.join("native")).await.context("the native primary and its standbys")?;
            pgbench::init(&wanted.bin_dir, &native.url(), wanted.scale).await?;
            fixtures.native = Some(native);
        }
        if needs(Target::needs_pgbouncer) {
            let behind = [("direct", fixtures.direct.as_ref().map(Server::port)), ("native", fixtures.native.as_ref().map(Native::port))];
            fixtures.pgbouncer = Some(PgBouncer::start(&wanted.pgbouncer, &wanted.work.join("pgbouncer"), wanted.protocol, &behind).await?);
        }
        if needs(Target::needs_howdah) {
            fixtures.howdah = Some(Howdah::create(&wanted.bin_dir, &wanted.work.join("howdah"), wanted.scale).await?);
        }
        Ok(fixtures)
    }

    /// What a reader of the numbers must know.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.pgbouncer.iter().map(PgBouncer::note).collect()
    }

    /// Brings the target into the state in which every run starts: replicas caught up, checkpoint done, everybody else idle.
    pub async fn settle(&mut self, target: Target) -> anyhow::Result<Endpoint> {
        let plain = |url: String| Endpoint { url, options: "" };
        match target {
            Target::Direct | Target::Pgbouncer => {
                let server = self.direct.as_ref().context("the lone server was not started")?;
                server.checkpoint().await?;
                Ok(plain(if target == Target::Direct { server.url() } else { self.pgbouncer_url("direct")? }))
            }
            Target::NativeAsync | Target::NativeSync | Target::NativeSyncPgbouncer => {
                let native = self.native.as_mut().context("the native primary was not started")?;
                native.set(if target == Target::NativeAsync { Durability::Primary } else { Durability::AnyStandby }).await?;
                native.settle().await?;
                let url = native.url();
                Ok(plain(if target == Target::NativeSyncPgbouncer { self.pgbouncer_url("native")? } else { url }))
            }
            _ => {
                let howdah = self.howdah.as_mut().context("the Howdah cluster was not started")?;
                howdah.settle(target).await
            }
        }
    }

    fn pgbouncer_url(&self, database: &str) -> anyhow::Result<String> {
        Ok(self.pgbouncer.as_ref().context("PgBouncer was not started")?.url(database))
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        if let Some(howdah) = self.howdah {
            howdah.stop().await?;
        }
        drop(self.pgbouncer);
        if let Some(native) = self.native {
            native.stop().await?;
        }
        if let Some(direct) = self.direct {
            direct.stop().await?;
        }
        Ok(())
    }
}

/// Makes a folder that belongs to the user that Postgres runs as.
pub fn own_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| path.display().to_string())?;
    if let Some(account) = howdah_ctl::postgres::account(howdah_ctl::postgres::OS_USER)? {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))?;
    }
    Ok(())
}
