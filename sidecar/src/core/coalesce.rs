//! Many transactions' row messages become their net effect.
//!
//! A follower that repeats the leader row by row is slower than the leader. So whole transactions are folded into what they amount to
//! per primary key, and that is written with a few set-based statements: a row updated 500 times is written once.
//!
//! ```text
//! entries --plan--> transactions --push--> per table: key -> delete | update of some columns | upsert
//!                                                 |
//!                                               finish: steps = per table deletes, then updates, then upserts
//! ```
//!
//! Invariants:
//! - Tables do not touch each other (no foreign keys, no triggers while applying), so their steps may be in any order; DDL, TRUNCATE and
//!   logical messages are barriers across all of them.
//! - Keys are compared by their text. Two texts may be one value to Postgres (1.0 and 1.00): harmless, because at any time one of them lives,
//!   and deletes come first.
//! - A step list executed in one transaction leaves the same rows as the messages in their order, unless a unique constraint beside the key
//!   is satisfied only on the way ([`Mode::Ordered`] is for that).

mod net;
mod plan;
mod replace;
#[cfg(test)]
mod tests;

pub use plan::{Mode, OpenTransaction, Part, Plan, Relations, State, plan, replay_chunk};
pub use replace::{Cut, Replacement};

use crate::core::entry;
use crate::core::pgoutput::{self, Identity, Old, Relation, Tuple, Value};
use bytes::{BufMut, Bytes, BytesMut};
use net::TableNet;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("log entry: {0}")]
    Entry(#[from] entry::Error),
    #[error("row message: {0}")]
    Message(#[from] pgoutput::Error),
    #[error("row message for relation {0}, which no Relation message of its entry describes")]
    UnknownRelation(u32),
    #[error("row of {table} has {values} values, its relation has {columns} columns")]
    TupleLength { table: String, values: usize, columns: usize },
    #[error("row of {table} has no value in its key column {column}")]
    KeyMissing { table: String, column: String },
    #[error("row of {table} carries a binary value; capture must ask for text")]
    Binary { table: String },
    #[error("the commit of large transaction {0} has come, but its chunks are unknown; this node must be seeded again")]
    ChunksUnknown(u32),
    #[error("{0} message inside a log entry, where only row and logical messages belong")]
    Unexpected(&'static str),
    #[error("divergent rows cannot be replaced one by one: {0}")]
    Replace(String),
}

/// A table as its Relation message describes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    pub id: TableId,
    pub relation: Relation,
    /// Columns of the primary key or replica identity index; empty where rows can only be found by all their values.
    pub key: Vec<usize>,
}

/// One distinct Relation message within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub usize);

impl Table {
    #[must_use]
    pub fn new(id: TableId, relation: Relation) -> Self {
        let keyed = matches!(relation.identity, Identity::Default | Identity::Index);
        let key = relation.columns.iter().enumerate().filter(|(_, column)| keyed && column.key).map(|(at, _)| at).collect();
        Self { id, relation, key }
    }

    /// `schema.name`, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.relation.schema, self.relation.name)
    }

    /// The names of the key's columns.
    #[must_use]
    pub fn key_names(&self) -> Vec<String> {
        self.key.iter().map(|at| self.relation.columns[*at].name.clone()).collect()
    }

    /// The key's values.
    pub fn key_values(&self, tuple: &Tuple) -> Result<Vec<Bytes>, Error> {
        let value = |at: &usize| match tuple.get(*at) {
            Some(Value::Text(text)) => Ok(text.clone()),
            _ => Err(Error::KeyMissing { table: self.name(), column: self.relation.columns[*at].name.clone() }),
        };
        self.key.iter().map(value).collect()
    }

    /// The key's values in one piece: the value itself where the key is one column, else each behind its length.
    pub fn key_of(&self, tuple: &Tuple) -> Result<Bytes, Error> {
        let mut values = self.key_values(tuple)?;
        if values.len() == 1 {
            return Ok(values.swap_remove(0));
        }
        let mut key = BytesMut::new();
        for text in values {
            key.put_u64(text.len() as u64);
            key.put_slice(&text);
        }
        Ok(key.freeze())
    }

    fn check(&self, tuple: &Tuple) -> Result<(), Error> {
        let columns = self.relation.columns.len();
        if tuple.len() != columns {
            return Err(Error::TupleLength { table: self.name(), values: tuple.len(), columns });
        }
        if tuple.iter().any(|value| matches!(value, Value::Binary(_))) {
            return Err(Error::Binary { table: self.name() });
        }
        Ok(())
    }
}

