//! Finding out what a node whose Postgres has just started, or just stopped leading, may become; and following.

use super::{Error, Manager, Stage, sequences};
use crate::admin::Command;
use crate::apply;
use crate::capture;
use crate::core::entry::Writer;
use crate::core::health::Fit;
use crate::core::role::{Beyond, Slot, Verdict, judge};
use crate::pg::access::Access;
use crate::pg::replication;
use crate::raft;
use crate::role::epoch::{self, ServingEpoch};
use howdah_protocol::admin::Role;
use howdah_protocol::{Epoch, LogIndex, Lsn, settings};
use std::time::Duration;
use tokio::sync::watch;

/// What may happen to a follower.
enum Event {
    /// Something changed that the loop looks at anyway.
    Look,
    CaughtUp,
    /// Another node has opened since this one did.
    Succeeded,
    EpochLost,
    PostgresEnded(String),
    Command(Command),
    Stop,
}

impl Manager {
    /// Reads the own slot to its end, compares with the log, and decides. Clients are out all the while.
    pub(super) async fn reconcile(&mut self) -> Result<Stage, Error> {
        self.say(Role::Reconciling, "reading the own slot");
        let slot = self.read_slot().await?;
        self.tail = if let Slot::Read { last_commit: Some(end) } = slot { end } else { Lsn(0) };
        let (mut decided, mut role) = (self.raft.decided(), self.raft.role());
        loop {
            self.check_log()?;
            decided.borrow_and_update();
            let leads = role.borrow_and_update().is_leader;
            let (known, decisions) = self.raft.decisions();
            let opening = self.raft.holds_opening(self.instance, known)?;
            match judge(self.instance, &decisions, slot, Beyond { leads, opening }) {
                Verdict::Clean => {
                    let mine = decisions.serving.is_some_and(|serving| serving.instance == self.instance);
                    self.keeps_slot = slot != Slot::Missing;
                    if self.keeps_slot && !mine {
                        self.drop_slot().await?;
                    }
                    self.run_applier();
                    return Ok(Stage::Follow);
                }
                Verdict::LeadAgain => {
                    self.run_applier();
                    return Ok(Stage::Promote);
                }
                Verdict::Diverged if slot == Slot::Missing => {
                    return Ok(self.seed_because("its slot is gone, so what it committed last is not known".to_owned()));
                }
                Verdict::Diverged => {
                    tracing::warn!("this node holds commits that the group never accepted: it is repaired");
                    return Ok(Stage::Repair);
                }
                Verdict::Wait => {
                    self.say(Role::Reconciling, "holds commits, or an opening, that are not decided yet; waits for a leader");
                    // It may be that leader.
                    self.raft.set_stage(Fit::Doubtful);
                    tokio::select! {
                        _ = decided.changed() => {}
                        _ = role.changed() => {}
                        _ = self.shutdown.wait_for(|stop| *stop) => return Ok(Stage::Stop),
                        how = Self::postgres_ended(&mut self.server) => return Err(Error::Stopped(how)),
                    }
                }
            }
            if *self.shutdown.borrow() {
                return Ok(Stage::Stop);
            }
        }
    }

    async fn read_slot(&self) -> Result<Slot, Error> {
        let session = self.target.connect("howdah-reconcile", "").await?;
        let found = session.query_opt("SELECT FROM pg_replication_slots WHERE slot_name = $1", &[&settings::SLOT]).await?;
        if found.is_none() {
            return Ok(Slot::Missing);
        }
        let (_, decisions) = self.raft.decisions();
        let watermark = decisions.watermark(self.instance);
        let nobody = Writer { node: self.config.node, instance: self.instance, epoch: Epoch(0) };
        let tail = capture::drain_tail(&capture::Options::new(self.target.clone(), nobody, watermark)).await?;
        if tail.count > 0 {
            tracing::info!(commits = tail.count, last = ?tail.last_commit, %watermark, "the own slot holds commits behind the log's watermark");
        }
        Ok(Slot::Read { last_commit: tail.last_commit })
    }

    pub(super) async fn drop_slot(&mut self) -> Result<(), Error> {
        replication::drop_slot(&self.target, settings::SLOT).await?;
        self.keeps_slot = false;
        Ok(())
    }

