//! The net effect on one table.

use super::{Change, Error, Step, Table, Updates};
use crate::core::pgoutput::{Tuple, Value};
use bytes::{Buf, Bytes};
use std::collections::HashMap;
use std::sync::Arc;

/// What has become of one key.
#[derive(Debug)]
enum Net {
    Delete,
    /// The row exists; these values are new, `Unchanged` ones stay.
    Update(Tuple),
    /// The row is exactly this, whether it existed or not.
    Upsert(Tuple),
}

#[derive(Debug)]
pub(super) struct TableNet {
    table: Arc<Table>,
    /// Keys in the order in which they were first touched.
    rows: Vec<(Bytes, Net)>,
    by_key: HashMap<Bytes, usize>,
    /// Tables without key: inserted rows that wait to be written together.
    appended: Vec<Tuple>,
    /// What is finished within this table.
    steps: Vec<Step>,
}

impl TableNet {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self { table, rows: Vec::new(), by_key: HashMap::new(), appended: Vec::new(), steps: Vec::new() }
    }

    pub(super) const fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub(super) fn push(&mut self, change: Change) -> Result<(), Error> {
        match &change {
            Change::Insert { new } => self.table.check(new)?,
            Change::Update { old, new } => {
                self.table.check(new)?;
                old.as_ref().map_or(Ok(()), |old| self.table.check(old.tuple()))?;
            }
            Change::Delete { old } => self.table.check(old.tuple())?,
        }
        if self.table.key.is_empty() { self.push_without_key(change) } else { self.push_with_key(change) }
    }

    fn push_with_key(&mut self, change: Change) -> Result<(), Error> {
        match change {
            Change::Insert { new } => {
                let key = self.table.key_of(&new)?;
                self.set(key, Net::Upsert(new));
            }
            Change::Delete { old } => {
                let key = self.table.key_of(old.tuple())?;
                self.set(key, Net::Delete);
            }
            Change::Update { old, new } => {
                let key = self.table.key_of(&new)?;
                let old_key = old.as_ref().map(|old| self.table.key_of(old.tuple())).transpose()?;
                match (old, old_key) {
                    (Some(old), Some(old_key)) if old_key != key => self.rekey(old.tuple().clone(), &old_key, key, new),
                    _ => self.update(key, new),
                }
            }
        }
        Ok(())
    }

    fn update(&mut self, key: Bytes, new: Tuple) {
        let Some(at) = self.by_key.get(&key).copied() else {
            return self.set(key, Net::Update(new));
        };
        let slot = &mut self.rows[at].1;
        match slot {
            Net::Update(row) | Net::Upsert(row) => merge(row, new),
            // Cannot come from a correct leader; the message is still the best that is known about the row.
            Net::Delete => *slot = if has_unchanged(&new) { Net::Update(new) } else { Net::Upsert(new) },
        }
    }

    /// A row moves to another key. With all its values known that is a delete and an insert.
    fn rekey(&mut self, old: Tuple, old_key: &Bytes, key: Bytes, mut new: Tuple) {
        let before = self.by_key.get(old_key).map(|at| &self.rows[*at].1);
        if let Some(Net::Upsert(row) | Net::Update(row)) = before {
            for (value, known) in new.iter_mut().zip(row) {
                if *value == Value::Unchanged {
                    value.clone_from(known);
                }
            }
        }
        if has_unchanged(&new) {
            self.flush_rows();
            self.steps.push(Step::Rekey { table: Arc::clone(&self.table), old, new });
        } else {
            self.set(old_key.clone(), Net::Delete);
            self.set(key, Net::Upsert(new));
        }
    }

    fn set(&mut self, key: Bytes, net: Net) {
        if let Some(at) = self.by_key.get(&key) {
            self.rows[*at].1 = net;
        } else {
            self.by_key.insert(key.clone(), self.rows.len());
            self.rows.push((key, net));
        }
    }

    fn push_without_key(&mut self, change: Change) -> Result<(), Error> {
        let (old, new) = match change {
            Change::Insert { new } => {
                self.appended.push(new);
                return Ok(());
            }
            Change::Update { old: Some(old), new } => (old, Some(new)),
            Change::Delete { old } => (old, None),
            Change::Update { old: None, .. } => {
                let column = "(any: the table has no replica identity)".to_owned();
                return Err(Error::KeyMissing { table: self.table.name(), column });
            }
        };
        self.flush_rows();
        self.steps.push(Step::Match { table: Arc::clone(&self.table), old: old.tuple().clone(), new });
        Ok(())
    }

    fn key_values(&self, mut key: Bytes) -> Vec<Bytes> {
        if self.table.key.len() == 1 {
            return vec![key];
        }
        let mut values = Vec::with_capacity(self.table.key.len());
        while !key.is_empty() {
            let len = usize::try_from(key.get_u64()).expect("a length that was a usize when the key was made");
            values.push(key.split_to(len));
        }
        values
    }

    pub(super) fn finish(mut self, steps: &mut Vec<Step>) {
        self.flush_rows();
        steps.append(&mut self.steps);
    }

    fn flush_rows(&mut self) {
        self.by_key.clear();
        let (mut deletes, mut updates, mut upserts) = (Vec::new(), Vec::<Updates>::new(), Vec::new());
        for (key, net) in std::mem::take(&mut self.rows) {
            match net {
                Net::Delete => deletes.push(self.key_values(key)),
                Net::Upsert(row) => upserts.push(row),
                Net::Update(row) => {
                    let columns = self.columns_set(&row);
                    match updates.iter_mut().find(|group| group.columns == columns) {
                        Some(group) => group.rows.push(row),
                        None if columns.is_empty() => {}
                        None => updates.push(Updates { columns, rows: vec![row] }),
                    }
                }
            }
        }
        if !(deletes.is_empty() && updates.is_empty() && upserts.is_empty()) {
            self.steps.push(Step::Net { table: Arc::clone(&self.table), deletes, updates, upserts });
        }
        let rows = std::mem::take(&mut self.appended);
        if !rows.is_empty() {
            self.steps.push(Step::Append { table: Arc::clone(&self.table), rows });
        }
    }

    fn columns_set(&self, row: &Tuple) -> Vec<usize> {
        let set = |at: &usize| row[*at] != Value::Unchanged && !self.table.key.contains(at);
        (0..row.len()).filter(set).collect()
    }
}

fn merge(row: &mut Tuple, new: Tuple) {
    for (value, new) in row.iter_mut().zip(new) {
        if new != Value::Unchanged {
            *value = new;
        }
    }
}

fn has_unchanged(tuple: &Tuple) -> bool {
    tuple.contains(&Value::Unchanged)
}
