//! The state machine: runs `core::decisions` over the decided log and publishes how far it has come.
//!
//! It keeps no rows and touches no Postgres; the applier reads the same entries from the log by itself. So applying an entry is decoding
//! it, and the state fits in a few hundred bytes. It lives in memory; a snapshot is written only when the log is to be purged, and a
//! restart runs the rest of the log again.

use super::snapshot::{DecidedState, SNAPSHOT_LEN_MAX, SnapshotFile};
use super::types::{RaftEntry, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, Verdict, counted};
use crate::core::decisions::{Decisions, Serving};
use crate::core::entry::Entry;
use crate::core::outcomes::{Outcomes, Question, Verdict as Fate};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use howdah_protocol::{LogIndex, Lsn, Term};
use openraft::storage::EntryResponder;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// How far the log is decided, and what the gate needs to know about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    /// The last decided entry that this node knows of.
    pub index: LogIndex,
    /// The term in which it was written.
    pub term: Term,
    /// The writer that opened last.
    pub serving: Option<Serving>,
    /// The serving Postgres' last commit in the log.
    pub watermark: Lsn,
    pub at: Instant,
}

/// What is kept in memory of the decided log.
#[derive(Debug)]
struct Known {
    state: DecidedState,
    /// Only of what was decided since the last snapshot: a restart fills it again from the log.
    outcomes: Outcomes,
}

impl Known {
    fn new(state: DecidedState) -> Self {
        let outcomes = Outcomes::behind(index(&state), state.decisions.serving);
        Self { state, outcomes }
    }
}

/// Shared by openraft's worker, the snapshot builder and the handle.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    known: Arc<Mutex<Known>>,
    decided: watch::Sender<Decided>,
    /// Where the last snapshot of a leader put this node, if one did since the start.
    installed: watch::Sender<Option<LogIndex>>,
    file: SnapshotFile,
}

impl Machine {
    pub(crate) fn open(file: SnapshotFile) -> io::Result<Self> {
        let state = match file.read()? {
            Some(bytes) => DecidedState::decode(&bytes)?,
            None => DecidedState::default(),
        };
        let decided = watch::Sender::new(Decided::of(&state));
        let installed = watch::Sender::new(None);
        Ok(Self { known: Arc::new(Mutex::new(Known::new(state))), decided, installed, file })
    }

    pub(crate) fn decided(&self) -> watch::Receiver<Decided> {
        self.decided.subscribe()
    }

    pub(crate) fn installed(&self) -> watch::Receiver<Option<LogIndex>> {
        self.installed.subscribe()
    }

    pub(crate) fn decisions(&self) -> (LogIndex, Decisions) {
        let state = &self.lock().state;
        (index(state), state.decisions.clone())
    }

    /// What the decided log says about a transaction.
    pub(crate) fn outcome(&self, question: &Question) -> Fate {
        self.lock().outcomes.look_up(question)
    }

    pub(crate) fn ids_used(&self) -> BTreeSet<u64> {
        self.lock().state.ids_used.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self) {
        let decided = Decided::of(&self.lock().state);
        self.decided.send_replace(decided);
    }

    fn admit(&self, entry: &RaftEntry) -> io::Result<bool> {
        let decoded = counted(entry).cloned().map(Entry::decode).transpose();
        let mut decoded = decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut known = self.lock();
        let Known { state, outcomes } = &mut *known;
        if let Some(counts) = &mut decoded {
            state.decisions.admit(counts);
            outcomes.note(LogIndex(entry.log_id.index), counts);
        }
        if let EntryPayload::Membership(membership) = &entry.payload {
            state.change_membership(StoredMembership::new(Some(entry.log_id), membership.clone()));
        }
        state.applied = Some(entry.log_id);
        Ok(decoded.is_some())
    }

    async fn write_file(&self, bytes: Bytes) -> io::Result<()> {
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || file.write(&bytes)).await.map_err(io::Error::other)?
    }
}

fn index(state: &DecidedState) -> LogIndex {
    LogIndex(state.applied.map_or(0, |id| id.index))
}

impl Decided {
    fn of(state: &DecidedState) -> Self {
        let serving = state.decisions.serving;
        Self {
            index: index(state),
            term: Term(state.applied.map_or(0, |id| id.leader_id.term)),
            serving,
            watermark: serving.map_or(Lsn(0), |serving| state.decisions.watermark(serving.instance)),
            at: Instant::now(),
        }
    }
}

impl openraft::storage::RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<super::types::LogId>, StoredMembership)> {
        let state = &self.lock().state;
        Ok((state.applied, state.membership.clone()))
    }

    /// Proposers are answered after the batch is published: who has an answer finds it in [`Decided`].
    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let counted = self.admit(&entry)?;
            answers.extend(responder.map(|responder| (responder, Verdict { counted })));
        }
        self.publish();
        answers.into_iter().for_each(|(responder, verdict)| responder.send(verdict));
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    /// The file first: openraft purges the log behind a snapshot once this returns.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        if snapshot.len() > SNAPSHOT_LEN_MAX {
            return Err(super::codec::invalid(format!("a snapshot of {} bytes", snapshot.len())));
        }
        let mut state = DecidedState::decode(&snapshot)?;
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        self.write_file(state.encode()?).await?;
        let index = index(&state);
        *self.lock() = Known::new(state);
        self.publish();
        self.installed.send_replace(Some(index));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let file = self.file.clone();
        let bytes = tokio::task::spawn_blocking(move || file.read()).await.map_err(io::Error::other)??;
        let Some(bytes) = bytes else { return Ok(None) };
        let meta = DecidedState::decode(&bytes)?.meta();
        Ok(Some(Snapshot { meta, snapshot: bytes }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let state = self.lock().state.clone();
        let bytes = state.encode()?;
        self.write_file(bytes.clone()).await?;
        Ok(Snapshot { meta: state.meta(), snapshot: bytes })
    }
}
