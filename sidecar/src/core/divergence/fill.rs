//! Values that an update did not set and PostgreSQL did not send (large ones, stored apart), for the rollback file: known from an earlier
//! change of the tail, or from the row as it is now, as long as nothing between set them.

use super::{Divergence, Refused, Touched};
use crate::core::coalesce::{Change, Table};
use crate::core::pgoutput::{Old, Tuple, Value};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// The rows that are known, by table and key. `Unchanged` stands for a value that is not known.
#[derive(Debug, Default)]
pub struct Known(HashMap<(String, Bytes), Tuple>);

impl Known {
    /// A row as it is now. One that is not like its table says nothing.
    pub fn add(&mut self, table: &Table, row: Tuple) {
        if row.len() == table.relation.columns.len() {
            self.put(table, row);
        }
    }

    fn put(&mut self, table: &Table, row: Tuple) {
        if let Ok(key) = table.key_of(&row) {
            self.0.insert((table.name(), key), row);
        }
    }

    fn take(&mut self, table: &Table, of_key: &Tuple) -> Option<Tuple> {
        let key = table.key_of(of_key).ok()?;
        self.0.remove(&(table.name(), key))
    }
}

impl Divergence {
    /// The keys of tables in which values were not sent.
    pub fn incomplete(&self) -> Result<Vec<Touched>, Refused> {
        let not_sent = |change: &Change| matches!(change, Change::Update { new, .. } if new.contains(&Value::Unchanged));
        let tables: HashSet<String> =
            self.changes.iter().filter(|divergent| not_sent(&divergent.change)).map(|divergent| divergent.table.name()).collect();
        let mut touched = self.keys()?;
        touched.retain(|touched| tables.contains(&touched.table.name()));
        Ok(touched)
    }

    /// Fills in what can be known. `now`: rows behind the last change.
    pub fn fill(&mut self, now: Known) {
        self.fill_forward();
        self.fill_backward(now);
    }

    fn fill_forward(&mut self) {
        let mut known = Known::default();
        for divergent in self.changes.iter_mut().filter(|divergent| !divergent.table.key.is_empty()) {
            let table = &divergent.table;
            match &mut divergent.change {
                Change::Insert { new } => known.put(table, new.clone()),
                Change::Delete { old } => drop(known.take(table, old.tuple())),
                Change::Update { old, new } => {
                    if let Some(before) = known.take(table, old.as_ref().map_or(new, Old::tuple)) {
                        *new = super::filled(new, &before);
                    }
                    known.put(table, new.clone());
                }
            }
        }
    }

    fn fill_backward(&mut self, mut known: Known) {
        for divergent in self.changes.iter_mut().rev().filter(|divergent| !divergent.table.key.is_empty()) {
            let table = &divergent.table;
            match &mut divergent.change {
                Change::Insert { new } => drop(known.take(table, new)),
                Change::Delete { old } => drop(known.take(table, old.tuple())),
                Change::Update { old, new } => {
                    let Some(after) = known.take(table, new) else { continue };
                    // What this change set is not known to have been so before.
                    let unset = |(new, after): (&Value, &Value)| if *new == Value::Unchanged { after.clone() } else { Value::Unchanged };
                    let mut before: Tuple = new.iter().zip(&after).map(unset).collect();
                    let key = old.as_ref().map_or(&*new, Old::tuple);
                    table.key.iter().for_each(|at| before[*at] = key[*at].clone());
                    *new = super::filled(new, &after);
                    known.put(table, before);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::coalesce::TableId;
    use crate::core::divergence::Divergent;
    use crate::core::pgoutput::{Column, Identity, Relation};
    use std::sync::Arc;

    fn row(values: [&'static str; 2]) -> Tuple {
        let value = |text: &'static str| if text == "?" { Value::Unchanged } else { Value::Text(Bytes::from_static(text.as_bytes())) };
        values.map(value).to_vec()
    }

    fn key(id: &'static str) -> Old {
        Old::Key(vec![Value::Text(Bytes::from_static(id.as_bytes())), Value::Null])
    }

    fn table() -> Arc<Table> {
        let column = |name: &str| Column { name: name.into(), key: name == "id", type_oid: 25, type_modifier: -1 };
        let columns = vec![column("id"), column("big")];
        Arc::new(Table::new(
            TableId(0),
            Relation { id: 1, schema: "public".into(), name: "t".into(), identity: Identity::Default, columns },
        ))
    }

    fn filled(changes: Vec<Change>, now: &[[&'static str; 2]]) -> Vec<Tuple> {
        let divergent = |change| Divergent { table: table(), change, commit: 0 };
        let mut divergence = Divergence { changes: changes.into_iter().map(divergent).collect(), ..Divergence::default() };
        let mut known = Known::default();
        now.iter().for_each(|values| known.add(&table(), row(*values)));
        divergence.fill(known);
        let new = |divergent: Divergent| match divergent.change {
            Change::Insert { new } | Change::Update { new, .. } => Some(new),
            Change::Delete { .. } => None,
        };
        divergence.changes.into_iter().filter_map(new).collect()
    }

    fn set(values: [&'static str; 2]) -> Change {
        Change::Update { old: None, new: row(values) }
    }

    fn rekey(old: &'static str, values: [&'static str; 2]) -> Change {
        Change::Update { old: Some(key(old)), new: row(values) }
    }

    #[test]
    fn a_value_is_known_from_before_or_from_now_but_not_past_a_change_of_it() {
        let found = filled(vec![set(["1", "?"]), rekey("1", ["2", "?"]), set(["2", "?"])], &[["2", "now"]]);
        assert_eq!(found, [row(["1", "now"]), row(["2", "now"]), row(["2", "now"])]);
        let found = filled(vec![set(["1", "?"]), set(["1", "new"]), rekey("1", ["2", "?"])], &[["2", "new"]]);
        assert_eq!(found, [row(["1", "?"]), row(["1", "new"]), row(["2", "new"])]);
    }

    #[test]
    fn rows_that_went_or_are_others_by_now_say_nothing() {
        let gone = vec![set(["1", "?"]), Change::Delete { old: key("1") }, Change::Insert { new: row(["1", "other"]) }, set(["1", "?"])];
        assert_eq!(filled(gone, &[["1", "other"]]), [row(["1", "?"]), row(["1", "other"]), row(["1", "other"])]);
        assert_eq!(filled(vec![set(["1", "?"])], &[]), [row(["1", "?"])]);
    }
}
