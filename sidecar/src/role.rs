//! The life of a node: one task that starts Postgres, finds out what it may become, opens it, promotes, demotes, repairs, stops.
//!
//! ```text
//!  start --> reconcile --> follow --> promote --> lead
//!    ^        | |  ^ ^        |          |          |
//!    |        | |  | |        v          v          v
//!    |        | |  | +---- demote <------+----------+
//!    |     seed |  |
//!    +--------+ +--+ repair (or else seed)
//! ```
//!
//! Invariants:
//! - Closed by default: clients get in only after `reconcile` found that every commit here is decided, and are out before anything
//!   that may take commits back.
//! - Writes are possible only between the decision of this node's `Open` entry, with the gate attached, and the end of the gate.
//! - The slot of a node that opened last is kept until somebody else has opened: it is the only witness of what was committed here.
//! - A node with commits that the group never accepted does not lead and does not serve.
//! - A node that cannot soon lead hands on what leadership it gets, at any time (`standby`).
//! - While this node may write, its applier stays within its own reign, so that what it committed and the group did not is found as it was left.
//!
//! Each stage returns the next one. What a stage started and the next must not keep (gate, epoch) is ended by `demote`.

mod epoch;
mod lead;
mod promote;
mod reconcile;
mod repair;
mod seed;
mod sequences;
mod standby;
mod watchdog;

use crate::admin::Command;
use crate::apply;
use crate::capture;
use crate::config::{Config, Mode};
use crate::core::health::Fit;
use crate::pg::access::Access;
use crate::pg::connect::Target;
use crate::pg::schema;
use crate::pg::server::{Server, Shutdown};
use crate::raft;
use crate::status::{Board, Note, Stage as Published};
use epoch::ServingEpoch;
use howdah_protocol::admin::{Problem, Role};
use howdah_protocol::{InstanceId, Lsn, Term};
use standby::{Standby, fitness_after};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A stage that failed is tried again after this; doubled up to the maximum.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
const CLIENTS_END_TIMEOUT: Duration = Duration::from_secs(5);

