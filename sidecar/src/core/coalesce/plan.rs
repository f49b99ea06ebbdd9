//! From decided entries to what must be executed, and to the state after them.
//!
//! A plan covers whole entries. Planning is deterministic and does not change the state that it starts from, so a plan that failed when it
//! was executed can be made again in the other mode.

#[cfg(test)]
mod tests;

use super::{Change, Coalescer, Cut, Error, Replacement, Step, Table, TableId};
use crate::core::ddl::{self, TableName};
use crate::core::decisions::Decisions;
use crate::core::entry::{Entry, Item, Messages};
use crate::core::pgoutput::{self, Message};
use bytes::Bytes;
use howdah_protocol::{InstanceId, LogIndex, Lsn, settings};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Different descriptions of tables that are remembered before all are forgotten.
const RELATIONS_MAX: usize = 16_384;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Net effect per key, set-based.
    Net,
    /// Every row change for itself, in log order.
    Ordered,
}

/// What must be known to go on behind an applied prefix of the log. Stored with the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub decisions: Decisions,
    /// Transactions of which only chunks have come, by xid. Of the writer that opened last: a new opening voids them.
    pub open: BTreeMap<u32, OpenTransaction>,
    /// Items of the entry behind the applied ones that are done already: what follows DDL may need it to be committed (a new enum value), even
    /// within one entry. The fields above stand before that entry.
    pub items_done: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransaction {
    /// Entries that hold its chunks: the rows are read again from the log when the commit has come.
    pub entries: Vec<LogIndex>,
    /// Subtransactions of it that rolled back.
    pub void: Vec<u32>,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// Entries that the plan covers: the first so many of those offered.
    pub entries: usize,
    /// The last entry that is done with the plan.
    pub last: LogIndex,
    /// The last entry of which something is in the plan.
    pub touched: LogIndex,
    pub state: State,
    pub parts: Vec<Part>,
    pub transactions: u64,
    /// The plan ends in front of a transaction behind the cut at which to stop.
    pub halted: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    Steps(Vec<Step>),
    /// The chunks of a large transaction. Its last part comes with the next steps.
    Chunks {
        xid: u32,
        transaction: OpenTransaction,
        /// What is left out of them.
        without: Option<Arc<Replacement>>,
    },
}

impl State {
    /// The oldest entry that is needed again to go on from the stored position `applied`; the log must not be purged beyond it.
    #[must_use]
    pub fn needs_from(&self, applied: LogIndex) -> LogIndex {
        let chunks = self.open.values().filter_map(|transaction| transaction.entries.first());
        chunks.copied().min().unwrap_or(LogIndex(u64::MAX)).min(applied.next())
    }
}

/// Plans a prefix of `entries`, which are decided and follow `state` without a hole. What `instance` wrote itself is in this Postgres. Rows of
/// the `replacement`, if there is one, are left out up to its cut and put in there. Nothing behind the cut `halt`, if there is one, is planned.
pub fn plan(
    instance: InstanceId,
    state: &State,
    entries: &[(LogIndex, Option<Bytes>)],
    mode: Mode,
    replacement: Option<&Arc<Replacement>>,
    halt: Option<Cut>,
    relations: &mut Relations,
) -> Result<Plan, Error> {
    let mut planner = Planner::new(instance, state.clone(), mode, replacement, relations);
    planner.halt = halt;
    for (at, (index, payload)) in entries.iter().enumerate() {
        if let Some(payload) = payload {
            planner.entry(*index, payload)?;
        }
        match planner.closed {
            None => {}
            // It begins a plan of its own, so that what comes before the cut is known without taking the state apart.
            Some(_) if at > 0 => return plan(instance, state, &entries[..at], mode, replacement, halt, planner.relations),
            Some(items) => return Ok(planner.finish_first(*index, items, state)),
        }
        (planner.out.entries, planner.out.last, planner.out.touched) = (at + 1, *index, *index);
        planner.out.state.items_done = 0;
    }
    Ok(planner.finish())
}

