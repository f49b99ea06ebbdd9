//! One attempt at a repair, from the tail to the dropped slot. The order of steps, and what a failure between them leaves, stands in
//! `repair.rs`.

use super::client::{self, Fetched};
use super::{Error, STATEMENT_ROWS_MAX, archive};
use crate::config::Config;
use crate::core::coalesce::{Replacement, Step};
use crate::core::divergence::{Divergence, Known, Limits, Touched};
use crate::core::entry::Writer;
use crate::core::pgoutput::Value;
use crate::pg::connect::Target;
use crate::pg::replication;
use crate::status::Board;
use crate::{apply, capture, raft};
use futures::TryStreamExt;
use howdah_protocol::{Epoch, InstanceId, LogIndex, settings};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// An error of the applier that lasts for so long, without a step forward, ends the attempt.
const STUCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows with large values that are looked up; beyond, the rollback file names the columns without their values.
const FILL_BYTES_MAX: usize = 256 << 20;
/// How often the progress is told, at most.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Repairs this node's Postgres, which holds commits that the group never accepted. Nobody but the sidecar may be connected, and no applier
/// may run.
#[derive(Debug)]
pub struct Repair<'a> {
    pub config: &'a Config,
    pub target: &'a Target,
    pub raft: &'a raft::Handle,
    pub board: &'a Board,
    pub instance: InstanceId,
}

#[derive(Debug)]
pub enum Outcome {
    Repaired(Done),
    /// Rows are not enough, or this attempt has shown that no other will do: the node must be seeded again.
    Hopeless(String),
}

#[derive(Debug)]
pub struct Done {
    /// Row changes that were taken back.
    pub rows: u64,
    pub transactions: u64,
    /// Where they are kept.
    pub file: Option<PathBuf>,
    pub took: Duration,
}

