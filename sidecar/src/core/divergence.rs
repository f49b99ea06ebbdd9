//! What a Postgres committed and the group never accepted: read from the tail of its own slot.
//!
//! ```text
//! pgoutput messages (whole transactions) --message()--> changes in commit order --> keys, undo, or why neither is enough
//! ```
//!
//! Tables with a key: the keys that were touched, old and new, are all that is needed; the leader knows what their rows should be. Tables
//! without one: their rows cannot be asked for, but their changes carry whole rows, old and new (`REPLICA IDENTITY FULL`), so they
//! are taken back one by one, the last one first, which leaves exactly the rows that were there before.
//!
//! Invariants:
//! - Only commits behind the watermark count, and of them only what this node did not apply from the log and what is not Howdah's own.
//! - What is kept is bounded ([`Limits`]). Beyond that, and where anything other than rows changed, [`Divergence::refused`] says why
//!   rows are not enough; the changes up to the bound are kept all the same, for the rollback file.

mod fill;
#[cfg(test)]
mod tests;

pub use fill::Known;

use crate::core::coalesce::{Change, Step, Table, TableId};
use crate::core::ddl::Command;
use crate::core::pgoutput::{self, Message, Old, Tuple, Value};
use bytes::Bytes;
use howdah_protocol::{Lsn, settings};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Changes of tables without a key are found by looking at every row, so they are fewer.
pub const KEYLESS_ROWS_MAX: usize = 1_000;
/// Bytes of row changes that are held.
const HELD_BYTES_MAX: usize = 256 << 20;
/// Numbers from here on are given to tables that no entry of the log describes.
const TABLE_IDS_FROM: usize = 1 << 48;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("cannot read what PostgreSQL decoded: {0}")]
    Pgoutput(#[from] pgoutput::Error),
    #[error("PostgreSQL sent a change of relation {0} without ever having described it")]
    UnknownRelation(u32),
    #[error("PostgreSQL sent {0} where none can be")]
    OutOfOrder(&'static str),
    #[error("the watermark {watermark} lies inside the commit record {commit}..{end}: it is not a position of this server")]
    Watermark { watermark: Lsn, commit: Lsn, end: Lsn },
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Row changes that are kept; 0 to count commits only.
    pub rows_max: usize,
    pub bytes_max: usize,
}

impl Limits {
    #[must_use]
    pub const fn rows(rows_max: usize) -> Self {
        Self { rows_max, bytes_max: HELD_BYTES_MAX }
    }
}

/// A committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    pub xid: u32,
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01, of this server's clock.
    pub time_us: i64,
}

/// One divergent row change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergent {
    pub table: Arc<Table>,
    pub change: Change,
    /// Which of [`Divergence::commits`] it belongs to.
    pub commit: usize,
}

/// Why the divergent rows alone cannot be repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// DDL or roles.
    Command(String),
    Truncate(String),
    Rows {
        max: usize,
    },
    Bytes {
        max: usize,
    },
    KeylessRows {
        max: usize,
    },
    NotUnderstood(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(tag) => write!(f, "{tag} was committed there, not only rows"),
            Self::Truncate(table) => write!(f, "{table} was truncated there"),
            Self::Rows { max } => write!(f, "more than repair_rows_max = {max} rows were changed there"),
            Self::Bytes { max } => write!(f, "the rows that were changed there take more than {} MiB", max >> 20),
            Self::KeylessRows { max } => write!(f, "more than {max} rows of tables without a key were changed there"),
            Self::NotUnderstood(what) => f.write_str(what),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Divergence {
    /// Commits that changed something, whether their changes are kept or not.
    pub count: u64,
    /// Where the last of them ends.
    pub last_commit: Option<Lsn>,
    /// Row changes in them.
    pub rows: u64,
    /// Commits whose changes are kept, in commit order.
    pub commits: Vec<Commit>,
    pub changes: Vec<Divergent>,
    pub refused: Option<Refused>,
}

/// The keys of a table that were touched: by their values, and in the form of [`Table::key_of`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub table: Arc<Table>,
    pub keys: Vec<Vec<Bytes>>,
    pub encoded: HashSet<Bytes>,
}

