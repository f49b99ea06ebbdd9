//! Leading: keep the gate, tell the log how far the sequences are, and notice what ends it.

use super::{Error, Manager, Stage, epoch, sequences, watchdog};
use crate::admin::Command;
use crate::capture;
use crate::core::entry::Entry;
use howdah_protocol::NodeId;
use howdah_protocol::admin::{Problem, Role, Switchover};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a planned hand-over waits for transactions to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(5);
const BUSY: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND usename <> current_user AND (state <> 'idle' OR now() - state_change < interval '5 ms')";
/// How often the leader looks at its sequences.
const SEQUENCES_EVERY: Duration = Duration::from_secs(1);

/// What may happen to a leader.
enum Event {
    Deposed(Option<NodeId>),
    GateEnded(Option<Arc<capture::Error>>),
    PostgresEnded(String),
    EpochLost,
    Unmarked(Error),
    Unwatched(Error),
    Command(Command),
}

impl Manager {
    pub(super) async fn lead(&mut self) -> Result<Stage, Error> {
        self.say(Role::Leader, "leads");
        let mut role = self.raft.role();
        let term = self.term;
        let Some(mut gate) = self.gate.as_ref().map(capture::Handle::state) else { return Ok(Stage::Demote) };
        let marks = sequences::Marks::new(self.target.clone(), self.raft.proposer(term));
        let marking = marks.run(SEQUENCES_EVERY);
        tokio::pin!(marking);
        let watchdog = watchdog::run(self.target.clone());
        tokio::pin!(watchdog);
        let (mut marked, mut watched) = (true, true);
        loop {
            let event = tokio::select! {
                changed = role.wait_for(|role| !role.is_leader || role.term != term) => {
                    Event::Deposed(changed.ok().and_then(|role| role.leader))
                }
                ended = gate.wait_for(|state| state.stopped) => Event::GateEnded(ended.ok().and_then(|state| state.error.clone())),
                how = Self::postgres_ended(&mut self.server) => Event::PostgresEnded(how),
                () = epoch::lost(self.epoch.as_ref()) => Event::EpochLost,
                error = &mut marking, if marked => Event::Unmarked(error),
                error = &mut watchdog, if watched => Event::Unwatched(error),
                Some(command) = self.commands.recv() => Event::Command(command),
                _ = self.shutdown.wait_for(|stop| *stop) => return Ok(Stage::Stop),
            };
            match event {
                Event::Deposed(leader) => {
                    tracing::warn!(?leader, %term, "no longer the leader");
                    return Ok(Stage::Demote);
                }
                Event::GateEnded(error) => {
                    tracing::warn!(?error, "the gate ended");
                    self.note(error.map_or_else(|| "the gate ended".to_owned(), |error| error.to_string()));
                    self.hand_over().await;
                    return Ok(Stage::Demote);
                }
                Event::PostgresEnded(how) => {
                    tracing::error!(how, "PostgreSQL ended");
                    self.note(format!("PostgreSQL ended: {how}"));
                    self.epoch = None;
                    self.say(Role::Demoting, "PostgreSQL ended");
                    self.hand_over().await;
                    return Ok(Stage::Start);
                }
                Event::EpochLost => {
                    self.note("PostgreSQL dropped the session that holds the serving epoch".to_owned());
                    self.hand_over().await;
                    return Err(Error::Stopped("the serving epoch was lost".into()));
                }
                // The one ends with the term, the other with the server's sessions; that is noticed elsewhere.
                Event::Unmarked(error) => {
                    tracing::warn!(%error, "sequences are not watched");
                    marked = false;
                }
                Event::Unwatched(error) => {
                    tracing::warn!(%error, "the watchdog ended");
                    watched = false;
                }
                Event::Command(command) => self.switch_over(command).await,
            }
        }
    }

    /// Before leadership is handed over by plan: proxies are told to hold new statements back, and what is under way may end. Sessions that
    /// are not done in time are ended by the demotion.
    pub(super) async fn drain(&self) {
        self.board.stage.send_modify(|stage| {
            stage.open = false;
            stage.detail = "hands over".to_owned();
        });
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        let Ok(session) = self.target.connect("howdah-drain", "").await else { return };
        while Instant::now() < deadline {
            match session.query_one(BUSY, &[]).await {
                Ok(row) if row.get::<_, i64>(0) > 0 => tokio::time::sleep(DRAIN_POLL).await,
                _ => return,
            }
        }
        tracing::warn!("client sessions did not end their transactions within {DRAIN_TIMEOUT:?}");
    }

    async fn switch_over(&mut self, command: Command) {
        let Command::Switchover { request, answer } = command;
        let done = match self.raft.planned_successor(request.to).await {
            Ok(to) => self.drain_and_transfer(to).await,
            Err(error) => Err(error.to_string()),
        };
        let done = done.map_err(|error| Problem { error, hint: Some("see howdahctl status".into()) });
        if answer.send(done).is_err() {
            tracing::debug!("whoever asked for the switchover has gone");
        }
    }

    async fn drain_and_transfer(&mut self, to: NodeId) -> Result<Switchover, String> {
        self.drain().await;
        let handover = Duration::from_millis(self.config.timing.handover_ms);
        let handed = tokio::time::timeout(handover, self.raft.transfer_leader(Some(to))).await;
        let done =
            handed.map_err(|_| format!("no hand-over within {handover:?}")).and_then(|handed| handed.map_err(|error| error.to_string()));
        if done.is_err() {
            self.say(Role::Leader, "leads");
        }
        done.map(|to| Switchover { from: self.config.node, to })
    }
}

/// What the marks become in the log.
pub(super) fn marks_entry(marks: &BTreeMap<String, i64>) -> Entry {
    Entry::Sequences { marks: marks.iter().map(|(name, value)| (name.clone(), *value)).collect() }
}
