//! The rollback file: what a repair takes away, for a person to read. One JSON object per line, one line per row change.
//!
//! ```json
//! {"time":"2026-11-23T05:15:14.123456Z","lsn":"0/16B3748","xid":731,"table":"public.t","op":"update",
//!  "key":{"id":"1"},"row":{"id":"1","note":"lost"},"unchanged":["picture"]}
//! ```
//!
//! `row` is the row as this server had it behind the change (before it, for a deletion, where the server keeps whole old rows), every value
//! in its text form. `unchanged` names columns whose value is not known, because the change did not set it and a later one may have
//! (large values, stored apart: see `divergence/fill.rs`). `old` is there where the key changed, or the table has none.

use crate::core::coalesce::{Change, Table};
use crate::core::divergence::{Commit, Divergence, Divergent, filled};
use crate::core::pgoutput::{Old, Tuple, Value};
use serde::Serialize;
use std::collections::BTreeMap;

type Values = BTreeMap<String, Option<String>>;

#[derive(Debug, Serialize)]
struct Line {
    time: String,
    lsn: String,
    xid: u32,
    table: String,
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<Values>,
    row: Option<Values>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unchanged: Vec<String>,
}

/// Says that the file does not hold everything.
#[derive(Debug, Serialize)]
struct More {
    op: &'static str,
    rows_not_kept: u64,
}

/// All lines, each without its end.
pub fn lines(divergence: &Divergence) -> impl Iterator<Item = String> + '_ {
    let line = |divergent: &Divergent| json(&line(divergent, divergence.commits[divergent.commit]));
    let rows_not_kept = divergence.rows - divergence.changes.len() as u64;
    let more = (rows_not_kept > 0).then(|| json(&More { op: "more", rows_not_kept }));
    divergence.changes.iter().map(line).chain(more)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs with string keys become JSON")
}

fn line(divergent: &Divergent, commit: Commit) -> Line {
    let table = &*divergent.table;
    let (op, old, new) = match &divergent.change {
        Change::Insert { new } => ("insert", None, Some(new.clone())),
        Change::Delete { old } => ("delete", Some(old), None),
        Change::Update { old: Some(old @ Old::Full(before)), new } => ("update", Some(old), Some(filled(new, before))),
        Change::Update { old, new } => ("update", old.as_ref(), Some(new.clone())),
    };
    let keyed = !table.key.is_empty();
    let in_key = |at: usize| table.key.contains(&at);
    let key = new.as_ref().or(old.map(Old::tuple)).filter(|_| keyed).map(|row| values(table, row, in_key));
    let all = |_: usize| true;
    let before = match old {
        Some(Old::Key(tuple)) if new.is_some() => Some(values(table, tuple, in_key)),
        Some(Old::Full(tuple)) if new.is_some() => Some(values(table, tuple, all)),
        _ => None,
    };
    let row = match (&new, old) {
        (Some(row), _) => Some(values(table, row, all)),
        (None, Some(Old::Full(tuple))) => Some(values(table, tuple, all)),
        _ => None,
    };
    let names = table.relation.columns.iter().map(|column| &column.name);
    let is_unchanged = |(name, value): (&String, &Value)| (*value == Value::Unchanged).then(|| name.clone());
    let unchanged = new.iter().flat_map(|row| names.clone().zip(row)).filter_map(is_unchanged).collect();
    let time = iso(commit.time_us);
    Line { time, lsn: commit.commit_lsn.to_string(), xid: commit.xid, table: table.name(), op, key, old: before, row, unchanged }
}

