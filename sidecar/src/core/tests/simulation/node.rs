//! One node: its Postgres, its copy of the log, and, while its process runs, a sidecar. What the sidecar does here in one step at a time is
//! what `role`, `capture` and `apply` do with waiting in between; every decision is taken by the cores themselves.

use super::Checked;
use super::log::{Logged, Replica};
use super::postgres::{Access, Noted, Postgres, Tx};
use super::wire;
use super::world::{Mistake, World};
use crate::core::assemble::{Assembler, Limits};
use crate::core::coalesce::{Mode, Part, Relations, Replacement, State, plan};
use crate::core::decisions::{Decisions, within_reign};
use crate::core::divergence::{Collector, Divergence, Limits as Bounds};
use crate::core::entry::{Entry, Writer};
use crate::core::outcomes::Outcomes;
use crate::core::role::{Beyond, Slot, Verdict, judge};
use bytes::Bytes;
use howdah_protocol::{Epoch, LogIndex, Lsn, NodeId};
use rand::Rng;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) postgres: Postgres,
    pub(super) replica: Replica,
    pub(super) sidecar: Option<Sidecar>,
    /// Of its clock, in thousandths.
    pub(super) rate: u64,
}

/// What a sidecar's process knows. A new one finds Postgres and the log.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) stage: Stage,
    /// Which life of Postgres it has to do with.
    life: u64,
    pub(super) decisions: Decisions,
    pub(super) outcomes: Outcomes,
    /// How much of the log is in the two above.
    pub(super) known: usize,
    pub(super) applier: Option<Applier>,
    stay: bool,
    keeps_slot: bool,
    /// End of the last commit in the own slot when it was read.
    tail: Lsn,
    gate: Option<Gate>,
}

#[derive(Debug)]
pub(super) enum Stage {
    Start,
    Reconcile(Option<Slot>),
    Follow,
    /// Everything up to the index is to be applied first.
    Promote {
        goal: usize,
    },
    Opening {
        term: u64,
        index: usize,
        writer: Writer,
    },
    /// Open for writes once everything that was here before is decided.
    Lead {
        term: u64,
        open: bool,
    },
    Demote,
    Repair(super::repair::Repair),
}

#[derive(Debug)]
pub(super) struct Applier {
    relations: Relations,
    pub(super) applied: LogIndex,
    pub(super) state: State,
    pub(super) replacement: Option<Arc<Replacement>>,
}

#[derive(Debug)]
struct Gate {
    assembler: Assembler,
    writer: Writer,
    term: u64,
    /// End of the last transaction that the stream brought.
    read: Lsn,
    described: bool,
    in_flight: Option<usize>,
}

impl Applier {
    pub(super) fn new(postgres: &Postgres, replacement: Option<Arc<Replacement>>) -> Self {
        let (applied, state) = postgres.noted.progress.clone().unwrap_or_default();
        Self { relations: Relations::default(), applied, state, replacement }
    }
}

impl Sidecar {
    pub(super) fn new(life: u64) -> Self {
        Self {
            stage: Stage::Start,
            life,
            decisions: Decisions::default(),
            outcomes: Outcomes::default(),
            known: 0,
            applier: None,
            stay: false,
            keeps_slot: false,
            tail: Lsn(0),
            gate: None,
        }
    }

    /// As the state machine does.
    fn admit(&mut self, replica: &Replica) {
        while self.known < replica.decided {
            self.known += 1;
            let Some(payload) = &replica.entries[self.known - 1].payload else { continue };
            let mut entry = Entry::decode(payload.clone()).expect("it was encoded here");
            self.decisions.admit(&mut entry);
            self.outcomes.note(LogIndex(self.known as u64), &entry);
        }
    }

    /// Leads, and knows everything that earlier terms decided.
    pub(super) fn is_leader(&self, replica: &Replica) -> bool {
        replica.leads && replica.term_at(self.known) == replica.term
    }

    pub(super) fn leads_open(&self) -> bool {
        matches!(self.stage, Stage::Lead { open: true, .. })
    }
}

/// What the own slot holds behind the log's watermark.
pub(super) fn tail(postgres: &Postgres, watermark: Lsn, bounds: Bounds) -> Checked<Option<Divergence>> {
    let Some(stream) = postgres.stream(watermark) else { return Ok(None) };
    let (mut collector, mut described) = (Collector::new(bounds, watermark), false);
    for message in stream.flat_map(|record| wire::messages(record, &mut described)) {
        collector.message(message).map_err(|error| error.to_string())?;
    }
    Ok(Some(collector.finish()))
}

