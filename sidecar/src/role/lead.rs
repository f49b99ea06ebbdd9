//! Leading: keep the gate, tell the log how far the sequences are, and notice what ends it.

use super::{Error, Manager, Stage, sequences};
use crate::admin::Command;
use crate::core::entry::Entry;
use howdah_protocol::admin::{Problem, Role, Switchover};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often the leader looks at its sequences.
const SEQUENCES_EVERY: Duration = Duration::from_secs(1);

impl Manager {
    pub(super) async fn lead(&mut self) -> Result<Stage, Error> {
        self.say(Role::Leader, "leads");
        let mut role = self.raft.role();
        let term = role.borrow().term;
        let Some(mut gate) = self.gate.as_ref().map(crate::capture::Handle::state) else { return Ok(Stage::Demote) };
        let marks = sequences::Marks::new(self.target.clone(), self.raft.proposer(term));
        let marking = marks.run(SEQUENCES_EVERY);
        tokio::pin!(marking);
        let mut watched = true;
        loop {
            tokio::select! {
                changed = role.wait_for(|role| !role.is_leader || role.term != term) => {
                    let leader = changed.ok().and_then(|role| role.leader);
                    tracing::warn!(?leader, %term, "no longer the leader");
                    return Ok(Stage::Demote);
                }
                ended = gate.wait_for(|state| state.error.is_some()) => {
                    let error = ended.ok().and_then(|state| state.error.clone());
                    tracing::error!(?error, "the gate ended");
                    self.hand_over().await;
                    return Ok(Stage::Demote);
                }
                how = Self::postgres_ended(&mut self.server) => {
                    tracing::error!(how, "PostgreSQL ended");
                    self.say(Role::Demoting, "PostgreSQL ended");
                    self.hand_over().await;
                    return Ok(Stage::Start);
                }
                () = self.epoch_lost() => {
                    self.hand_over().await;
                    return Err(Error::Stopped("the serving epoch was lost".into()));
                }
                error = &mut marking, if watched => {
                    tracing::warn!(%error, "sequences are not watched");
                    watched = false;
                }
                Some(command) = self.commands.recv() => self.switch_over(command).await,
                _ = self.shutdown.wait_for(|stop| *stop) => return Ok(Stage::Stop),
            }
        }
    }

    async fn switch_over(&mut self, command: Command) {
        let Command::Switchover { request, answer } = command;
        let from = self.config.node;
        let handover = Duration::from_millis(self.config.timing.handover_ms);
        let done = match tokio::time::timeout(handover, self.raft.transfer_leader(request.to)).await {
            Ok(Ok(to)) => Ok(Switchover { from, to }),
            Ok(Err(error)) => Err(Problem { error: error.to_string(), hint: Some("see howdahctl status".into()) }),
            Err(_) => Err(Problem { error: format!("no hand-over within {handover:?}"), hint: Some("see howdahctl status".into()) }),
        };
        if answer.send(done).is_err() {
            tracing::debug!("whoever asked for the switchover has gone");
        }
    }
}

/// What the marks become in the log.
pub(super) fn marks_entry(marks: &BTreeMap<String, i64>) -> Entry {
    Entry::Sequences { marks: marks.iter().map(|(name, value)| (name.clone(), *value)).collect() }
}