fn values(table: &Table, tuple: &Tuple, wanted: impl Fn(usize) -> bool) -> Values {
    let columns = table.relation.columns.iter().zip(tuple).enumerate();
    let value = |(at, (column, value)): (usize, (&crate::core::pgoutput::Column, &Value))| {
        let text = match value {
            Value::Text(text) | Value::Binary(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Value::Null => None,
            Value::Unchanged => return None,
        };
        wanted(at).then(|| (column.name.clone(), text))
    };
    columns.filter_map(value).collect()
}

/// Microseconds since 2000-01-01 as ISO 8601 in UTC. Days to a date: Howard Hinnant, `civil_from_days`.
#[must_use]
pub fn iso(us: i64) -> String {
    const DAY_US: i64 = 86_400_000_000;
    /// From 0000-03-01 to 2000-01-01.
    const DAYS_BEFORE: i64 = 730_425;
    const ERA_DAYS: i64 = 146_097;
    let (days, in_day) = (us.div_euclid(DAY_US) + DAYS_BEFORE, us.rem_euclid(DAY_US));
    let (era, day) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (seconds, fraction) = (in_day / 1_000_000, in_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::coalesce::TableId;
    use crate::core::pgoutput::{Column, Identity, Relation};
    use bytes::Bytes;
    use howdah_protocol::Lsn;
    use std::sync::Arc;

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    fn divergence(identity: Identity, changes: Vec<Change>) -> Divergence {
        let column = |name: &str| Column { name: name.into(), key: name == "id", type_oid: 25, type_modifier: -1 };
        let columns = vec![column("id"), column("note"), column("big")];
        let table = Table::new(TableId(0), Relation { id: 1, schema: "public".into(), name: "t".into(), identity, columns });
        let table = Arc::new(table);
        let changes: Vec<_> = changes.into_iter().map(|change| Divergent { table: Arc::clone(&table), change, commit: 0 }).collect();
        let commits = vec![Commit { xid: 7, commit_lsn: Lsn(16), end_lsn: Lsn(32), time_us: 0 }];
        Divergence { rows: changes.len() as u64, commits, changes, ..Divergence::default() }
    }

    const HEAD: &str = r#"{"time":"2000-01-01T00:00:00.000000Z","lsn":"0/10","xid":7,"table":"public.t""#;

    #[test]
    fn a_line_says_what_was_there() {
        let changes = vec![
            Change::Insert { new: vec![text("1"), Value::Null, text("b\"")] },
            Change::Update {
                old: Some(Old::Key(vec![text("1"), Value::Null, Value::Null])),
                new: vec![text("2"), text("n"), Value::Unchanged],
            },
            Change::Delete { old: Old::Key(vec![text("2"), Value::Null, Value::Null]) },
        ];
        let found: Vec<_> = lines(&divergence(Identity::Default, changes)).collect();
        let expected = [
            format!(r#"{HEAD},"op":"insert","key":{{"id":"1"}},"row":{{"big":"b\"","id":"1","note":null}}}}"#),
            format!(r#"{HEAD},"op":"update","key":{{"id":"2"}},"old":{{"id":"1"}},"row":{{"id":"2","note":"n"}},"unchanged":["big"]}}"#),
            format!(r#"{HEAD},"op":"delete","key":{{"id":"2"}},"row":null}}"#),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn whole_old_rows_are_kept_and_fill_what_was_not_sent() {
        let old = || Old::Full(vec![text("1"), text("a"), text("b")]);
        let changes =
            vec![Change::Update { old: Some(old()), new: vec![text("1"), text("c"), Value::Unchanged] }, Change::Delete { old: old() }];
        let mut divergence = divergence(Identity::Full, changes);
        divergence.rows += 5;
        let found: Vec<_> = lines(&divergence).collect();
        let expected = [
            format!(r#"{HEAD},"op":"update","old":{{"big":"b","id":"1","note":"a"}},"row":{{"big":"b","id":"1","note":"c"}}}}"#),
            format!(r#"{HEAD},"op":"delete","row":{{"big":"b","id":"1","note":"a"}}}}"#),
            r#"{"op":"more","rows_not_kept":5}"#.to_owned(),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn times_are_dates() {
        let day = 86_400_000_000;
        assert_eq!(iso(-1), "1999-12-31T23:59:59.999999Z");
        assert_eq!(iso(59 * day + 3_661_000_001), "2000-02-29T01:01:01.000001Z");
        assert_eq!(iso(9_823 * day), "2026-11-23T00:00:00.000000Z");
        assert_eq!(iso(366 * day), "2001-01-01T00:00:00.000000Z");
    }
}
