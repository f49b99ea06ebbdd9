//! The gate's task: waits for the connection and for decisions, and performs what the assembler says.
//!
//! `select!` decides nothing: it waits for one thing, its handler takes everything that is there, and the end of the turn proposes and
//! confirms what came of it. So under load one turn serves many commits, with one read, one proposal and one position sent.

use super::{Error, Limits, Metrics, Options, ProposeError, Proposer, State, attach};
use crate::core::assemble::{Assembler, Batch};
use crate::core::entry::{Entry, Writer};
use crate::pg::replication::{self, Connection, Event, Stream};
use bytes::Bytes;
use futures::FutureExt;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use howdah_protocol::{LogIndex, Lsn, settings};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};

/// How often silence is looked at.
const TICK: Duration = Duration::from_millis(250);
/// A slot stays in use for a moment after its last connection broke.
const SLOT_IN_USE: &str = "55006";
const SLOT_RETRY_EVERY: Duration = Duration::from_millis(20);
const SLOT_RETRY_MAX: u32 = 250;

/// The last thing that is published.
pub(super) fn finish(publish: &watch::Sender<State>, error: Option<Error>) {
    publish.send_modify(|state| {
        state.attached = false;
        state.stopped = true;
        state.error = error.map(Arc::new);
    });
}

/// Serves until it is stopped or something is wrong.
pub(super) async fn serve<P: Proposer>(
    options: &Options,
    proposer: &P,
    publish: &watch::Sender<State>,
    metrics: &Metrics,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), Error> {
    let (stream, confirmed) = tokio::select! {
        biased;
        _ = &mut stop => return Ok(()),
        opened = open(options, settings::GATE_APPLICATION_NAME) => opened?,
    };
    let attach = attach::wait(options.target.clone(), stream.process_id(), options.limits.attach_timeout);
    let mut attach = std::pin::pin!(attach);
    let assembler = Assembler::new(options.limits.assemble, options.start_after, confirmed);
    let mut gate = Gate::new(stream, assembler, |entry| proposer.propose(entry), options, publish, metrics);
    // Without a position Postgres does not count us.
    gate.finish_turn()?;
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => {
                gate.stream.close();
                return Ok(());
            }
            turned = gate.turn(attach.as_mut()) => turned?,
        }
    }
}

/// Opens the stream behind the last commit in the log. Answers it with the position that this server was told already.
pub(super) async fn open(options: &Options, application_name: &str) -> Result<(Stream, Lsn), Error> {
    for _ in 0..SLOT_RETRY_MAX {
        let mut connection = Connection::open(&options.target, application_name).await?;
        let confirmed = replication::confirmed_flush(&mut connection, &options.slot).await?;
        let confirmed = confirmed.ok_or_else(|| Error::NoSlot(options.slot.clone()))?;
        match connection.start(&options.slot, &options.publication, options.start_after).await {
            Err(error) if error.code() == Some(SLOT_IN_USE) => tokio::time::sleep(SLOT_RETRY_EVERY).await,
            started => return Ok((started?, confirmed)),
        }
    }
    Err(replication::Error::TimedOut { what: "with the slot free", limit: SLOT_RETRY_EVERY * SLOT_RETRY_MAX }.into())
}

/// A proposal whose decision is awaited.
#[derive(Debug)]
struct InFlight {
    bytes: usize,
    since: Instant,
}

struct Gate<'a, N, F: Future> {
    stream: Stream,
    assembler: Assembler,
    propose: N,
    decisions: FuturesOrdered<F>,
    /// One for each of `decisions`, in the same order.
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// When the oldest change that waits to be proposed was read.
    waiting_since: Option<Instant>,
    received: Lsn,
    /// The position that Postgres was told last.
    told: Lsn,
    /// Postgres asked to be told, whether the position moved or not.
    must_tell: bool,
    heard: Instant,
    asked: bool,
    ticks: Interval,
    attached: bool,
    writer: Writer,
    limits: Limits,
    publish: &'a watch::Sender<State>,
    metrics: &'a Metrics,
}