/// Pushes the chunks of one transaction that the entry holds.
pub fn replay_chunk(xid: u32, void: &[u32], payload: &Bytes, relations: &mut Relations, coalescer: &mut Coalescer) -> Result<(), Error> {
    let Entry::Batch { items, .. } = Entry::decode(payload.clone())? else { return Ok(()) };
    relations.begin_entry();
    for item in items {
        match item {
            Item::Chunk { xid: of, messages } if of == xid => {
                push_messages(&messages, void, relations, coalescer, &mut Vec::new()).map(|_| ())?
            }
            Item::Chunk { messages, .. } | Item::Commit { messages, .. } => relations.harvest(&messages)?,
            Item::Abort { .. } | Item::SubAbort { .. } => {}
        }
    }
    Ok(())
}

struct Planner<'a> {
    instance: InstanceId,
    mode: Mode,
    relations: &'a mut Relations,
    coalescer: Coalescer,
    /// Until its cut is passed.
    replacement: Option<Arc<Replacement>>,
    /// Transactions behind it are left for a later plan.
    halt: Option<Cut>,
    /// Who wrote the entry that is being planned.
    writer: InstanceId,
    /// Items of the entry so far, and how many are done from an earlier plan.
    items: u32,
    items_done: u32,
    /// Behind this item the local transaction must end.
    closed: Option<u32>,
    out: Plan,
}

impl<'a> Planner<'a> {
    fn new(instance: InstanceId, state: State, mode: Mode, replacement: Option<&Arc<Replacement>>, relations: &'a mut Relations) -> Self {
        let replacement = replacement.filter(|replacement| !replacement.cut().is_passed(&state.decisions)).cloned();
        let coalescer = Coalescer::without(mode, replacement.clone());
        let out = Plan { state, ..Plan::default() };
        let writer = InstanceId::default();
        Self { instance, mode, relations, coalescer, replacement, halt: None, writer, items: 0, items_done: 0, closed: None, out }
    }

    fn entry(&mut self, index: LogIndex, payload: &Bytes) -> Result<(), Error> {
        let mut entry = Entry::decode(payload.clone())?;
        (self.items, self.items_done) = (0, self.out.state.items_done);
        let offered = if let Entry::Batch { items, .. } = &entry { items.len() } else { 0 };
        self.out.state.decisions.admit(&mut entry);
        if let Entry::Batch { writer, .. } = &entry {
            self.writer = writer.instance;
        }
        match entry {
            // What the last writer left open will never be committed.
            Entry::Open { .. } => self.out.state.open.clear(),
            Entry::Sequences { .. } => {}
            Entry::Batch { writer, .. } if writer.instance == self.instance => {}
            Entry::Batch { items, .. } if items.len() == offered => {
                self.relations.begin_entry();
                items.into_iter().try_for_each(|item| self.item(index, item))?;
            }
            Entry::Batch { items, .. } => self.remaining(index, payload, items)?,
        }
        Ok(())
    }

    /// Some items are void, but the tables that they describe may be used by the others.
    fn remaining(&mut self, index: LogIndex, payload: &Bytes, admitted: Vec<Item>) -> Result<(), Error> {
        let Entry::Batch { items: offered, .. } = Entry::decode(payload.clone())? else { return Ok(()) };
        self.relations.begin_entry();
        let mut admitted = admitted.into_iter().peekable();
        for item in offered {
            if admitted.peek() == Some(&item) {
                admitted.next();
                self.item(index, item)?;
            } else if let Item::Commit { xid, messages, .. } = item {
                // A second copy of a transaction: its chunks were a second copy too.
                self.out.state.open.remove(&xid);
                self.relations.harvest(&messages)?;
            }
        }
        Ok(())
    }