/// What one statement, or a few of one kind, does. Steps are executed in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The net effect on a table with a key. Executed in the order of the fields.
    Net {
        table: Arc<Table>,
        deletes: Vec<Vec<Bytes>>,
        updates: Vec<Updates>,
        upserts: Vec<Tuple>,
    },
    /// Rows for a table without a usable key, in order.
    Append {
        table: Arc<Table>,
        rows: Vec<Tuple>,
    },
    /// A row gets another key and keeps values that were not sent.
    Rekey {
        table: Arc<Table>,
        old: Tuple,
        new: Tuple,
    },
    /// Exactly one row that looks like `old` is changed, or deleted where there is no new one.
    Match {
        table: Arc<Table>,
        old: Tuple,
        new: Option<Tuple>,
    },
    Truncate {
        tables: Vec<Arc<Table>>,
        restart_identity: bool,
    },
    /// A logical message with Howdah's prefix.
    Logical {
        content: Bytes,
    },
}

/// Updates that set the same columns. Rows are full tuples; only the key and `columns` of them count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updates {
    pub columns: Vec<usize>,
    pub rows: Vec<Tuple>,
}

/// A row change, as its message says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Insert { new: Tuple },
    Update { old: Option<Old>, new: Tuple },
    Delete { old: Old },
}

/// Folds changes in log order into steps.
#[derive(Debug)]
pub struct Coalescer {
    mode: Mode,
    tables: Vec<TableNet>,
    by_id: HashMap<TableId, usize>,
    steps: Vec<Step>,
    /// Rows that are left out until they are replaced.
    without: Option<Arc<Replacement>>,
}

impl Coalescer {
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self { mode, tables: Vec::new(), by_id: HashMap::new(), steps: Vec::new(), without: None }
    }

    /// As new, for changes before the cut of a replacement.
    #[must_use]
    pub fn without(mode: Mode, replacement: Option<Arc<Replacement>>) -> Self {
        Self { without: replacement, ..Self::new(mode) }
    }

    /// The cut: the leader's rows are put in, and nothing is left out any more.
    fn replace(&mut self, replacement: &Replacement) {
        self.flush();
        self.steps.extend_from_slice(replacement.steps());
        self.without = None;
    }

    pub fn push(&mut self, table: &Arc<Table>, change: Change) -> Result<(), Error> {
        let change = match &self.without {
            None => change,
            Some(replacement) => match replacement.filter(table, change)? {
                None => return Ok(()),
                Some(rest) => rest,
            },
        };
        let at = match self.by_id.get(&table.id) {
            Some(at) => *at,
            None => self.open(table),
        };
        self.tables[at].push(change)?;
        if self.mode == Mode::Ordered {
            self.flush();
        }
        Ok(())
    }

    /// A step that everything before must precede and everything after must follow.
    pub fn barrier(&mut self, step: Step) {
        self.flush();
        self.steps.push(step);
    }

    /// A barrier that may change what tables are called.
    fn command(&mut self, content: Bytes) -> Result<(), Error> {
        self.without.as_ref().map_or(Ok(()), |replacement| replacement.check(&content))?;
        self.barrier(Step::Logical { content });
        Ok(())
    }

    #[must_use]
    pub fn finish(mut self) -> Vec<Step> {
        self.flush();
        self.steps
    }

    /// Another description of a table that is open already (another writer's, or after DDL) starts after what the old one held.
    fn open(&mut self, table: &Arc<Table>) -> usize {
        let same = |other: &TableNet| {
            let relation = &other.table().relation;
            relation.name == table.relation.name && relation.schema == table.relation.schema
        };
        if self.tables.iter().any(same) {
            self.flush();
        }
        self.tables.push(TableNet::new(Arc::clone(table)));
        self.by_id.insert(table.id, self.tables.len() - 1);
        self.tables.len() - 1
    }

    fn flush(&mut self) {
        self.by_id.clear();
        for table in self.tables.drain(..) {
            table.finish(&mut self.steps);
        }
    }
}