impl World {
    /// One step of a node's sidecar.
    pub(super) fn act(&mut self, at: usize) -> Checked {
        let Node { postgres, replica, sidecar, .. } = &mut self.nodes[at];
        let Some(sidecar) = sidecar else { return Ok(()) };
        sidecar.admit(replica);
        if sidecar.life != postgres.life {
            // Postgres has crashed and is back: the epoch is gone, and the connections are.
            sidecar.life = postgres.life;
            sidecar.applier = None;
            sidecar.stage = Stage::Demote;
        }
        if self.random.random_ratio(1, 3) {
            self.apply(at)?;
            // A stage takes its time; the applier does not wait for it.
            if self.random.random_ratio(2, 3) {
                return Ok(());
            }
        }
        let sidecar = self.nodes[at].sidecar.as_mut().expect("looked at above");
        match std::mem::replace(&mut sidecar.stage, Stage::Start) {
            Stage::Start | Stage::Demote => self.close(at),
            Stage::Reconcile(slot) => self.reconcile(at, slot),
            Stage::Follow => self.follow(at),
            Stage::Promote { goal } => self.promote(at, goal),
            Stage::Opening { term, index, writer } => self.attach(at, term, index, writer),
            Stage::Lead { term, open } => self.lead(at, term, open),
            Stage::Repair(repair) => self.repair(at, repair),
        }
    }

    pub(super) fn stage(&mut self, at: usize, stage: Stage) -> Checked {
        self.tell(|| format!("node {at}: {stage:?}"));
        self.nodes[at].sidecar.as_mut().expect("it acts").stage = stage;
        Ok(())
    }

    /// Clients out, gate and epoch gone.
    fn close(&mut self, at: usize) -> Checked {
        let Node { postgres, sidecar, .. } = &mut self.nodes[at];
        let sidecar = sidecar.as_mut().expect("it acts");
        sidecar.gate = None;
        (postgres.epoch, postgres.access) = (None, Access::Closed);
        postgres.end_sessions()?;
        self.stage(at, Stage::Reconcile(None))
    }

    fn reconcile(&mut self, at: usize, slot: Option<Slot>) -> Checked {
        let Node { postgres, replica, sidecar, .. } = &mut self.nodes[at];
        let sidecar = sidecar.as_mut().expect("it acts");
        let me = postgres.instance;
        let slot = match slot {
            Some(slot) => slot,
            None => match tail(postgres, sidecar.decisions.watermark(me), Bounds::rows(0))? {
                Some(found) => Slot::Read { last_commit: found.last_commit },
                None => Slot::Missing,
            },
        };
        let own = |logged: &Logged| logged.payload.as_ref().and_then(Entry::opening).is_some_and(|writer| writer.instance == me);
        let opening = replica.entries[sidecar.known..].iter().any(own) && self.mistake != Some(Mistake::ForgetsItsOpening);
        sidecar.tail = if let Slot::Read { last_commit: Some(end) } = slot { end } else { Lsn(0) };
        let verdict = match judge(me, &sidecar.decisions, slot, Beyond { leads: sidecar.is_leader(replica), opening }) {
            Verdict::Diverged if self.mistake == Some(Mistake::TailNotTakenBack) => Verdict::Clean,
            verdict => verdict,
        };
        match verdict {
            Verdict::Clean => {
                let mine = sidecar.decisions.serving.is_some_and(|serving| serving.instance == me);
                sidecar.keeps_slot = slot != Slot::Missing && mine;
                if !sidecar.keeps_slot {
                    postgres.slot = None;
                }
                sidecar.run_applier(postgres);
                self.stage(at, Stage::Follow)
            }
            Verdict::LeadAgain => {
                sidecar.run_applier(postgres);
                let goal = sidecar.known;
                self.stage(at, Stage::Promote { goal })
            }
            Verdict::Wait => self.stage(at, Stage::Reconcile(Some(slot))),
            Verdict::Diverged if slot == Slot::Missing => Err("a slot is gone that was the only witness".to_owned()),
            Verdict::Diverged => {
                sidecar.applier = None;
                self.stage(at, Stage::Repair(super::repair::Repair::default()))
            }
        }
    }

