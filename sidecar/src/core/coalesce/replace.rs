//! Rows that are replaced at one place of the log, rather than brought there by it.
//!
//! A node whose Postgres holds commits that the group never accepted does not know what the rows that they touched were before. Their keys
//! are emptied, the rows are taken from the leader as they are at a *cut* of the log, and everything else is applied:
//!
//! ```text
//!  log   ... | transactions up to the cut      | transactions behind it
//!  keys      | left out: the rows are not here | applied like all others
//!  others    | applied                         | applied
//!                                              ^ the leader's rows are put in, in the same local transaction
//! ```
//!
//! Invariant: at the cut the node holds what the leader held there. Before it, every row but those of the keys is right, so nothing that
//! the log brings can meet a divergent row, neither by its key nor by another unique constraint.
//!
//! What cannot be followed in this way (a row that leaves the keys with values that were not sent, a table that changes its name or its
//! key) is an error, never a guess.

use super::{Change, Error, Step, Table};
use crate::core::ddl::Command;
use crate::core::decisions::Decisions;
use crate::core::pgoutput::Value;
use bytes::Bytes;
use howdah_protocol::{InstanceId, Lsn};
use std::collections::{HashMap, HashSet};

/// A place in the log: behind the last transaction of `instance` that ends at or before `lsn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub instance: InstanceId,
    pub lsn: Lsn,
}

impl Cut {
    /// Whether a transaction lies behind the cut. True for one of `instance` at the latest that follows the cut in the log.
    #[must_use]
    pub fn is_before(&self, writer: InstanceId, end_lsn: Lsn) -> bool {
        writer == self.instance && end_lsn > self.lsn
    }

    /// Whether a prefix of the log reaches behind the cut.
    #[must_use]
    pub fn is_passed(&self, decisions: &Decisions) -> bool {
        decisions.watermark(self.instance) > self.lsn
    }
}

/// The keys of one table, by the names of the key's columns.
#[derive(Debug, PartialEq, Eq)]
struct Keys {
    columns: Vec<String>,
    keys: HashSet<Bytes>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Replacement {
    cut: Cut,
    tables: HashMap<(String, String), Keys>,
    /// Puts the leader's rows in.
    steps: Vec<Step>,
}

impl Replacement {
    #[must_use]
    pub fn new(cut: Cut, steps: Vec<Step>) -> Self {
        Self { cut, tables: HashMap::new(), steps }
    }

    /// Replaces the rows of these keys of a table that has a key. Each key is given in the form of [`Table::key_of`].
    pub fn replace(&mut self, table: &Table, keys: impl IntoIterator<Item = Bytes>) {
        let name = (table.relation.schema.clone(), table.relation.name.clone());
        let columns = table.key_names();
        self.tables.entry(name).or_insert_with(|| Keys { columns, keys: HashSet::new() }).keys.extend(keys);
    }

