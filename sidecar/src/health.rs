//! Measures whether this node is well, and keeps it from leading while it is not; the judge is `core/health`.
//!
//! ```text
//!   pulse: a question to Postgres, each second ─┐
//!   the log's writes (raft) ────────────────────┼─► core::health ─► fitness (raft) ─► leadership is handed on (role/standby)
//!   free space of the disks ────────────────────┘        └────────► status
//! ```
//!
//! - On the leader the question makes Postgres write and flush WAL: a disk that takes no writes leaves it without an answer.
//! - Every question has a time-out, and only a row of them counts: a process that was stopped finds its own clock ahead of everything.
//! - Must never: act on Postgres. Whatever a hanging server does when it goes on, it does without the gate, and so acknowledges nothing.

use crate::config::{Config, Mode};
use crate::core::health::{Apply, Health, Pulse, Signs};
use crate::pg::connect::{self, Target};
use crate::pg::server::Server;
use crate::raft;
use crate::status::Board;
use howdah_protocol::admin::Role;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const ASK_EVERY: Duration = Duration::from_secs(1);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long the reason why this node gave leadership up is told.
const NOTE_AGE_MAX: Duration = Duration::from_secs(30);

/// Locks a row, which is written and flushed, and changes nothing, so that nothing comes out of decoding.
const WRITE: &str = "SELECT FROM howdah.node FOR UPDATE";
const READ: &str = "SELECT 1";

#[derive(Debug)]
pub struct Watcher {
    raft: raft::Handle,
    board: Board,
    target: Target,
    folders: Vec<PathBuf>,
}

impl Watcher {
    #[must_use]
    pub fn new(config: &Config, raft: raft::Handle, board: Board) -> Self {
        let mut folders = vec![config.data_dir.clone()];
        if config.postgres.mode == Mode::Managed {
            // Either may lie on a disk of its own.
            folders.extend([config.pg_data(), config.pg_data().join("pg_wal")]);
        }
        Self { raft, board, target: Server::target(config), folders }
    }

    /// Runs until the process ends.
    pub async fn run(self) {
        let (send, pulse) = watch::channel(Pulse::Good);
        tokio::join!(beat(&self.target, &self.board, &send), self.look(&pulse));
    }

    async fn look(&self, pulse: &watch::Receiver<Pulse>) {
        let (start, mut health) = (Instant::now(), Health::default());
        let mut known: Option<String> = None;
        let mut fit = health.fit();
        let mut leads_closed_since = None;
        loop {
            sleep(LOOK_EVERY).await;
            leads_closed_since = self.leads_closed().then(|| leads_closed_since.unwrap_or_else(Instant::now));
            let signs = Signs {
                postgres: pulse.borrow().clone(),
                log_write_ms: millis(self.raft.slowest_write()),
                free: self.fullest(),
                leads_closed_ms: leads_closed_since.map_or(0, |since| millis(since.elapsed())),
                apply: self.apply(),
            };
            let trouble = health.look(millis(start.elapsed()), &signs).map(ToString::to_string);
            if trouble != known {
                match &trouble {
                    Some(trouble) => tracing::error!(trouble, "this node leaves leading to others"),
                    None => tracing::info!("this node is well again, and may lead"),
                }
                known.clone_from(&trouble);
            }
            if health.fit() != fit {
                fit = health.fit();
                self.raft.set_health(fit);
            }
            self.tell(trouble);
        }
    }

    /// This node has to open, and has not yet.
    fn leads_closed(&self) -> bool {
        let stage = self.board.stage.borrow();
        self.raft.role().borrow().is_leader && !(stage.role == Role::Leader && stage.open)
    }

    fn apply(&self) -> Apply {
        let follows = self.board.stage.borrow().role == Role::Follower;
        let Some(applier) = self.board.applier.borrow().clone().filter(|_| follows) else { return Apply::NotAsked };
        let applied = applier.borrow();
        match &applied.error {
            Some(error) if applied.stopped => Apply::Stopped(error.clone()),
            _ => Apply::Behind { ms: self.board.published().borrow().lag_ms },
        }
    }

    fn tell(&self, trouble: Option<String>) {
        let note = self.board.note.borrow().as_ref().filter(|note| note.since.elapsed() < NOTE_AGE_MAX).map(|note| note.text.clone());
        let told = trouble.or(note);
        self.board.trouble.send_if_modified(|old| *old != told && std::mem::replace(old, told.clone()) != told);
    }

    /// A folder that is not there yet, or cannot be asked, says nothing.
    fn fullest(&self) -> Option<(String, u64)> {
        let free = |folder: &PathBuf| {
            let found = rustix::fs::statvfs(folder).ok()?;
            Some((folder.display().to_string(), found.f_bavail.saturating_mul(found.f_frsize)))
        };
        self.folders.iter().filter_map(free).min_by_key(|(_, bytes)| *bytes)
    }
}

/// Asks again and again.
async fn beat(target: &Target, board: &Board, send: &watch::Sender<Pulse>) {
    let (mut session, mut silences) = (None, 0);
    loop {
        let role = board.stage.borrow().role;
        let pulse = match role {
            Role::Leader | Role::Follower => {
                let question = if role == Role::Leader { WRITE } else { READ };
                // A session that was left without an answer is given up: the next question goes to a new one.
                let answer = timeout(ANSWER_WAIT_MAX, ask(target, session.take(), question)).await;
                judge(answer.map(|answer| answer.map(|open| session = Some(open))), &mut silences)
            }
            // It may be down, or starting, and somebody waits for it.
            _ => {
                (session, silences) = (None, 0);
                Pulse::Good
            }
        };
        let silent = matches!(pulse, Pulse::Silent(_));
        send.send_replace(pulse);
        if !silent {
            sleep(ASK_EVERY).await;
        }
    }
}

async fn ask(target: &Target, session: Option<Client>, question: &str) -> Result<Client, connect::Error> {
    let session = match session {
        Some(session) if !session.is_closed() => session,
        _ => target.connect("howdah-pulse", "").await?,
    };
    let source = match session.simple_query(question).await {
        Ok(_) => return Ok(session),
        Err(source) => source,
    };
    Err(connect::Error::Connect { host: target.host.display().to_string(), port: target.port, source })
}

fn judge(answer: Result<Result<(), connect::Error>, tokio::time::error::Elapsed>, silences: &mut u32) -> Pulse {
    let error = match answer {
        Err(_) | Ok(Err(connect::Error::TimedOut { .. })) => {
            *silences += 1;
            return Pulse::Silent(*silences);
        }
        Ok(answer) => {
            *silences = 0;
            answer.err()
        }
    };
    // Any other answer is a sign of life, and a server that is gone is noticed where it is waited for.
    let Some(connect::Error::Connect { source, .. }) = error else { return Pulse::Good };
    match source.as_db_error() {
        Some(said) if matches!(*said.code(), SqlState::DISK_FULL | SqlState::IO_ERROR) => Pulse::CannotWrite(said.message().to_owned()),
        _ => Pulse::Good,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