    fn follow(&mut self, at: usize) -> Checked {
        let epoch = self.new_epoch();
        let Node { postgres, replica, sidecar, .. } = &mut self.nodes[at];
        let sidecar = sidecar.as_mut().expect("it acts");
        let me = postgres.instance;
        if sidecar.keeps_slot && sidecar.decisions.serving.is_some_and(|serving| serving.instance != me) {
            (postgres.slot, sidecar.keeps_slot) = (None, false);
        }
        let applied = sidecar.applier.as_ref().map_or(0, |applier| applier.applied.0 as usize);
        if sidecar.is_leader(replica) {
            let goal = sidecar.known;
            return self.stage(at, Stage::Promote { goal });
        }
        if postgres.epoch.is_none() && applied >= sidecar.known && replica.leader.is_some_and(|leader| leader != at) {
            (postgres.epoch, postgres.access) = (Some(epoch), Access::Reads);
        }
        self.stage(at, Stage::Follow)
    }

    fn promote(&mut self, at: usize, goal: usize) -> Checked {
        let fresh = self.new_epoch();
        let Node { postgres, replica, sidecar, .. } = &mut self.nodes[at];
        let sidecar = sidecar.as_mut().expect("it acts");
        let applied = sidecar.applier.as_ref().map_or(0, |applier| applier.applied.0 as usize);
        if !sidecar.is_leader(replica) {
            return self.stage(at, Stage::Demote);
        }
        if applied < goal {
            return self.stage(at, Stage::Promote { goal });
        }
        sidecar.stay = self.mistake != Some(Mistake::AppliesPastReign);
        if sidecar.decisions.serving.is_none_or(|serving| serving.instance != postgres.instance) {
            sidecar.keeps_slot = true;
            postgres.create_slot();
        }
        let epoch = postgres.epoch.unwrap_or(fresh);
        let writer = Writer { node: NodeId(at as u64 + 1), instance: postgres.instance, epoch };
        let term = replica.term;
        let Some(index) = replica.propose(term, Entry::Open { writer, time_ms: 0 }.encode()) else {
            return self.stage(at, Stage::Demote);
        };
        self.stage(at, Stage::Opening { term, index, writer })
    }

    fn attach(&mut self, at: usize, term: u64, index: usize, writer: Writer) -> Checked {
        let Node { postgres, replica, sidecar, .. } = &mut self.nodes[at];
        let sidecar = sidecar.as_mut().expect("it acts");
        if replica.entries.len() < index || replica.term_at(index) != term || replica.term != term {
            return self.stage(at, Stage::Demote);
        }
        if sidecar.known < index {
            return self.stage(at, Stage::Opening { term, index, writer });
        }
        let watermark = sidecar.decisions.watermark(writer.instance);
        let confirmed = postgres.slot.ok_or("the gate finds no slot")?;
        let limits = Limits { item_bytes_max: 4096, entry_bytes_max: 512, ..Limits::default() };
        let assembler = Assembler::new(limits, watermark, confirmed);
        let read = confirmed.max(watermark);
        sidecar.gate = Some(Gate { assembler, writer, term, read, described: false, in_flight: None });
        self.stage(at, Stage::Lead { term, open: false })
    }

    /// Clients may write.
    fn open(&mut self, at: usize, term: u64) -> Checked {
        let Node { postgres, sidecar, .. } = &mut self.nodes[at];
        let gate = sidecar.as_ref().and_then(|sidecar| sidecar.gate.as_ref()).expect("it leads");
        let epoch = gate.writer.epoch;
        (postgres.epoch, postgres.access) = (Some(epoch), Access::Writes);
        self.oracle.opened(at, epoch)?;
        self.stage(at, Stage::Lead { term, open: true })
    }

    fn lead(&mut self, at: usize, term: u64, open: bool) -> Checked {
        let Node { postgres, replica, sidecar, .. } = &mut self.nodes[at];
        let sidecar = sidecar.as_mut().expect("it acts");
        let Some(gate) = sidecar.gate.as_mut().filter(|_| replica.leads && replica.term == term) else {
            return self.stage(at, Stage::Demote);
        };
        let goes_on = match self.random.random_range(0..3) {
            0 => gate.read(postgres, self.random.random_range(1..4)).map(|()| true),
            1 => Ok(gate.propose(replica, self.mistake)),
            _ => Ok(gate.decided(replica, sidecar.known)),
        }?;
        if !goes_on {
            return self.stage(at, Stage::Demote);
        }
        let upto = match self.mistake {
            Some(Mistake::ConfirmsWhatItRead) => gate.read,
            _ => gate.assembler.confirmed(),
        };
        let returned = postgres.confirm(upto)?;
        let is_whole = sidecar.decisions.watermark(postgres.instance) >= sidecar.tail;
        self.stage(at, Stage::Lead { term, open })?;
        if !open && (is_whole || self.mistake == Some(Mistake::OpensBeforeItsTailIsDecided)) {
            self.open(at, term)?;
        }
        self.oracle.learn(&self.nodes[at].replica.entries[..self.nodes[at].replica.decided])?;
        self.acknowledge(&returned)
    }