    #[must_use]
    pub const fn cut(&self) -> Cut {
        self.cut
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What is left of a change before the cut.
    pub(super) fn filter(&self, table: &Table, change: Change) -> Result<Option<Change>, Error> {
        let name = (table.relation.schema.clone(), table.relation.name.clone());
        let Some(replaced) = self.tables.get(&name) else { return Ok(Some(change)) };
        if replaced.columns != table.key_names() {
            return Err(Error::Replace(format!("{} has another key meanwhile", table.name())));
        }
        let has = |tuple| table.key_of(tuple).map(|key| replaced.keys.contains(&key));
        match change {
            Change::Insert { new } => Ok((!has(&new)?).then_some(Change::Insert { new })),
            Change::Delete { old } => Ok((!has(old.tuple())?).then_some(Change::Delete { old })),
            Change::Update { old, new } => {
                let new_is = has(&new)?;
                let old_is = old.as_ref().map_or(Ok(new_is), |old| has(old.tuple()))?;
                match (old_is, new_is) {
                    (false, false) => Ok(Some(Change::Update { old, new })),
                    (true, true) => Ok(None),
                    // The row leaves its key, and what it becomes is fetched.
                    (false, true) => Ok(old.map(|old| Change::Delete { old })),
                    (true, false) if new.contains(&Value::Unchanged) => {
                        let what = format!("a row of {} got another key, with values that are not in the log", table.name());
                        Err(Error::Replace(what))
                    }
                    (true, false) => Ok(Some(Change::Insert { new })),
                }
            }
        }
    }

    /// Keys are known by the name of their table, so a table must keep it. Whether the text only looks as if it did not is not asked.
    pub(super) fn check(&self, content: &[u8]) -> Result<(), Error> {
        let Ok(Command::Ddl(ddl)) = Command::parse(content) else { return Ok(()) };
        let text = ddl.sql.to_lowercase();
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            if word == "rename" || (word == "set" && words.peek() == Some(&"schema")) {
                return Err(Error::Replace(format!("{} may have given a table another name", ddl.tag)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::coalesce::TableId;
    use crate::core::pgoutput::{Column, Identity, Old, Relation, Tuple};

    fn table(key: &str) -> Table {
        let column = |name: &str| Column { name: name.into(), key: name == key, type_oid: 25, type_modifier: -1 };
        let columns = vec![column("id"), column("note")];
        Table::new(TableId(0), Relation { id: 1, schema: "public".into(), name: "t".into(), identity: Identity::Default, columns })
    }

    fn row(id: &'static str, note: Option<&'static str>) -> Tuple {
        let text = |text: &'static str| Value::Text(Bytes::from_static(text.as_bytes()));
        vec![text(id), note.map_or(Value::Unchanged, text)]
    }

    fn replacement() -> Replacement {
        let mut replacement = Replacement::new(Cut { instance: InstanceId(1), lsn: Lsn(10) }, Vec::new());
        replacement.replace(&table("id"), [Bytes::from_static(b"1"), Bytes::from_static(b"2")]);
        replacement
    }

    #[test]
    fn changes_of_the_keys_are_left_out_and_moves_are_halved() {
        let (replacement, table) = (replacement(), table("id"));
        let insert = |id| Change::Insert { new: row(id, Some("a")) };
        let delete = |id| Change::Delete { old: Old::Key(row(id, None)) };
        let update = |old: &'static str, new| Change::Update { old: Some(Old::Key(row(old, None))), new: row(new, Some("a")) };
        let cases = [
            (insert("1"), None),
            (insert("3"), Some(insert("3"))),
            (delete("2"), None),
            (delete("3"), Some(delete("3"))),
            (Change::Update { old: None, new: row("1", None) }, None),
            (Change::Update { old: None, new: row("3", None) }, Some(Change::Update { old: None, new: row("3", None) })),
            (update("1", "2"), None),
            (update("3", "1"), Some(delete("3"))),
            (update("1", "3"), Some(insert("3"))),
            (update("3", "4"), Some(update("3", "4"))),
        ];
        for (change, expected) in cases {
            assert_eq!(replacement.filter(&table, change.clone()), Ok(expected), "{change:?}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_an_error() {
        let replacement = replacement();
        let moved = Change::Update { old: Some(Old::Key(row("1", None))), new: row("3", None) };
        assert!(matches!(replacement.filter(&table("id"), moved), Err(Error::Replace(_))));
        let other = Change::Insert { new: row("1", Some("a")) };
        assert!(matches!(replacement.filter(&table("note"), other), Err(Error::Replace(_))));
        let ddl = |sql: &str| format!(r#"{{"kind":"ddl","tag":"ALTER TABLE","sql":"{sql}","search_path":"","role":"r"}}"#);
        assert!(replacement.check(ddl("ALTER TABLE t RENAME TO u").as_bytes()).is_err());
        assert!(replacement.check(ddl("ALTER TABLE t SET SCHEMA s").as_bytes()).is_err());
        assert!(replacement.check(ddl("ALTER TABLE t ADD c int").as_bytes()).is_ok());
    }

    #[test]
    fn a_cut_is_passed_by_later_transactions_of_its_instance_only() {
        let cut = Cut { instance: InstanceId(1), lsn: Lsn(10) };
        assert!(!cut.is_before(InstanceId(1), Lsn(10)) && cut.is_before(InstanceId(1), Lsn(11)) && !cut.is_before(InstanceId(2), Lsn(11)));
    }
}