impl Repair<'_> {
    /// Safe to drop at any point, and to call again.
    pub async fn run(&self, leader_admin: &str) -> Result<Outcome, Error> {
        let begun = Instant::now();
        self.tell("reads what the group never accepted");
        let rows_max = usize::try_from(self.config.repair_rows_max).unwrap_or(usize::MAX);
        let (_, decisions) = self.raft.decisions();
        let nobody = Writer { node: self.config.node, instance: self.instance, epoch: Epoch(0) };
        let options = capture::Options::new(self.target.clone(), nobody, decisions.watermark(self.instance));
        let mut divergence = capture::read_tail(&options, Limits::rows(rows_max)).await?;
        self.fill(&mut divergence).await?;
        let divergence = Arc::new(divergence);
        let file = self.archive(&divergence).await?;
        let done = |divergence: &Divergence| {
            let (rows, transactions) = (divergence.rows, divergence.count);
            Outcome::Repaired(Done { rows, transactions, file: file.clone(), took: begun.elapsed() })
        };
        let touched = match plan(&divergence) {
            Ok(touched) => touched,
            Err(why) => return Ok(Outcome::Hopeless(why)),
        };
        match self.replace(leader_admin, &divergence, &touched).await {
            Ok(()) => Ok(done(&divergence)),
            Err(Error::Apply(error)) if error.is_fatal() => Ok(Outcome::Hopeless(error.to_string())),
            Err(error @ (Error::TooLarge { .. } | Error::Unlike(_))) => Ok(Outcome::Hopeless(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Large values that changes did not set are looked up here, so that the rollback file shows whole rows.
    async fn fill(&self, divergence: &mut Divergence) -> Result<(), Error> {
        let incomplete = match divergence.incomplete() {
            Ok(incomplete) if divergence.refused.is_none() && !incomplete.is_empty() => incomplete,
            _ => return Ok(()),
        };
        let session = apply::fetch::open(self.target, "howdah-repair").await?;
        let (mut known, mut bytes) = (Known::default(), 0);
        for Touched { table, keys, .. } in &incomplete {
            for keys in keys.chunks(STATEMENT_ROWS_MAX) {
                let mut rows = pin!(apply::fetch::rows(&session, table, keys).await?);
                while let Some(row) = rows.try_next().await? {
                    bytes += row.iter().flatten().map(String::len).sum::<usize>();
                    if bytes > FILL_BYTES_MAX {
                        return Ok(());
                    }
                    known.add(table, row.into_iter().map(|value| value.map_or(Value::Null, |text| Value::Text(text.into()))).collect());
                }
            }
        }
        divergence.fill(known);
        Ok(())
    }

    async fn archive(&self, divergence: &Arc<Divergence>) -> Result<Option<PathBuf>, Error> {
        self.tell(&format!("writes {} row changes to a rollback file", divergence.changes.len()));
        let (dir, instance, kept) = (self.config.rollback_dir(), self.instance, Arc::clone(divergence));
        let written = tokio::task::spawn_blocking(move || archive::write(&dir, instance, &kept));
        let file = written.await.map_err(|error| Error::Stuck(error.to_string()))??;
        let path = file.as_deref().unwrap_or(Path::new("")).display();
        tracing::warn!(
            transactions = divergence.count,
            rows = divergence.rows,
            whole = divergence.is_whole(),
            file = %path,
            "this node's PostgreSQL holds commits that the group never accepted; their rows are in the rollback file"
        );
        Ok(file)
    }

    /// Everything behind the rollback file.
    async fn replace(&self, leader_admin: &str, divergence: &Divergence, touched: &[Touched]) -> Result<(), Error> {
        let keys: usize = touched.iter().map(|touched| touched.keys.len()).sum();
        self.tell(&format!("gets {keys} rows from {leader_admin}"));
        let fetched = client::fetch(self.config, self.raft, leader_admin, &client::ask(touched)).await?;
        tracing::info!(keys, rows = fetched.rows, cut = %fetched.cut.lsn, index = %fetched.index, "got the leader's rows");

        self.tell(&format!("takes {} row changes back", divergence.rows));
        let mut options = apply::Options::new(self.target.clone(), self.instance);
        let upto = divergence.last_commit.unwrap_or_default();
        apply::take_back(&options, &deletes(touched), |undone| divergence.undo(undone), upto).await?;

        let Fetched { cut, index, steps, .. } = fetched;
        let mut replacement = Replacement::new(cut, steps);
        touched.iter().for_each(|touched| replacement.replace(&touched.table, touched.encoded.iter().cloned()));
        options.replacement = Some(Arc::new(replacement));
        self.apply_to(options, index).await?;
        self.make_final().await
    }

    async fn apply_to(&self, options: apply::Options, goal: LogIndex) -> Result<(), Error> {
        let applier = apply::start(options, self.raft.clone());
        let mut applied = applier.applied();
        self.board.follow_applied(applier.applied());
        let (mut reached, mut moved) = (LogIndex(0), Instant::now());
        loop {
            let now = applied.borrow_and_update().clone();
            // A row that the log changes and this node does not have: it was not what it was taken for.
            if now.stopped || now.rows_missing > 0 {
                let why = now.error.unwrap_or_else(|| format!("{} rows that the log changes are not here", now.rows_missing));
                return Err(apply::Error::TakeBack(why).into());
            }
            if now.index >= goal {
                break;
            }
            if now.index > reached {
                (reached, moved) = (now.index, Instant::now());
            }
            if let Some(error) = now.error.filter(|_| moved.elapsed() > STUCK_TIMEOUT) {
                return Err(Error::Stuck(error));
            }
            self.tell(&format!("applies the log: {reached} of {goal}"));
            // Not at each step, and from time to time where there is none.
            tokio::time::sleep(TELL_EVERY.min(moved.elapsed())).await;
            if let Ok(Err(_)) = tokio::time::timeout(TELL_EVERY, applied.changed()).await {
                return Err(Error::Stuck("the applier has ended".to_owned()));
            }
        }
        applier.stop().await;
        Ok(())
    }

    /// The applier commits without waiting for the disk; the slot must not go before its work is there.
    async fn make_final(&self) -> Result<(), Error> {
        let session = self.target.connect("howdah-repair", "-c session_replication_role=replica").await?;
        // A real change: its commit flushes everything before it. The schema's tables are not captured.
        session.execute("UPDATE howdah.repair SET undone = undone", &[]).await?;
        replication::drop_slot(self.target, settings::SLOT).await?;
        Ok(())
    }

    fn tell(&self, doing: &str) {
        tracing::debug!(doing, "repair");
        self.board.stage.send_modify(|stage| doing.clone_into(&mut stage.detail));
    }
}

/// What to ask the leader for, or why that would not be enough.
fn plan(divergence: &Divergence) -> Result<Vec<Touched>, String> {
    let refused = divergence.refused.as_ref().map(ToString::to_string);
    refused.map_or(Ok(()), Err)?;
    divergence.undo(howdah_protocol::Lsn(0)).map_err(|refused| refused.to_string())?;
    divergence.keys().map_err(|refused| refused.to_string())
}

fn deletes(touched: &[Touched]) -> Vec<Step> {
    let of_table = |touched: &Touched| {
        let step = |keys: &[Vec<bytes::Bytes>]| Step::Net {
            table: Arc::clone(&touched.table),
            deletes: keys.to_vec(),
            updates: Vec::new(),
            upserts: Vec::new(),
        };
        touched.keys.chunks(STATEMENT_ROWS_MAX).map(step).collect::<Vec<_>>()
    };
    touched.iter().flat_map(of_table).collect()
}