    fn item(&mut self, index: LogIndex, item: Item) -> Result<(), Error> {
        self.items += 1;
        if self.closed.is_some() {
            return Ok(());
        }
        match item {
            Item::Chunk { xid, messages } => {
                self.relations.harvest(&messages)?;
                let entries = &mut self.out.state.open.entry(xid).or_default().entries;
                if entries.last() != Some(&index) {
                    entries.push(index);
                }
            }
            Item::Abort { xid } => drop(self.out.state.open.remove(&xid)),
            Item::SubAbort { xid, subxid } => self.out.state.open.entry(xid).or_default().void.push(subxid),
            Item::Commit { xid, end_lsn, messages, .. } if self.items <= self.items_done => {
                self.out.state.open.remove(&xid);
                // The rows were put in with it.
                if self.passes_cut(end_lsn).is_some() {
                    self.coalescer = Coalescer::new(self.mode);
                }
                self.relations.harvest(&messages)?;
            }
            Item::Commit { end_lsn, .. } if self.halt.is_some_and(|cut| cut.is_before(self.writer, end_lsn)) => {
                self.closed = Some(self.items - 1);
                self.out.halted = true;
            }
            Item::Commit { xid, end_lsn, chunked, messages, .. } => {
                if let Some(replacement) = self.passes_cut(end_lsn) {
                    self.coalescer.replace(&replacement);
                }
                self.commit(xid, chunked, &messages)?;
            }
        }
        Ok(())
    }

    /// The replacement, if this transaction is the first behind its cut.
    fn passes_cut(&mut self, end_lsn: Lsn) -> Option<Arc<Replacement>> {
        let writer = self.writer;
        self.replacement.take_if(|replacement| replacement.cut().is_before(writer, end_lsn))
    }

    fn commit(&mut self, xid: u32, chunked: bool, messages: &Messages) -> Result<(), Error> {
        self.out.transactions += 1;
        let mut early = tables_made_behind_their_rows(messages)?;
        let open = self.out.state.open.remove(&xid).filter(|_| chunked).unwrap_or_default();
        if chunked {
            if open.entries.is_empty() {
                return Err(Error::ChunksUnknown(xid));
            }
            early.drain(..).try_for_each(|table| self.coalescer.command(table.content))?;
            self.cut();
            self.out.parts.push(Part::Chunks { xid, transaction: open.clone(), without: self.replacement.clone() });
        }
        let logical = push_messages(messages, &open.void, self.relations, &mut self.coalescer, &mut early)?;
        if chunked || logical {
            self.closed = Some(self.items);
        }
        Ok(())
    }

    fn cut(&mut self) {
        let steps = std::mem::replace(&mut self.coalescer, Coalescer::without(self.mode, self.replacement.clone())).finish();
        if !steps.is_empty() {
            self.out.parts.push(Part::Steps(steps));
        }
    }

    fn finish(mut self) -> Plan {
        self.cut();
        self.out
    }

    /// The plan is cut behind item `items` of its only entry.
    fn finish_first(mut self, index: LogIndex, items: u32, before: &State) -> Plan {
        self.out.touched = index;
        if items == self.items {
            (self.out.entries, self.out.last, self.out.state.items_done) = (1, index, 0);
        } else {
            (self.out.entries, self.out.last) = (0, LogIndex(index.0.saturating_sub(1)));
            self.out.state = State { items_done: items, ..before.clone() };
        }
        self.finish()
    }
}

/// A table of CREATE TABLE AS, to be made before its first row.
struct EarlyTable {
    name: TableName,
    content: Bytes,
}

fn tables_made_behind_their_rows(messages: &Messages) -> Result<Vec<EarlyTable>, Error> {
    let mut early = Vec::new();
    for raw in messages.iter() {
        let raw = raw?;
        if raw.first() != Some(&b'M') {
            continue;
        }
        if let Message::Logical { prefix, content, .. } = pgoutput::parse(raw, messages.streamed)?.message
            && let Some(name) = created_behind_rows(&prefix, &content)
        {
            early.push(EarlyTable { name, content });
        }
    }
    Ok(early)
}

/// What cannot be read is reported where it is executed.
fn created_behind_rows(prefix: &str, content: &[u8]) -> Option<TableName> {
    match ddl::Command::parse(content) {
        Ok(ddl::Command::Ddl(ddl)) if prefix == settings::SCHEMA => ddl.creates,
        _ => None,
    }
}