/// Any failure of a stage. What went wrong is for the log; what follows is always the same: close, and start over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Server(#[from] crate::pg::server::Error),
    #[error(transparent)]
    Schema(#[from] schema::Error),
    #[error(transparent)]
    Connect(#[from] crate::pg::connect::Error),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Replication(#[from] crate::pg::replication::Error),
    #[error(transparent)]
    Capture(#[from] capture::Error),
    #[error(transparent)]
    Apply(#[from] apply::Error),
    #[error(transparent)]
    Log(#[from] raft::ReadError),
    #[error(transparent)]
    Propose(#[from] raft::ProposeError),
    #[error(transparent)]
    Seed(#[from] crate::seed::Error),
    #[error(transparent)]
    Repair(#[from] crate::repair::Error),
    #[error("{0} took longer than {1:?}")]
    Late(&'static str, Duration),
    #[error("{0}")]
    Stopped(String),
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Reconcile,
    Follow,
    Promote,
    Lead,
    Demote,
    Repair,
    Seed,
    Stop,
}

#[derive(Debug)]
pub struct Manager {
    pub(crate) config: Config,
    pub(crate) target: Target,
    /// None in attached mode: then Postgres is somebody else's.
    server: Option<Server>,
    raft: raft::Handle,
    board: Board,
    commands: mpsc::Receiver<Command>,
    shutdown: watch::Receiver<bool>,
    instance: InstanceId,
    version: String,
    access: Access,
    epoch: Option<ServingEpoch>,
    applier: Option<apply::Handle>,
    /// The own slot stands, as the witness of what was committed here while this node led.
    keeps_slot: bool,
    /// End of the last commit that the own slot held when it was read: nobody may see it before it is decided.
    tail: Lsn,
    gate: Option<capture::Handle>,
    /// The term that this node was promoted in last.
    term: Term,
    repairs: repair::History,
    /// The last filling was a follower's and failed: the next one is the leader's.
    spares_followers: bool,
}

impl Manager {
    pub async fn new(
        config: &Config,
        raft: raft::Handle,
        board: Board,
        commands: mpsc::Receiver<Command>,
        shutdown: watch::Receiver<bool>,
    ) -> Result<Self, Error> {
        let server = match config.postgres.mode {
            Mode::Managed => Some(Server::new(config).await?),
            Mode::Attached => None,
        };
        Ok(Self {
            config: config.clone(),
            target: Server::target(config),
            server,
            raft,
            board,
            commands,
            shutdown,
            instance: InstanceId::default(),
            version: String::new(),
            access: Access::Closed,
            epoch: None,
            applier: None,
            keeps_slot: false,
            tail: Lsn(0),
            gate: None,
            term: Term::default(),
            repairs: repair::History::default(),
            spares_followers: false,
        })
    }

    /// Runs until told to stop. A Postgres that can never be used (too old, another node's) ends it with the reason.
    pub async fn run(mut self) -> Result<(), Error> {
        let _standby = Standby::start(self.raft.clone());
        let mut stage = Stage::Start;
        let mut pause = RETRY_PAUSE;
        loop {
            let entered = Instant::now();
            let result = self.perform(stage).await;
            if stage == Stage::Stop {
                return result.map(|_| ());
            }
            if let Some(fit) = fitness_after(&result) {
                self.raft.set_stage(fit);
            }
            if entered.elapsed() > RETRY_PAUSE_MAX {
                pause = RETRY_PAUSE;
            }
            if let Err(stopped) = self.check_log() {
                self.say(Role::Stopping, stopped.to_string());
                self.leave_behind().await;
                self.stop_server().await;
                return Err(stopped);
            }
            let next = match result {
                Ok(next) => next,
                Err(fatal @ Error::Schema(schema::Error::Unfit(_) | schema::Error::Stranger { .. })) => {
                    self.stop_server().await;
                    return Err(fatal);
                }
                Err(error) => {
                    tracing::warn!(?stage, %error, "starting over");
                    self.say(Role::Reconciling, error.to_string());
                    self.pause(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                    after_failure(stage)
                }
            };
            stage = if *self.shutdown.borrow() { Stage::Stop } else { next };
        }
    }

    /// Whoever waits for changes of the log's role would be told of its end again and again.
    fn check_log(&self) -> Result<(), Error> {
        let stopped = self.raft.role().borrow().stopped.clone();
        stopped.map_or(Ok(()), |reason| Err(Error::Stopped(format!("the log has stopped: {reason}"))))
    }

    async fn perform(&mut self, stage: Stage) -> Result<Stage, Error> {
        tracing::debug!(?stage, "stage");
        match stage {
            Stage::Start => self.start().await,
            Stage::Reconcile => self.reconcile().await,
            Stage::Follow => self.follow().await,
            Stage::Promote => self.promote().await,
            Stage::Lead => self.lead().await,
            Stage::Demote => self.demote().await,
            Stage::Repair => self.repair().await,
            Stage::Seed => self.seed().await,
            Stage::Stop => self.stop().await,
        }
    }

    async fn start(&mut self) -> Result<Stage, Error> {
        self.say(Role::Starting, "starting PostgreSQL");
        self.leave_behind().await;
        if self.must_be_seeded() {
            return Ok(Stage::Seed);
        }
        if let Some(server) = &mut self.server {
            server.init().await?;
            // Recovery after a crash takes as long as it takes.
            tokio::select! {
                started = server.start() => started?,
                _ = self.shutdown.wait_for(|stop| *stop) => return Ok(Stage::Stop),
            }
        }
        self.access = Access::Closed;
        // 63 bits: it is stored as a bigint.
        let settled = schema::settle(&self.config, &self.target, InstanceId(rand::random::<u64>() >> 1)).await?;
        self.instance = settled.instance;
        self.version = settled.version;
        if self.server.is_none() {
            self.close().await?;
        }
        Ok(Stage::Reconcile)
    }

    /// Ends everything that belonged to an earlier life of Postgres.
    async fn leave_behind(&mut self) {
        self.epoch = None;
        if let Some(gate) = self.gate.take() {
            gate.stop().await;
        }
        if let Some(applier) = self.applier.take() {
            applier.stop().await;
        }
    }

    /// Keeps clients out, ends their sessions, and ends the gate. On return nobody but the sidecar is connected.
    async fn demote(&mut self) -> Result<Stage, Error> {
        self.say(Role::Demoting, "ending client sessions");
        self.epoch = None;
        if let Some(gate) = self.gate.take() {
            gate.stop().await;
        }
        self.close().await?;
        Ok(Stage::Reconcile)
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.set_access(Access::Closed).await?;
        let session = self.target.connect("howdah-demote", "").await?;
        let deadline = Instant::now() + CLIENTS_END_TIMEOUT;
        // A COMMIT whose wait is ended shows its rows. So first everybody goes who could read them.
        for whom in ["wait_event IS DISTINCT FROM 'SyncRep'", "true"] {
            let end = format!(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE backend_type = 'client backend' AND usename <> current_user AND {whom}"
            );
            while session.query_one(&end, &[]).await?.get::<_, i64>(0) > 0 {
                if Instant::now() >= deadline {
                    return Err(Error::Late("ending client sessions", CLIENTS_END_TIMEOUT));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    }

    async fn set_access(&mut self, access: Access) -> Result<(), Error> {
        let session = self.target.connect("howdah-access", "").await?;
        match &self.server {
            Some(server) => server.set_access(self.access, access, &session).await?,
            None => crate::pg::access::set_attached(&session, access, &self.config.postgres.database).await?,
        }
        self.access = access;
        Ok(())
    }

    /// Hands leadership over where this node has it, and stops what it runs.
    async fn stop(&mut self) -> Result<Stage, Error> {
        self.say(Role::Stopping, "stopping");
        if self.raft.role().borrow().is_leader {
            if self.gate.is_some() {
                self.drain().await;
            }
            let handover = Duration::from_millis(self.config.timing.handover_ms);
            match tokio::time::timeout(handover, self.raft.transfer_leader(None)).await {
                Ok(Ok(to)) => tracing::info!(%to, "handed leadership over"),
                Ok(Err(error)) => tracing::warn!(%error, "no hand-over"),
                Err(_) => tracing::warn!("no hand-over in time"),
            }
        }
        self.raft.set_stage(Fit::Unable);
        let closed = self.demote().await;
        if let Err(error) = closed {
            tracing::warn!(%error, "clients are ended by the stop of PostgreSQL");
        }
        self.leave_behind().await;
        self.stop_server().await;
        Ok(Stage::Stop)
    }

    async fn stop_server(&mut self) {
        // A node that waits to be added has none yet.
        if let Some(server) = &mut self.server
            && self.config.pg_data().exists()
            && let Err(error) = server.stop(Shutdown::Fast).await
        {
            tracing::error!(%error, "PostgreSQL was not stopped");
        }
    }

    /// Resolves when the managed Postgres ends by itself; never in attached mode.
    async fn postgres_ended(server: &mut Option<Server>) -> String {
        match server {
            Some(server) => server.ended().await,
            None => std::future::pending().await,
        }
    }

    async fn pause(&mut self, pause: Duration) {
        let stopped = self.shutdown.wait_for(|stop| *stop);
        if tokio::time::timeout(pause, stopped).await.is_ok() {
            tracing::debug!("stop asked for while pausing");
        }
    }

    /// Publishes the stage. Open means: an epoch is held and clients are let in.
    fn say(&self, role: Role, detail: impl Into<String>) {
        let detail = detail.into();
        let open = self.epoch.is_some() && self.access != Access::Closed;
        let epoch = self.epoch.as_ref().map(ServingEpoch::epoch);
        let leads_in = (role == Role::Leader).then_some(self.term);
        let stage = Published { role, open, epoch, leads_in, version: self.version.clone(), detail };
        if *self.board.stage.borrow() != stage {
            tracing::info!(%role, stage.detail, open, "node");
            self.board.stage.send_replace(stage);
        }
    }

    /// Tells for a while why leadership was given up, whatever this node does next.
    fn note(&self, why: String) {
        self.board.note.send_replace(Some(Note { since: Instant::now(), text: format!("gave leadership up: {why}") }));
    }

    fn refuse(command: Command, error: &str, hint: Option<&str>) {
        let Command::Switchover { answer, .. } = command;
        // The asker may have gone; nothing was done, so nothing is lost.
        drop(answer.send(Err(Problem { error: error.to_owned(), hint: hint.map(str::to_owned) })));
    }
}

/// Where to begin again: behind a failed reconcile stands a living Postgres; behind anything else it is better closed first.
const fn after_failure(stage: Stage) -> Stage {
    match stage {
        Stage::Follow | Stage::Promote | Stage::Lead => Stage::Demote,
        Stage::Repair => Stage::Reconcile,
        Stage::Seed => Stage::Seed,
        _ => Stage::Start,
    }
}
