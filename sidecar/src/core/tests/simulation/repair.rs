//! The steps of a repair, as `crate::repair` does them; a crash may come between any two.

use super::Checked;
use super::node::{Applier, Node, Sidecar, Stage, tail};
use super::postgres::{Noted, Rows};
use super::world::{Mistake, World};
use crate::core::coalesce::{Change, Coalescer, Cut, Mode, Replacement, Step, Table, TableId};
use crate::core::decisions::{Fate, Serving};
use crate::core::divergence::{Divergence, Limits, Touched};
use crate::core::pgoutput::Value;
use bytes::Bytes;
use howdah_protocol::Lsn;
use std::sync::Arc;

/// What one attempt knows so far.
#[derive(Debug, Default)]
pub(super) enum Repair {
    #[default]
    Begin,
    /// The leader's rows are here; whether what they hold is decided is not known yet.
    Fetched { divergence: Divergence, by: Serving, cut: Cut, steps: Vec<Step> },
    /// What was divergent is gone; the log is applied up to the cut.
    Replacing { cut: Cut },
}

const TABLE_IDS_FROM: usize = 1 << 49;

impl World {
    pub(super) fn repair(&mut self, at: usize, repair: Repair) -> Checked {
        if self.nodes[at].replica.leads {
            // It cannot ask itself, and somebody has to open.
            self.hand_on(at);
            return self.stage(at, Stage::Repair(Repair::Begin));
        }
        match repair {
            Repair::Begin => self.fetch(at),
            Repair::Fetched { divergence, by, cut, steps } => self.replace(at, divergence, by, cut, steps),
            Repair::Replacing { cut } => self.finish(at, cut),
        }
    }

    fn fetch(&mut self, at: usize) -> Checked {
        let again = Stage::Repair(Repair::Begin);
        self.nodes[at].sidecar.as_mut().expect("it acts").applier = None;
        let leader = self.nodes[at].replica.leader.filter(|leader| self.reach(at, *leader) && self.reach(*leader, at));
        let Some(leader) = leader.filter(|leader| self.nodes[*leader].sidecar.as_ref().is_some_and(Sidecar::leads_open)) else {
            return self.stage(at, again);
        };
        let Node { postgres, sidecar, .. } = &self.nodes[at];
        let decisions = &sidecar.as_ref().expect("it acts").decisions;
        let (watermark, by) = (decisions.watermark(postgres.instance), decisions.serving);
        let source = self.nodes[leader].postgres.instance;
        let Some(by) = by.filter(|by| by.instance == source) else { return self.stage(at, again) };
        let Some(divergence) = tail(&self.nodes[at].postgres, watermark, Limits::rows(1000))? else {
            return Err("the slot went before the repair was done".to_owned());
        };
        let touched = divergence.keys().map_err(|refused| refused.to_string())?;
        let source = &mut self.nodes[leader].postgres;
        let (rows, lsn, instance) = (source.snapshot()?, source.end, source.instance);
        let mark = source.mark().clone();
        self.oracle.committed(instance, &mark);
        let steps = put_in(&touched, &rows)?;
        self.stage(at, Stage::Repair(Repair::Fetched { divergence, by, cut: Cut { instance, lsn }, steps }))
    }

    fn replace(&mut self, at: usize, divergence: Divergence, by: Serving, cut: Cut, steps: Vec<Step>) -> Checked {
        let Node { postgres, sidecar, .. } = &mut self.nodes[at];
        let sidecar = sidecar.as_mut().expect("it acts");
        match sidecar.decisions.fate(by, cut.lsn) {
            Fate::Void => return self.stage(at, Stage::Repair(Repair::Begin)),
            Fate::Open => return self.stage(at, Stage::Repair(Repair::Fetched { divergence, by, cut, steps })),
            Fate::Decided => {}
        }
        let touched = divergence.keys().map_err(|refused| refused.to_string())?;
        let undone = postgres.noted.undone.unwrap_or_default();
        let after = if self.mistake == Some(Mistake::TakesBackTwice) { Lsn(0) } else { undone };
        let mut local: Vec<Step> = touched.iter().map(emptied).collect();
        local.extend(divergence.undo(after).map_err(|refused| refused.to_string())?);
        let upto = divergence.last_commit.unwrap_or_default().max(undone);
        postgres.execute(&local, Noted { progress: None, undone: Some(upto) })?;

        let mut replacement = Replacement::new(cut, steps);
        touched.iter().for_each(|touched| replacement.replace(&touched.table, touched.encoded.iter().cloned()));
        sidecar.restart_applier(Applier::new(postgres, Some(Arc::new(replacement))));
        let instance = postgres.instance;
        self.oracle.taken_back(instance);
        self.stage(at, Stage::Repair(Repair::Replacing { cut }))
    }

    fn finish(&mut self, at: usize, cut: Cut) -> Checked {
        let Node { postgres, sidecar, .. } = &mut self.nodes[at];
        let sidecar = sidecar.as_mut().expect("it acts");
        let applier = sidecar.applier.as_ref().ok_or("the repair's applier is gone")?;
        if !applier.has_passed(&cut) {
            return self.stage(at, Stage::Repair(Repair::Replacing { cut }));
        }
        sidecar.applier = None;
        postgres.flush();
        postgres.slot = None;
        self.stage(at, Stage::Reconcile(None))
    }
}

fn emptied(touched: &Touched) -> Step {
    Step::Net { table: Arc::clone(&touched.table), deletes: touched.keys.clone(), updates: Vec::new(), upserts: Vec::new() }
}

/// The leader's rows of the keys, as steps.
fn put_in(touched: &[Touched], rows: &Rows) -> Checked<Vec<Step>> {
    let mut steps = Vec::new();
    for (nth, touched) in touched.iter().enumerate() {
        let table = Arc::new(Table::new(TableId(TABLE_IDS_FROM + nth), touched.table.relation.clone()));
        let mut coalescer = Coalescer::new(Mode::Net);
        for key in &touched.keys {
            let id: u64 = std::str::from_utf8(&key[0]).expect("digits").parse().expect("a number");
            let Some(value) = rows.keyed.get(&id) else { continue };
            let text = |number: u64| Value::Text(Bytes::from(number.to_string()));
            coalescer.push(&table, Change::Insert { new: vec![text(id), text(*value)] }).map_err(|error| error.to_string())?;
        }
        steps.extend(coalescer.finish());
    }
    Ok(steps)
}

impl Applier {
    fn has_passed(&self, cut: &Cut) -> bool {
        cut.is_passed(&self.state.decisions)
    }
}