/// True where a logical message was among them.
fn push_messages(
    messages: &Messages,
    void: &[u32],
    relations: &mut Relations,
    coalescer: &mut Coalescer,
    early: &mut Vec<EarlyTable>,
) -> Result<bool, Error> {
    let mut logical = false;
    for raw in messages.iter() {
        let raw = raw?;
        if raw.first() == Some(&b'R') {
            let table = relations.define(&raw, messages.streamed)?;
            let made = early.iter().position(|early| early.name.schema == table.relation.schema && early.name.table == table.relation.name);
            if let Some(made) = made {
                coalescer.command(early.swap_remove(made).content)?;
            }
            continue;
        }
        let tagged = pgoutput::parse(raw, messages.streamed)?;
        if tagged.xid.is_some_and(|xid| void.contains(&xid)) {
            continue;
        }
        match tagged.message {
            Message::Insert { relation, new } => coalescer.push(&relations.get(relation)?, Change::Insert { new })?,
            Message::Update { relation, old, new } => coalescer.push(&relations.get(relation)?, Change::Update { old, new })?,
            Message::Delete { relation, old } => coalescer.push(&relations.get(relation)?, Change::Delete { old })?,
            Message::Truncate { relations: ids, restart_identity, .. } => {
                let tables = ids.into_iter().map(|id| relations.get(id)).collect::<Result<_, _>>()?;
                coalescer.barrier(Step::Truncate { tables, restart_identity });
            }
            Message::Logical { prefix, content, .. } if prefix == settings::SCHEMA => {
                logical = true;
                // One that was made early is not made again.
                let name = created_behind_rows(&prefix, &content);
                let waiting = early.iter().position(|early| Some(&early.name) == name.as_ref());
                if let Some(waiting) = waiting {
                    early.swap_remove(waiting);
                }
                if name.is_none() || waiting.is_some() {
                    coalescer.command(content)?;
                }
            }
            // Applications may use logical messages for themselves.
            Message::Logical { .. } | Message::Type | Message::Relation(_) => {}
            Message::Begin { .. } | Message::Commit { .. } | Message::Origin { .. } => {
                return Err(Error::Unexpected("Begin, Commit or Origin"));
            }
            Message::StreamStart { .. } | Message::StreamStop | Message::StreamCommit { .. } | Message::StreamAbort { .. } => {
                return Err(Error::Unexpected("stream"));
            }
        }
    }
    Ok(logical)
}

/// The tables that Relation messages described. An entry describes every table that it uses.
#[derive(Debug, Default)]
pub struct Relations {
    /// One table per distinct description, so that what is known about it (statements) outlives the entry.
    known: HashMap<Bytes, Arc<Table>>,
    described: HashMap<u32, Arc<Table>>,
    next: usize,
}

impl Relations {
    fn begin_entry(&mut self) {
        self.described.clear();
    }

    fn get(&self, id: u32) -> Result<Arc<Table>, Error> {
        self.described.get(&id).cloned().ok_or(Error::UnknownRelation(id))
    }

    fn harvest(&mut self, messages: &Messages) -> Result<(), Error> {
        for raw in messages.iter() {
            let raw = raw?;
            if raw.first() == Some(&b'R') {
                self.define(&raw, messages.streamed)?;
            }
        }
        Ok(())
    }

    fn define(&mut self, raw: &Bytes, streamed: bool) -> Result<Arc<Table>, Error> {
        // Inside a stream the transaction's id follows the kind; it is no part of the description.
        let description = raw.slice(if streamed { 5.min(raw.len()) } else { 1 }..);
        let table = match self.known.get(&description) {
            Some(table) => Arc::clone(table),
            None => self.learn(raw, streamed, &description)?,
        };
        self.described.insert(table.relation.id, Arc::clone(&table));
        Ok(table)
    }

    fn learn(&mut self, raw: &Bytes, streamed: bool, description: &Bytes) -> Result<Arc<Table>, Error> {
        let Message::Relation(relation) = pgoutput::parse(raw.clone(), streamed)?.message else {
            return Err(Error::Unexpected("other than Relation"));
        };
        if self.known.len() >= RELATIONS_MAX {
            self.known.clear();
        }
        let table = Arc::new(Table::new(TableId(self.next), relation));
        self.next += 1;
        // A copy of its own: the description must not hold on to the memory of the entry.
        self.known.insert(Bytes::copy_from_slice(description), Arc::clone(&table));
        Ok(table)
    }
}