impl<'a, N, F> Gate<'a, N, F>
where
    N: FnMut(Bytes) -> F,
    F: Future<Output = Result<LogIndex, ProposeError>>,
{
    fn new(
        stream: Stream,
        assembler: Assembler,
        propose: N,
        options: &Options,
        publish: &'a watch::Sender<State>,
        metrics: &'a Metrics,
    ) -> Self {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream,
            received: assembler.confirmed(),
            assembler,
            propose,
            decisions: FuturesOrdered::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            waiting_since: None,
            told: Lsn(0),
            must_tell: true,
            heard: Instant::now(),
            asked: false,
            ticks,
            attached: false,
            writer: options.writer,
            limits: options.limits.clone(),
            publish,
            metrics,
        }
    }

    /// Waits for one thing, and performs everything that follows from it.
    async fn turn(&mut self, attach: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        // A full line takes nothing more: what Postgres decodes meanwhile collects in the socket, and then one read takes all of it.
        let full = self.in_flight.len() >= self.limits.proposals_in_flight_max
            || self.in_flight_bytes + self.assembler.waiting_bytes() >= self.limits.bytes_in_flight_max;
        let must_flush = self.stream.must_flush();
        let wake = tokio::select! {
            biased;
            Some(decision) = self.decisions.next(), if !self.decisions.is_empty() => Wake::Decision(decision),
            event = wait(&mut self.stream, !full, must_flush) => event?,
            attached = attach, if !self.attached => { attached?; Wake::Attached }
            _ = self.ticks.tick() => Wake::Tick,
        };
        match wake {
            Wake::Decision(decision) => self.decisions_ready(decision)?,
            Wake::Readable => self.take_events()?,
            Wake::Flushed => {}
            Wake::Attached => self.attached = true,
            Wake::Tick => self.look_at_silence(!full)?,
        }
        self.finish_turn()
    }

    fn decisions_ready(&mut self, first: Result<LogIndex, ProposeError>) -> Result<(), Error> {
        let mut next = Some(first);
        let now = Instant::now();
        while let Some(decision) = next {
            decision?;
            let done = self.in_flight.pop_front().expect("one for each decision");
            self.in_flight_bytes -= done.bytes;
            self.metrics.decided(now - done.since);
            self.assembler.decided();
            next = self.decisions.next().now_or_never().flatten();
        }
        Ok(())
    }

    fn take_events(&mut self) -> Result<(), Error> {
        self.heard = Instant::now();
        self.asked = false;
        let mut bytes = 0;
        while let Some(event) = self.stream.next_event()? {
            match event {
                Event::Data(message) => {
                    bytes += message.len();
                    self.assembler.message(message)?;
                }
                Event::Keepalive { wal_end, reply } => {
                    self.assembler.keepalive(wal_end);
                    self.received = self.received.max(wal_end);
                    self.must_tell |= reply;
                }
            }
        }
        self.metrics.read(bytes, self.assembler.counts());
        Ok(())
    }

    /// A server that decodes answers when it is asked. While we do not read, silence is ours.
    fn look_at_silence(&mut self, reading: bool) -> Result<(), Error> {
        if !reading {
            self.heard = Instant::now();
            self.must_tell = true;
            return Ok(());
        }
        let silent = self.heard.elapsed();
        if silent > self.limits.stall_timeout && self.asked {
            return Err(Error::Stalled(silent));
        }
        if silent > self.limits.ping_after && !self.asked {
            self.asked = true;
            self.stream.status(self.assembler.confirmed(), true)?;
        }
        Ok(())
    }

    /// Proposes what may be proposed, tells Postgres what is decided, publishes where we stand.
    fn finish_turn(&mut self) -> Result<(), Error> {
        if self.waiting_since.is_none() && self.assembler.waiting_bytes() > 0 {
            self.waiting_since = Some(self.heard);
        }
        while self.in_flight.len() < self.limits.proposals_in_flight_max
            && self.in_flight_bytes < self.limits.bytes_in_flight_max
            && let Some(batch) = self.assembler.take()
        {
            self.propose(batch);
        }
        let confirmed = self.assembler.confirmed();
        if confirmed > self.told || self.must_tell {
            self.stream.status(confirmed, false)?;
            self.told = confirmed;
            self.must_tell = false;
            self.metrics.confirmed();
        }
        self.received = self.received.max(confirmed);
        self.publish.send_if_modified(|state| {
            state.received = self.received;
            state.confirmed = confirmed;
            state.pending = self.in_flight.len();
            state.waiting_since = self.in_flight.front().map(|oldest| oldest.since);
            !std::mem::replace(&mut state.attached, self.attached) && self.attached
        });
        Ok(())
    }

    fn propose(&mut self, batch: Batch) {
        let Batch { items, commits, .. } = batch;
        let entry = Entry::Batch { writer: self.writer, time_ms: now_ms(), items }.encode();
        let bytes = entry.len();
        let since = self.waiting_since.unwrap_or(self.heard);
        if self.assembler.waiting_bytes() == 0 {
            self.waiting_since = None;
        }
        self.metrics.proposed(bytes, commits);
        self.in_flight_bytes += bytes;
        self.in_flight.push_back(InFlight { bytes, since });
        self.decisions.push_back((self.propose)(entry));
    }
}

/// What a turn begins with.
enum Wake {
    Decision(Result<LogIndex, ProposeError>),
    Readable,
    Flushed,
    Attached,
    Tick,
}

/// Waits for the connection, in the directions that matter now.
async fn wait(stream: &mut Stream, reading: bool, must_flush: bool) -> Result<Wake, Error> {
    if must_flush {
        stream.flush().await?;
        return Ok(Wake::Flushed);
    }
    if reading {
        stream.fill().await?;
        return Ok(Wake::Readable);
    }
    std::future::pending().await
}

/// For people who read the log; order comes from the log alone.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}
