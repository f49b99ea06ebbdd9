//! The stage in which an ex-leader's Postgres is repaired: `crate::repair` does it, and here it is decided when it ends, and what follows.

use super::seed::other_leader;
use super::{Error, Manager, Stage};
use crate::repair::{self, Done, Outcome};
use howdah_protocol::admin::Role;

/// Attempts that fail by this node's own fault before it is seeded again.
const ATTEMPTS_MAX: u32 = 5;

/// What has happened so far, in this process' life.
#[derive(Debug, Default)]
pub(super) struct History {
    attempts: u32,
    /// What the operator should know of the last repair.
    pub(super) notice: Option<String>,
}

/// How an attempt ended.
enum Event {
    Ended(Result<Outcome, repair::Error>),
    /// This node was elected. It cannot ask itself.
    Elected,
    PostgresEnded(String),
    Stop,
}

impl Manager {
    pub(super) async fn repair(&mut self) -> Result<Stage, Error> {
        self.say(Role::Repairing, "waiting for a leader to be repaired from");
        if let Some(applier) = self.applier.take() {
            applier.stop().await;
        }
        let leader = other_leader(&self.config, &self.raft).await?.address;
        self.say(Role::Repairing, format!("is repaired from {leader}"));
        let repair =
            repair::Repair { config: &self.config, target: &self.target, raft: &self.raft, board: &self.board, instance: self.instance };
        let mut role = self.raft.role();
        let event = tokio::select! {
            ended = Box::pin(repair.run(&leader)) => Event::Ended(ended),
            _ = role.wait_for(|role| role.is_leader) => Event::Elected,
            how = Self::postgres_ended(&mut self.server) => Event::PostgresEnded(how),
            _ = self.shutdown.wait_for(|stop| *stop) => Event::Stop,
        };
        match event {
            Event::Ended(Ok(Outcome::Repaired(done))) => {
                self.repaired(&done);
                Ok(Stage::Reconcile)
            }
            Event::Ended(Ok(Outcome::Hopeless(why))) => Ok(self.seed_because(why)),
            Event::Ended(Err(error)) => {
                self.repairs.attempts += u32::from(error.is_own());
                if self.repairs.attempts >= ATTEMPTS_MAX {
                    return Ok(self.seed_because(format!("{ATTEMPTS_MAX} attempts at a repair failed, the last with: {error}")));
                }
                Err(error.into())
            }
            // `standby` hands on.
            Event::Elected => Ok(Stage::Reconcile),
            Event::PostgresEnded(how) => {
                tracing::error!(how, "PostgreSQL ended");
                Ok(Stage::Start)
            }
            Event::Stop => Ok(Stage::Stop),
        }
    }

    fn repaired(&mut self, done: &Done) {
        let file = done.file.as_ref().map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
        let seconds = done.took.as_secs_f64();
        tracing::warn!(rows = done.rows, transactions = done.transactions, file, seconds, "repaired");
        self.repairs.attempts = 0;
        let notice = format!("{} row changes that the group never accepted were taken back; they are in {file}", done.rows);
        self.repairs.notice = Some(notice);
        self.board.repairs.send_modify(|repairs| {
            repairs.repairs += 1;
            repairs.rows += done.rows;
            repairs.seconds = seconds;
        });
    }

    /// Rows are not enough: the whole node is filled again. The reason is logged here, and shown while it is done.
    pub(super) fn seed_because(&mut self, why: String) -> Stage {
        tracing::warn!(why, "this node is seeded again");
        self.board.repairs.send_modify(|repairs| repairs.seeded += 1);
        self.repairs = History { attempts: 0, notice: Some(format!("was seeded again: {why}")) };
        Stage::Seed
    }
}