impl Divergence {
    /// Whether all of the changes are kept.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rows == self.changes.len() as u64
    }

    /// The keys of every table that has one.
    pub fn keys(&self) -> Result<Vec<Touched>, Refused> {
        let mut touched: BTreeMap<String, Touched> = BTreeMap::new();
        for Divergent { table, change, .. } in self.changes.iter().filter(|divergent| !divergent.table.key.is_empty()) {
            let of_table = touched.entry(table.name()).or_insert_with(|| Touched {
                table: Arc::clone(table),
                keys: Vec::new(),
                encoded: HashSet::new(),
            });
            if of_table.table.key_names() != table.key_names() {
                return Err(Refused::NotUnderstood(format!("{} got another key there", table.name())));
            }
            let (old, new) = match change {
                Change::Insert { new } => (None, Some(new)),
                Change::Update { old, new } => (old.as_ref().map(Old::tuple), Some(new)),
                Change::Delete { old } => (Some(old.tuple()), None),
            };
            for tuple in old.into_iter().chain(new) {
                let bad = |error: crate::core::coalesce::Error| Refused::NotUnderstood(error.to_string());
                if of_table.encoded.insert(table.key_of(tuple).map_err(bad)?) {
                    of_table.keys.push(table.key_values(tuple).map_err(bad)?);
                }
            }
        }
        Ok(touched.into_values().collect())
    }

    /// Takes the changes of tables without a key back that were committed behind `after`. Each step must find its row.
    pub fn undo(&self, after: Lsn) -> Result<Vec<Step>, Refused> {
        let mut steps = Vec::new();
        for Divergent { table, change, commit } in self.changes.iter().rev().filter(|divergent| divergent.table.key.is_empty()) {
            if self.commits[*commit].end_lsn <= after {
                continue;
            }
            let whole = |tuple: &Tuple| {
                let unknown = || Refused::NotUnderstood(format!("a row of {} was not sent as a whole", table.name()));
                if tuple.contains(&Value::Unchanged) { Err(unknown()) } else { Ok(tuple.clone()) }
            };
            let table = Arc::clone(table);
            steps.push(match change {
                Change::Insert { new } => Step::Match { old: whole(new)?, new: None, table },
                Change::Delete { old } => Step::Append { rows: vec![whole(old.tuple())?], table },
                Change::Update { old, new } => {
                    let before = whole(old.as_ref().map_or(new, Old::tuple))?;
                    Step::Match { old: filled(new, &before), new: Some(before), table }
                }
            });
        }
        if steps.len() > KEYLESS_ROWS_MAX { Err(Refused::KeylessRows { max: KEYLESS_ROWS_MAX }) } else { Ok(steps) }
    }
}

/// A row whose values that were not sent are those that it had before.
#[must_use]
pub fn filled(new: &Tuple, before: &Tuple) -> Tuple {
    new.iter().zip(before).map(|(new, before)| if *new == Value::Unchanged { before.clone() } else { new.clone() }).collect()
}

/// Takes the messages of a stream of whole transactions, in their order.
#[derive(Debug)]
pub struct Collector {
    limits: Limits,
    /// Transactions that end here or before are in the log.
    start_after: Lsn,
    relations: HashMap<u32, Relation>,
    tables: usize,
    current: Option<Transaction>,
    bytes: usize,
    found: Divergence,
}

#[derive(Debug)]
struct Relation {
    table: Arc<Table>,
    /// A table of Howdah's own.
    own: bool,
}

/// Between Begin and Commit.
#[derive(Debug)]
struct Transaction {
    xid: u32,
    /// In the log, or applied from it.
    skip: bool,
    /// Something in it counts.
    counts: bool,
}

impl Collector {
    #[must_use]
    pub fn new(limits: Limits, start_after: Lsn) -> Self {
        let (relations, tables) = (HashMap::new(), TABLE_IDS_FROM);
        Self { limits, start_after, relations, tables, current: None, bytes: 0, found: Divergence::default() }
    }

    pub fn message(&mut self, raw: Bytes) -> Result<(), Error> {
        let bytes = raw.len();
        match pgoutput::parse(raw, false)?.message {
            Message::Begin { final_lsn, xid, .. } => {
                if self.current.is_some() {
                    return Err(Error::OutOfOrder("the begin of a transaction"));
                }
                // A commit record that starts before the watermark ends at or before it; `commit` makes sure.
                self.current = Some(Transaction { xid, skip: final_lsn < self.start_after, counts: false });
                Ok(())
            }
            Message::Commit { commit_lsn, end_lsn, commit_time_us } => self.commit(commit_lsn, end_lsn, commit_time_us),
            Message::Origin { name } => {
                let transaction = self.current.as_mut().ok_or(Error::OutOfOrder("an origin"))?;
                transaction.skip |= name == settings::ORIGIN;
                Ok(())
            }
            Message::Relation(relation) => {
                let own = relation.schema == settings::SCHEMA;
                self.tables += 1;
                let (id, table) = (relation.id, Arc::new(Table::new(TableId(self.tables), relation)));
                // Described again, usually without a difference: its number stands for the statements that are prepared for it.
                match self.relations.get(&id) {
                    Some(known) if known.table.relation == table.relation => {}
                    _ => drop(self.relations.insert(id, Relation { table, own })),
                }
                Ok(())
            }
            Message::Insert { relation, new } => self.row(relation, Change::Insert { new }, bytes),
            Message::Update { relation, old, new } => self.row(relation, Change::Update { old, new }, bytes),
            Message::Delete { relation, old } => self.row(relation, Change::Delete { old }, bytes),
            Message::Truncate { relations, .. } => self.truncate(&relations),
            // A message outside of a transaction takes part in none.
            Message::Logical { transactional: false, .. } | Message::Type => Ok(()),
            Message::Logical { prefix, content, .. } => self.logical(&prefix, &content),
            Message::StreamStart { .. } | Message::StreamStop | Message::StreamCommit { .. } | Message::StreamAbort { .. } => {
                Err(Error::OutOfOrder("a part of a transaction"))
            }
        }
    }

