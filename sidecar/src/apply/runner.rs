//! The loop: read decided entries, plan them, send them, and while Postgres works plan the next.
//!
//! What fails is rolled back and tried again from the stored position: set-based first, then (where Postgres refused a row) the same entries
//! row by row in order, then with growing pauses for ever. Only a broken invariant (a log that does not fit this node) ends the loop.

use super::execute;
use super::hold::{self, Halt};
use super::progress::{self, Progress};
use super::session::Session;
use super::unblock;
use super::{Applied, Control, Error, Log, Options};
use crate::core::coalesce::{Mode, Plan, Relations, plan};
use crate::core::decisions::within_reign;
use bytes::Bytes;
use howdah_protocol::LogIndex;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long sessions may block apply while the whole group waits for it.
const HURRIED_DELAY_MAX: Duration = Duration::from_secs(1);
/// Positions that move without writing rows (on the leader, all) are stored so often.
const LAZY_PROGRESS: Duration = Duration::from_secs(1);

pub(super) async fn run<L: Log>(options: Options, log: Arc<L>, publish: watch::Sender<Applied>, control: Arc<Control>) {
    let mut stop = control.stop.subscribe();
    let mut ordered_until = LogIndex(0);
    let mut backoff = BACKOFF_MIN;
    loop {
        let before = publish.borrow().index;
        let Err(error) = connected(&options, &log, &publish, &control, &mut ordered_until).await else { return };
        if *stop.borrow() {
            return;
        }
        let last_words = error.to_string();
        let fatal = error.is_fatal();
        publish.send_modify(|applied| (applied.error, applied.stopped) = (Some(last_words), fatal));
        if fatal {
            tracing::error!(%error, "apply stops");
            // The receivers keep seeing the reason until the handle goes.
            let _ = stop.wait_for(|stop| *stop).await;
            return;
        }
        tracing::warn!(%error, "apply starts again");
        backoff = if publish.borrow().index > before { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// One session's life. Ends well only when asked to stop.
async fn connected<L: Log>(
    options: &Options,
    log: &Arc<L>,
    publish: &watch::Sender<Applied>,
    control: &Control,
    ordered_until: &mut LogIndex,
) -> Result<(), Error> {
    let session = Session::open(options).await?;
    let mut runner = Runner {
        options,
        log: log.as_ref(),
        publish,
        control,
        ordered_until,
        session,
        relations: Relations::default(),
        done: Progress::default(),
        stored: LogIndex(0),
        stored_at: Instant::now(),
        flight: None,
    };
    runner.reload().await?;
    while !*control.stop.borrow() {
        if let Err(error) = runner.turn().await {
            runner.recover(error).await?;
        }
    }
    runner.land().await?;
    runner.store_position().await
}

/// A transaction that was sent and not answered yet.
#[derive(Debug)]
struct Flight {
    plan: Plan,
    mode: Mode,
}

struct Runner<'a, L> {
    options: &'a Options,
    log: &'a L,
    publish: &'a watch::Sender<Applied>,
    control: &'a Control,
    /// Entries up to here are applied row by row: Postgres refused them as a set.
    ordered_until: &'a mut LogIndex,
    session: Session,
    relations: Relations,
    /// What is visible here.
    done: Progress,
    /// The position in the table, which may be behind where no rows had to be written.
    stored: LogIndex,
    stored_at: Instant,
    flight: Option<Flight>,
}

impl<L: Log> Runner<'_, L> {
    async fn reload(&mut self) -> Result<(), Error> {
        self.done = progress::load(&self.session.client).await?;
        self.stored = self.done.applied;
        self.flight = None;
        self.publish.send_modify(|applied| applied.held = None);
        self.published(0, 0);
        Ok(())
    }

    /// One step forward, or a wait for something to do.
    async fn turn(&mut self) -> Result<(), Error> {
        if *self.control.hold.borrow() == Some(Halt::Here) {
            return self.stand_still(Halt::Here).await;
        }
        let planned = self.flight.as_ref().map_or(self.done.applied, |flight| flight.plan.last);
        let until = self.until();
        if planned >= until {
            return if self.flight.is_some() { self.land().await } else { self.idle(planned).await };
        }
        let mut entries = self.log.read(planned.next(), self.options.batch_bytes_max).await?;
        let size: usize = entries.iter().map(|(_, payload)| payload.as_ref().map_or(0, Bytes::len)).sum();
        if size < self.options.batch_bytes_max / 2 {
            if self.flight.is_some() {
                // Too little to be worth a transaction of its own: see what has come when this one is through.
                return self.land().await;
            }
            linger(self.options, self.control).await;
            entries = self.log.read(planned.next(), self.options.batch_bytes_max).await?;
        }
        entries.retain(|(index, _)| *index <= until);
        if *self.control.stay.borrow() {
            let state = self.flight.as_ref().map_or(&self.done.state, |flight| &flight.plan.state);
            entries.truncate(within_reign(self.options.instance, &state.decisions, &entries));
            if entries.is_empty() {
                return if self.flight.is_some() { self.land().await } else { self.wait_at_the_end_of_the_reign().await };
            }
        }
        if !entries.is_empty() {
            self.advance(&entries).await?;
        }
        Ok(())
    }

    async fn wait_at_the_end_of_the_reign(&mut self) -> Result<(), Error> {
        let (mut stay, mut stop) = (self.control.stay.subscribe(), self.control.stop.subscribe());
        self.store_position().await?;
        tokio::select! {
            _ = stay.wait_for(|stay| !*stay) => Ok(()),
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            () = tokio::time::sleep(LAZY_PROGRESS) => self.check_connection(),
        }
    }

    /// Until the holder says otherwise. What it asks for meanwhile is done here.
    async fn stand_still(&mut self, at: Halt) -> Result<(), Error> {
        self.land().await?;
        let (mut hold, mut stop) = (self.control.hold.subscribe(), self.control.stop.subscribe());
        self.publish.send_if_modified(|applied| applied.held.replace(at) != Some(at));
        if *hold.borrow_and_update() == Some(at) && !*stop.borrow_and_update() {
            tokio::select! {
                _ = hold.changed() => {}
                _ = stop.changed() => {}
                () = self.control.job_given.notified() => self.patch().await?,
                () = tokio::time::sleep(LAZY_PROGRESS) => self.check_connection()?,
            }
        }
        if *self.control.hold.borrow() != Some(at) {
            self.publish.send_modify(|applied| applied.held = None);
        }
        Ok(())
    }

    async fn patch(&mut self) -> Result<(), Error> {
        let job = self.control.job.lock().expect("no thread panics while it holds the lock").take();
        let Some(hold::Job { patch, answer }) = job else { return Ok(()) };
        let pid = self.session.pid;
        let done = guarded(self.options, self.control, pid, Box::pin(hold::execute(&mut self.session, &patch))).await;
        let cleaned = hold::clean_up(&mut self.session, done.is_err()).await;
        // The holder may have gone; then nobody needs to know.
        drop(answer.send(done));
        cleaned
    }

    /// The last entry that may be applied now.
    fn until(&self) -> LogIndex {
        let decided = self.log.decided();
        self.control.pause_at.borrow().map_or(decided, |pause| pause.min(decided))
    }

    /// Plans the next entries while the transaction before them runs, and sends them when it is through.
    async fn advance(&mut self, entries: &[(LogIndex, Option<Bytes>)]) -> Result<(), Error> {
        let row_by_row = entries.first().is_some_and(|(index, _)| index <= self.ordered_until);
        let mode = if row_by_row { Mode::Ordered } else { Mode::Net };
        let covered = if row_by_row { entries.partition_point(|(index, _)| index <= self.ordered_until) } else { entries.len() };
        let state = self.flight.as_ref().map_or(&self.done.state, |flight| &flight.plan.state);
        let replacement = self.options.replacement.as_ref();
        let halt = self.control.hold.borrow().and_then(Halt::cut);
        let plan = plan(self.options.instance, state, &entries[..covered], mode, replacement, halt, &mut self.relations)?;
        self.land().await?;
        if plan.parts.is_empty() {
            self.done = Progress { applied: plan.last, state: plan.state };
            self.published(plan.transactions, 0);
            if let Some(cut) = halt.filter(|_| plan.halted) {
                return self.stand_still(Halt::At(cut)).await;
            }
            return if self.stored_at.elapsed() >= LAZY_PROGRESS { self.store_position().await } else { Ok(()) };
        }
        let flight = self.flight.insert(Flight { plan, mode });
        let pid = self.session.pid;
        let sent = execute::send(&mut self.session, self.log, &flight.plan, mode, &mut self.relations);
        guarded(self.options, self.control, pid, Box::pin(sent)).await
    }

    /// Waits for the transaction in flight, if there is one.
    async fn land(&mut self) -> Result<(), Error> {
        if self.flight.is_none() {
            return Ok(());
        }
        let pid = self.session.pid;
        guarded(self.options, self.control, pid, Box::pin(self.session.pipeline.drain())).await?;
        let Some(Flight { plan, mode }) = self.flight.take() else { return Ok(()) };
        self.done = Progress { applied: plan.last, state: plan.state };
        (self.stored, self.stored_at) = (plan.last, Instant::now());
        self.published(plan.transactions, u64::from(mode == Mode::Ordered));
        Ok(())
    }

    fn published(&mut self, transactions: u64, fallbacks: u64) {
        let rows_missing = self.session.pipeline.take_rows_missing();
        if rows_missing > 0 {
            tracing::error!(rows = rows_missing, index = %self.done.applied, "rows that the leader changed are not on this node");
        }
        let index = self.done.applied;
        let needs_from = self.done.state.needs_from(self.stored);
        self.publish.send_modify(|applied| {
            applied.batches += u64::from(index > applied.index);
            (applied.index, applied.at, applied.needs_from, applied.error) = (index, Instant::now(), needs_from, None);
            applied.transactions += transactions;
            applied.fallbacks += fallbacks;
            applied.rows_missing += rows_missing;
        });
        self.control.lag.applied(index);
    }

    async fn idle(&mut self, planned: LogIndex) -> Result<(), Error> {
        let (mut pause, mut stop) = (self.control.pause_at.subscribe(), self.control.stop.subscribe());
        let mut hold = self.control.hold.subscribe();
        let lazy = self.stored < self.done.applied;
        // A change of the pause since `until` was computed would be missed by `changed` alone.
        if self.until() > planned || *stop.borrow() || *hold.borrow() == Some(Halt::Here) {
            return Ok(());
        }
        let paused = self.control.pause_at.borrow().is_some_and(|at| at <= planned);
        let store = tokio::select! {
            () = self.log.decided_past(planned), if !paused => false,
            _ = pause.changed() => false,
            _ = hold.changed() => false,
            _ = stop.changed() => false,
            () = tokio::time::sleep_until(self.stored_at + LAZY_PROGRESS), if lazy => true,
            // A connection that died is noticed although there is nothing to do.
            () = tokio::time::sleep(LAZY_PROGRESS), if !lazy => return self.check_connection(),
        };
        if store { self.store_position().await } else { Ok(()) }
    }

    fn check_connection(&self) -> Result<(), Error> {
        if self.session.client.is_closed() { Err(Error::Disconnected) } else { Ok(()) }
    }

    async fn store_position(&mut self) -> Result<(), Error> {
        if self.stored < self.done.applied {
            execute::position(&mut self.session, self.done.applied, progress::encode(&self.done.state)).await?;
            let pid = self.session.pid;
            guarded(self.options, self.control, pid, Box::pin(self.session.pipeline.drain())).await?;
            (self.stored, self.stored_at) = (self.done.applied, Instant::now());
            self.published(0, 0);
        }
        Ok(())
    }

    /// Rolls back. A refused set is tried again row by row at once; what cannot be helped here ends the session.
    async fn recover(&mut self, error: Error) -> Result<(), Error> {
        let Some(flight) = self.flight.take() else { return Err(error) };
        if error.is_fatal() || !error.is_refusal() || flight.mode == Mode::Ordered {
            return Err(error);
        }
        tracing::debug!(%error, from = %self.done.applied, to = %flight.plan.last, "applying row by row");
        *self.ordered_until = flight.plan.touched;
        // What was answered after the failure belongs to the transaction that is rolled back.
        let _ = self.session.pipeline.drain().await;
        self.session.pipeline.take_rows_missing();
        self.session.command("ROLLBACK").await?;
        self.session.pipeline.drain().await?;
        // Statements may have been prepared against what the transaction created.
        self.session.forget();
        Ok(())
    }
}

async fn linger(options: &Options, control: &Control) {
    if !options.linger.is_zero() && control.waiting.load(Ordering::Relaxed) == 0 {
        tokio::select! {
            () = tokio::time::sleep(options.linger) => {}
            () = control.wanted.notified() => {}
        }
    }
}

/// Runs what waits for Postgres. While it takes longer than is acceptable, the sessions that block it are ended.
async fn guarded(
    options: &Options,
    control: &Control,
    pid: i32,
    work: impl Future<Output = Result<(), Error>> + Unpin,
) -> Result<(), Error> {
    let mut work = work;
    let mut terminate = false;
    let mut hurry = control.hurry.subscribe();
    loop {
        let most = if *hurry.borrow_and_update() { HURRIED_DELAY_MAX } else { options.max_apply_delay };
        let delay = options.max_apply_delay.min(most);
        tokio::select! {
            biased;
            result = &mut work => return result,
            // It lives as long as the applier: no error.
            _ = hurry.changed() => {}
            () = tokio::time::sleep(delay) => match unblock::unblock(&options.target, pid, terminate).await {
                // It takes long by itself.
                Ok(0) => {}
                Ok(ended) => {
                    tracing::warn!(ended, "sessions that blocked apply for {delay:?} were ended");
                    terminate = true;
                }
                Err(error) => tracing::warn!(%error, "cannot look for sessions that block apply"),
            },
        }
    }
}

/// Notes when entries become decided, whatever apply is doing.
pub(super) async fn watch_decided<L: Log>(log: Arc<L>, control: Arc<Control>) {
    loop {
        let decided = log.decided();
        control.lag.decided(decided);
        tokio::time::sleep(Lag::SPACING).await;
        log.decided_past(decided).await;
    }
}

/// When entries became decided, to tell how old the oldest is that is not applied.
#[derive(Debug, Default)]
pub(super) struct Lag(Mutex<VecDeque<(LogIndex, Instant)>>);

impl Lag {
    const SAMPLES_MAX: usize = 65_536;
    const SPACING: Duration = Duration::from_millis(2);

    fn decided(&self, index: LogIndex) {
        let mut samples = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if samples.len() < Self::SAMPLES_MAX && samples.back().is_none_or(|(last, _)| *last < index) {
            samples.push_back((index, Instant::now()));
        }
    }

    fn applied(&self, index: LogIndex) {
        let mut samples = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while samples.front().is_some_and(|(decided, _)| *decided <= index) {
            samples.pop_front();
        }
    }

    pub(super) fn of(&self, applied: LogIndex) -> Duration {
        let samples = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        samples.iter().find(|(decided, _)| *decided > applied).map_or(Duration::ZERO, |(_, at)| at.elapsed())
    }
}