    /// Resolves when another instance has opened, so that the own slot, if one is kept, is of no more use.
    fn succeeded(&self) -> impl Future<Output = ()> + use<> {
        let (mut decided, me, keeps) = (self.raft.decided(), self.instance, self.keeps_slot);
        async move {
            let other = |now: &raft::Decided| keeps && now.serving.is_some_and(|serving| serving.instance != me);
            if decided.wait_for(other).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Everything that was committed here is decided, or is about to be proposed: nothing of another's can meet what is not.
    pub(super) fn run_applier(&mut self) {
        if self.applier.is_none() {
            let mut options = apply::Options::new(self.target.clone(), self.instance);
            options.max_apply_delay = Duration::from_secs(self.config.apply_delay_max_s);
            let applier = apply::start(options, self.raft.clone());
            self.board.follow_applied(applier.applied());
            self.board.holder.send_replace(Some(applier.holder()));
            self.applier = Some(applier);
        }
        if let Some(applier) = &self.applier {
            applier.stay(false);
            applier.hurry(false);
        }
    }

    pub(super) async fn hand_over(&self) {
        match self.raft.transfer_leader(None).await {
            Ok(to) => tracing::info!(%to, "handed leadership over"),
            Err(error) => tracing::warn!(%error, "no hand-over"),
        }
    }

    /// Applies, serves reads, and waits for something to happen.
    pub(super) async fn follow(&mut self) -> Result<Stage, Error> {
        let (mut role, mut installed) = (self.raft.role(), self.raft.snapshot_installed());
        let mut applier = self.applier_state();
        let began_at = self.position().await?;
        let raising = sequences::Following::new(self.target.clone(), self.raft.clone(), self.board.applied.subscribe()).run();
        tokio::pin!(raising);
        loop {
            self.check_log()?;
            if role.borrow_and_update().is_leader {
                return Ok(Stage::Promote);
            }
            let snapshot = *installed.borrow_and_update();
            if self.is_behind(began_at, snapshot) {
                return Ok(self.seed_because("the log no longer reaches back to where this node is".to_owned()));
            }
            let error = applier.borrow_and_update().error.clone();
            let doing = if self.epoch.is_some() { "follows" } else { "catching up" };
            let notice = self.repairs.notice.as_ref().map(|notice| format!("; {notice}")).unwrap_or_default();
            self.say(Role::Follower, error.unwrap_or_else(|| format!("{doing}{notice}")));
            let (caught_up, succeeded) = (self.caught_up(), self.succeeded());
            let event = tokio::select! {
                _ = role.changed() => Event::Look,
                _ = installed.changed() => Event::Look,
                () = error_changed(&mut applier) => Event::Look,
                () = caught_up => Event::CaughtUp,
                () = succeeded => Event::Succeeded,
                never = &mut raising => match never {},
                () = epoch::lost(self.epoch.as_ref()) => Event::EpochLost,
                how = Self::postgres_ended(&mut self.server) => Event::PostgresEnded(how),
                Some(command) = self.commands.recv() => Event::Command(command),
                _ = self.shutdown.wait_for(|stop| *stop) => Event::Stop,
            };
            match event {
                Event::Look => {}
                Event::CaughtUp => self.open_for_reads().await?,
                Event::Succeeded => self.drop_slot().await?,
                Event::EpochLost => return Err(Error::Stopped("the serving epoch was lost".into())),
                Event::PostgresEnded(how) => {
                    tracing::error!(how, "PostgreSQL ended");
                    return Ok(Stage::Start);
                }
                Event::Command(command) => Self::refuse(command, "this node is not the leader", Some("ask the leader")),
                Event::Stop => return Ok(Stage::Stop),
            }
        }
    }

    async fn open_for_reads(&mut self) -> Result<(), Error> {
        self.set_access(Access::Reads).await?;
        self.epoch = Some(ServingEpoch::begin(&self.target).await?);
        Ok(())
    }

    /// Resolves when this node, not open yet, has applied all that is decided now, under some leader.
    fn caught_up(&self) -> impl Future<Output = ()> + use<> {
        let is_open = self.epoch.is_some();
        let (mut role, decided) = (self.raft.role(), self.raft.decided());
        let mut applied = self.board.applied.subscribe();
        async move {
            // The channels live as long as the manager; should they close, waiting for ever is what is wanted.
            if is_open || role.wait_for(|role| role.leader.is_some()).await.is_err() {
                return std::future::pending().await;
            }
            let goal = decided.borrow().index;
            if applied.wait_for(|index| *index >= goal).await.is_err() {
                std::future::pending().await
            }
        }
    }

    fn applier_state(&self) -> watch::Receiver<apply::Applied> {
        self.applier.as_ref().expect("reconcile, which comes before, has started it").applied()
    }

    /// Whether the log was purged past what is applied here, while this node was away.
    fn is_behind(&self, began_at: LogIndex, snapshot: Option<LogIndex>) -> bool {
        // The applier says 0 until it has read where it is. A node that was just filled would be taken for one that is behind.
        let applied = began_at.max(*self.board.applied.borrow());
        snapshot.is_some_and(|index| index > applied) || self.raft.first_index().is_ok_and(|first| first > applied.next())
    }

    /// Where this node's Postgres is in the log.
    async fn position(&self) -> Result<LogIndex, Error> {
        let session = self.target.connect("howdah-reconcile", "").await?;
        let row = session.query_one("SELECT applied_index FROM howdah.progress", &[]).await?;
        Ok(LogIndex(row.get::<_, i64>(0).unsigned_abs()))
    }
}

/// Resolves when the applier begins or ceases to complain. Its progress alone is no event for the role.
async fn error_changed(applier: &mut watch::Receiver<apply::Applied>) {
    let before = applier.borrow_and_update().error.clone();
    if applier.wait_for(|now| now.error != before).await.is_err() {
        std::future::pending::<()>().await;
    }
}