    /// What was found in the transactions that were whole by now.
    #[must_use]
    pub fn finish(self) -> Divergence {
        self.found
    }

    /// The transaction that is being read, where its changes count.
    fn counting(&mut self) -> Result<Option<&mut Transaction>, Error> {
        let transaction = self.current.as_mut().ok_or(Error::OutOfOrder("a change"))?;
        Ok(Some(transaction).filter(|transaction| !transaction.skip))
    }

    fn table(&self, id: u32) -> Result<Option<Arc<Table>>, Error> {
        let known = self.relations.get(&id).ok_or(Error::UnknownRelation(id))?;
        Ok((!known.own).then(|| Arc::clone(&known.table)))
    }

    fn row(&mut self, relation: u32, change: Change, bytes: usize) -> Result<(), Error> {
        let Some(table) = self.table(relation)? else { return Ok(()) };
        let Some(transaction) = self.counting()? else { return Ok(()) };
        transaction.counts = true;
        self.found.rows += 1;
        let Limits { rows_max, bytes_max } = self.limits;
        if !fits(&table, &change) {
            self.refuse(Refused::NotUnderstood(format!("a row of {} does not have the columns of its table", table.name())));
        } else if self.found.changes.len() >= rows_max {
            self.refuse(Refused::Rows { max: rows_max });
        } else if self.bytes + bytes > bytes_max {
            self.refuse(Refused::Bytes { max: bytes_max });
        } else {
            self.bytes += bytes;
            let commit = self.found.commits.len();
            self.found.changes.push(Divergent { table, change, commit });
        }
        Ok(())
    }

    fn truncate(&mut self, relations: &[u32]) -> Result<(), Error> {
        for id in relations {
            let Some(table) = self.table(*id)? else { continue };
            let Some(transaction) = self.counting()? else { return Ok(()) };
            transaction.counts = true;
            self.refuse(Refused::Truncate(table.name()));
        }
        Ok(())
    }

    fn logical(&mut self, prefix: &str, content: &[u8]) -> Result<(), Error> {
        let Some(transaction) = self.counting()? else { return Ok(()) };
        transaction.counts = true;
        // With another prefix they are the application's, or a mark: they change nothing.
        if prefix == settings::SCHEMA {
            let what = match Command::parse(content) {
                Ok(Command::Ddl(ddl)) => ddl.tag,
                Ok(Command::Roles(_)) => "a change of roles".to_owned(),
                Err(error) => error.to_string(),
            };
            self.refuse(Refused::Command(what));
        }
        Ok(())
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, time_us: i64) -> Result<(), Error> {
        let transaction = self.current.take().ok_or(Error::OutOfOrder("a commit"))?;
        if (commit_lsn < self.start_after) != (end_lsn <= self.start_after) {
            return Err(Error::Watermark { watermark: self.start_after, commit: commit_lsn, end: end_lsn });
        }
        if transaction.counts {
            self.found.count += 1;
            self.found.last_commit = Some(end_lsn);
            let kept = self.found.changes.last().is_some_and(|last| last.commit == self.found.commits.len());
            if kept {
                self.found.commits.push(Commit { xid: transaction.xid, commit_lsn, end_lsn, time_us });
            }
        }
        Ok(())
    }

    /// The first reason is the one that is told.
    fn refuse(&mut self, why: Refused) {
        self.found.refused.get_or_insert(why);
    }
}

fn fits(table: &Table, change: &Change) -> bool {
    let fits = |tuple: &Tuple| tuple.len() == table.relation.columns.len() && !tuple.iter().any(|value| matches!(value, Value::Binary(_)));
    match change {
        Change::Insert { new } => fits(new),
        Change::Update { old, new } => fits(new) && old.as_ref().is_none_or(|old| fits(old.tuple())),
        Change::Delete { old } => fits(old.tuple()),
    }
}
