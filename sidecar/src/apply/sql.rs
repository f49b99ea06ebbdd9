//! The text of the apply statements. Types are named, so that the same text works on every node whatever its OIDs are.

use super::catalog::Local;
use super::params::Form;
use crate::core::coalesce::Table;
use std::fmt::Write as _;

/// What distinguishes the statements of one table. Numbers are columns of its relation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    /// By key: $i is an array of the i-th key column.
    Delete,
    /// By key: the key's arrays, then those of the columns to set.
    Update { set: Vec<usize> },
    /// Arrays of all written columns; existing rows become these.
    Upsert,
    /// As upsert, and a row that exists is an error.
    Insert,
    /// One row by its old key: the key's values, then those of the columns to set.
    Rekey { set: Vec<usize> },
    /// One row that looks like this: the old row's values that are not null, then those to set. Nothing to set: it is deleted.
    Match { nulls: Vec<bool>, set: Option<Vec<usize>> },
}

/// Columns that are written: all but generated ones.
pub(super) fn written(local: &Local) -> Vec<usize> {
    (0..local.columns.len()).filter(|at| !local.columns[*at].generated).collect()
}

pub(super) fn text(table: &Table, local: &Local, shape: &Shape) -> String {
    let name = &local.name;
    match shape {
        Shape::Delete => {
            let source = unnest(local, &table.key);
            format!("DELETE FROM ONLY {name} AS t USING {source} WHERE {}", by_key(table, local))
        }
        Shape::Update { set } => {
            let columns: Vec<usize> = table.key.iter().chain(set).copied().collect();
            let source = unnest(local, &columns);
            change(table, local, set, |at| element(local, at), Some(&source), &by_key(table, local))
        }
        Shape::Upsert | Shape::Insert => insert(table, local, *shape == Shape::Upsert),
        Shape::Rekey { set } => {
            let keys = table.key.iter().enumerate();
            let condition = keys.map(|(i, at)| {
                let column = &local.columns[*at];
                format!("t.{} {} {}", column.name, column.equals, scalar(local, *at, i + 1))
            });
            let condition = condition.collect::<Vec<_>>().join(" AND ");
            let value = |at| scalar(local, at, table.key.len() + 1 + position(set, at));
            change(table, local, set, value, None, &condition)
        }
        Shape::Match { nulls, set } => {
            let condition = format!("t.ctid = (SELECT s.ctid FROM ONLY {name} AS s WHERE {} LIMIT 1)", looks_like(local, nulls));
            let Some(set) = set else {
                return format!("DELETE FROM ONLY {name} AS t WHERE {condition}");
            };
            let given = nulls.iter().filter(|null| !**null).count();
            change(table, local, set, |at| scalar(local, at, given + 1 + position(set, at)), None, &condition)
        }
    }
}

/// The rows of the keys, $i being an array of the i-th key column, each value in the text form of its type's output function. (A cast to text
/// would drop the blanks at the end of a `bpchar`.)
pub(super) fn rows_by_key(table: &Table, local: &Local) -> String {
    let source = unnest(local, &table.key);
    format!("SELECT {} FROM ONLY {} AS t JOIN {source} ON {}", values(local), local.name, by_key(table, local))
}

/// As [`rows_by_key`], the rows with the hashes that the array $1 holds.
pub(super) fn rows_by_hash(local: &Local, hash: &str) -> String {
    format!("SELECT {} FROM ONLY {} AS t WHERE {hash} = ANY ($1::pg_catalog.int8[])", values(local), local.name)
}

fn values(local: &Local) -> String {
    let value = |name: &String| format!("CASE WHEN pg_catalog.num_nulls(t.{name}) = 0 THEN pg_catalog.concat(t.{name}) END");
    local.columns.iter().map(|column| value(&column.name)).collect::<Vec<_>>().join(", ")
}

fn position(columns: &[usize], at: usize) -> usize {
    columns.iter().position(|column| *column == at).expect("asked only for columns of the list")
}

/// A one-row parameter. The cast from text runs the type's input function.
fn scalar(local: &Local, at: usize, param: usize) -> String {
    format!("${param}::pg_catalog.text::{}", local.columns[at].type_name)
}