    /// One local transaction of the applier's.
    fn apply(&mut self, at: usize) -> Checked {
        let (most, mode) = (self.random.random_range(1..12), if self.random.random_bool(0.8) { Mode::Net } else { Mode::Ordered });
        let Node { postgres, replica, sidecar, .. } = &mut self.nodes[at];
        let Some(Sidecar { applier: Some(applier), stay, known, .. }) = sidecar else { return Ok(()) };
        let from = applier.applied.0 as usize;
        let until = (*known).min(from + most);
        let numbered = (from + 1..).zip(&replica.entries[from..until.max(from)]);
        let mut entries: Vec<(LogIndex, Option<Bytes>)> =
            numbered.map(|(index, logged)| (LogIndex(index as u64), logged.payload.clone())).collect();
        if *stay {
            entries.truncate(within_reign(postgres.instance, &applier.state.decisions, &entries));
        }
        if entries.is_empty() {
            return Ok(());
        }
        let planned = plan(postgres.instance, &applier.state, &entries, mode, applier.replacement.as_ref(), None, &mut applier.relations);
        let planned = planned.map_err(|error| error.to_string())?;
        let mut steps = Vec::new();
        for part in planned.parts {
            let Part::Steps(part) = part else { return Err("a large transaction that nobody made".to_owned()) };
            steps.extend(part);
        }
        // Where no rows change, the position is stored now and then.
        if !steps.is_empty() || self.random.random_ratio(1, 4) {
            let noted = Noted { progress: Some((planned.last, planned.state.clone())), undone: None };
            postgres.execute(&steps, noted).map_err(|error| format!("node {at} applies up to {}: {error}", planned.last))?;
        }
        (applier.applied, applier.state) = (planned.last, planned.state);
        Ok(())
    }

    fn new_epoch(&mut self) -> Epoch {
        self.epochs += 1;
        Epoch(self.epochs)
    }

    fn acknowledge(&mut self, returned: &[Tx]) -> Checked {
        for tx in returned {
            // Somebody else is told the same a second time only if it asked again.
            if self.clients.iter_mut().any(|client| client.returned(*tx)) {
                self.oracle.counts.acknowledged += 1;
                self.oracle.acknowledged(*tx)?;
            }
        }
        Ok(())
    }
}

impl Sidecar {
    pub(super) fn restart_applier(&mut self, applier: Applier) {
        (self.applier, self.stay) = (Some(applier), false);
    }

    fn run_applier(&mut self, postgres: &Postgres) {
        self.applier.get_or_insert_with(|| Applier::new(postgres, None));
        self.stay = false;
    }
}

impl Gate {
    fn read(&mut self, postgres: &Postgres, most: usize) -> Checked {
        let stream = postgres.stream(self.read).ok_or("the gate's slot is gone")?;
        for record in stream.take(most) {
            for message in wire::messages(record, &mut self.described) {
                self.assembler.message(message).map_err(|error| error.to_string())?;
            }
            self.read = record.end;
        }
        self.assembler.keepalive(self.read);
        Ok(())
    }

    /// False where the line has ended.
    fn propose(&mut self, replica: &mut Replica, mistake: Option<Mistake>) -> bool {
        if self.in_flight.is_some() {
            return true;
        }
        let Some(batch) = self.assembler.take() else { return true };
        let entry = Entry::Batch { writer: self.writer, time_ms: 0, items: batch.items }.encode();
        self.in_flight = replica.propose(self.term, entry);
        if mistake == Some(Mistake::ConfirmsOwnDisk) && self.in_flight.take().is_some() {
            self.assembler.decided();
            return true;
        }
        self.in_flight.is_some()
    }

    /// False where the proposal is not in the log any more.
    fn decided(&mut self, replica: &Replica, known: usize) -> bool {
        let Some(index) = self.in_flight else { return true };
        let kept = replica.entries.len() >= index && replica.term_at(index) == self.term;
        if known >= index && kept {
            self.assembler.decided();
            self.in_flight = None;
        }
        kept
    }
}