/// The value of a column in the row source `u`.
fn element(local: &Local, at: usize) -> String {
    let column = &local.columns[at];
    match column.form {
        Form::Text if column.type_name != "text" => format!("u.c{at}::{}", column.type_name),
        _ => format!("u.c{at}"),
    }
}

fn unnest(local: &Local, columns: &[usize]) -> String {
    let (mut arguments, mut names) = (String::new(), String::new());
    for (i, at) in columns.iter().enumerate() {
        let (param, comma) = (i + 1, if i == 0 { "" } else { ", " });
        let array = match &local.columns[*at].form {
            Form::Int2 => "pg_catalog.int2[]",
            Form::Int4 => "pg_catalog.int4[]",
            Form::Int8 => "pg_catalog.int8[]",
            Form::Text => "pg_catalog.text[]",
            Form::Literal { array_type, .. } => &format!("pg_catalog.text::{array_type}"),
        };
        write!(arguments, "{comma}${param}::{array}").expect("a String takes everything");
        write!(names, "{comma}c{at}").expect("a String takes everything");
    }
    format!("unnest({arguments}) AS u({names})")
}

fn by_key(table: &Table, local: &Local) -> String {
    let equal = |at: &usize| {
        let column = &local.columns[*at];
        format!("t.{} {} {}", column.name, column.equals, element(local, *at))
    };
    table.key.iter().map(equal).collect::<Vec<_>>().join(" AND ")
}

/// A row that cannot be told from the old one. Types whose equal values may differ (1.0 and 1.00) or that have no equality (json) are
/// compared by their text.
fn looks_like(local: &Local, nulls: &[bool]) -> String {
    let mut param = 0;
    let conditions = local.columns.iter().zip(nulls).enumerate().map(|(at, (column, null))| {
        let name = &column.name;
        if *null {
            return format!("s.{name} IS NULL");
        }
        param += 1;
        let value = scalar(local, at, param);
        if column.exact { format!("s.{name} = {value}") } else { format!("s.{name}::pg_catalog.text = ({value})::pg_catalog.text") }
    });
    let conditions: Vec<_> = conditions.collect();
    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
}

/// An UPDATE, or where UPDATE cannot set an identity column: the row is deleted and inserted again.
fn change(table: &Table, local: &Local, set: &[usize], value: impl Fn(usize) -> String, source: Option<&str>, condition: &str) -> String {
    let name = &local.name;
    if local.replaces(table) {
        let columns = written(local);
        let values = columns.iter().map(|at| if set.contains(at) { value(*at) } else { format!("t.{}", local.columns[*at].name) });
        let values = values.collect::<Vec<_>>().join(", ");
        let source = source.map(|source| format!("USING {source} ")).unwrap_or_default();
        return format!(
            "WITH d AS (DELETE FROM ONLY {name} AS t {source}WHERE {condition} RETURNING {values}) \
             INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE SELECT * FROM d",
            names(local, &columns)
        );
    }
    let assignments = set.iter().map(|at| format!("{} = {}", local.columns[*at].name, value(*at)));
    let assignments = assignments.collect::<Vec<_>>().join(", ");
    let source = source.map(|source| format!("FROM {source} ")).unwrap_or_default();
    format!("UPDATE ONLY {name} AS t SET {assignments} {source}WHERE {condition}")
}

fn insert(table: &Table, local: &Local, upsert: bool) -> String {
    let columns = written(local);
    let values = columns.iter().map(|at| element(local, *at)).collect::<Vec<_>>().join(", ");
    let into = format!("INSERT INTO {} AS t ({}) OVERRIDING SYSTEM VALUE ", local.name, names(local, &columns));
    let mut text = format!("{into}SELECT {values} FROM {}", unnest(local, &columns));
    if upsert {
        let others: Vec<usize> = columns.into_iter().filter(|at| !table.key.contains(at)).collect();
        let set = others.iter().map(|at| format!("{0} = excluded.{0}", local.columns[*at].name)).collect::<Vec<_>>().join(", ");
        let action = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {set}") };
        write!(text, " ON CONFLICT ({}) DO {action}", names(local, &table.key)).expect("a String takes everything");
    }
    text
}

fn names(local: &Local, columns: &[usize]) -> String {
    columns.iter().map(|at| local.columns[*at].name.as_str()).collect::<Vec<_>>().join(", ")
}
