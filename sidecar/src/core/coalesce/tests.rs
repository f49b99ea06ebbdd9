//! Net effects, key by key, and the order of steps.

use super::*;
use crate::core::pgoutput::Column;

fn table(name: &str, key: &[usize], columns: usize) -> Arc<Table> {
    let column = |at| Column { name: format!("c{at}"), key: key.contains(&at), type_oid: 25, type_modifier: -1 };
    let identity = if key.is_empty() { Identity::Full } else { Identity::Default };
    let columns = (0..columns).map(column).collect();
    let relation = Relation { id: 1, schema: "public".into(), name: name.into(), identity, columns };
    Arc::new(Table::new(TableId(name.len()), relation))
}

/// "-" is null, "~" is unchanged.
fn row(values: &str) -> Tuple {
    let value = |text: &str| match text {
        "-" => Value::Null,
        "~" => Value::Unchanged,
        text => Value::Text(Bytes::copy_from_slice(text.as_bytes())),
    };
    values.split(' ').map(value).collect()
}

fn insert(new: &str) -> Change {
    Change::Insert { new: row(new) }
}

fn update(new: &str) -> Change {
    Change::Update { old: None, new: row(new) }
}

fn rekey(old: &str, new: &str) -> Change {
    Change::Update { old: Some(Old::Key(row(old))), new: row(new) }
}

fn delete(old: &str) -> Change {
    Change::Delete { old: Old::Key(row(old)) }
}

fn folded(table: &Arc<Table>, changes: Vec<Change>) -> Vec<Step> {
    let mut coalescer = Coalescer::new(Mode::Net);
    for change in changes {
        coalescer.push(table, change).unwrap();
    }
    coalescer.finish()
}

fn net(table: &Arc<Table>, deletes: &[&str], updates: Vec<(Vec<usize>, Vec<&str>)>, upserts: &[&str]) -> Step {
    let text = |text: &&str| text.split(' ').map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
    let group = |(columns, rows): (Vec<usize>, Vec<&str>)| Updates { columns, rows: rows.into_iter().map(row).collect() };
    Step::Net {
        table: Arc::clone(table),
        deletes: deletes.iter().map(text).collect(),
        updates: updates.into_iter().map(group).collect(),
        upserts: upserts.iter().map(|values| row(values)).collect(),
    }
}

#[test]
fn each_pair_of_changes_has_its_net_effect() {
    let t = table("t", &[0], 3);
    let cases = [
        (vec![insert("1 a b"), update("1 ~ c")], net(&t, &[], vec![], &["1 a c"])),
        (vec![insert("1 a b"), delete("1 - -")], net(&t, &["1"], vec![], &[])),
        (vec![update("1 a ~"), update("1 ~ c")], net(&t, &[], vec![(vec![1, 2], vec!["1 a c"])], &[])),
        (vec![update("1 a ~"), delete("1 - -")], net(&t, &["1"], vec![], &[])),
        (vec![delete("1 - -"), insert("1 a b")], net(&t, &[], vec![], &["1 a b"])),
        (vec![rekey("1 - -", "2 a b")], net(&t, &["1"], vec![], &["2 a b"])),
        (vec![update("1 a b"), rekey("1 - -", "2 ~ c")], net(&t, &["1"], vec![], &["2 a c"])),
        (vec![rekey("1 - -", "2 a b"), rekey("2 - -", "1 c d")], net(&t, &["2"], vec![], &["1 c d"])),
    ];
    for (changes, expected) in cases {
        assert_eq!(folded(&t, changes.clone()), vec![expected], "{changes:?}");
    }
}

#[test]
fn updates_are_grouped_by_the_columns_they_set() {
    let t = table("t", &[0], 3);
    let steps = folded(&t, vec![update("1 a ~"), update("2 ~ b"), update("3 c ~"), update("4 ~ ~")]);
    assert_eq!(steps, vec![net(&t, &[], vec![(vec![1], vec!["1 a ~", "3 c ~"]), (vec![2], vec!["2 ~ b"])], &[])]);
}

#[test]
fn a_new_key_with_a_value_that_was_not_sent_is_a_barrier() {
    let t = table("t", &[0], 2);
    let steps = folded(&t, vec![insert("3 x"), rekey("1 -", "2 ~"), update("2 y")]);
    let moved = Step::Rekey { table: Arc::clone(&t), old: row("1 -"), new: row("2 ~") };
    assert_eq!(steps, vec![net(&t, &[], vec![], &["3 x"]), moved, net(&t, &[], vec![(vec![1], vec!["2 y"])], &[])]);
}

#[test]
fn keys_of_several_columns_do_not_run_into_each_other() {
    let t = table("t", &[0, 1], 3);
    let steps = folded(&t, vec![delete("ab c -"), delete("a bc -")]);
    assert_eq!(steps, vec![net(&t, &["ab c", "a bc"], vec![], &[])]);
}

#[test]
fn without_a_key_inserts_gather_and_the_rest_goes_one_by_one() {
    let t = table("t", &[], 1);
    let full = |text: &str| Old::Full(row(text));
    let steps = folded(&t, vec![insert("a"), insert("a"), Change::Delete { old: full("a") }, insert("b")]);
    let append = |rows: &[&str]| Step::Append { table: Arc::clone(&t), rows: rows.iter().map(|text| row(text)).collect() };
    assert_eq!(steps, vec![append(&["a", "a"]), Step::Match { table: Arc::clone(&t), old: row("a"), new: None }, append(&["b"])]);
}

#[test]
fn ordered_mode_keeps_every_change_to_itself() {
    let t = table("t", &[0], 2);
    let mut coalescer = Coalescer::new(Mode::Ordered);
    for change in [insert("1 a"), update("1 b"), delete("1 -")] {
        coalescer.push(&t, change).unwrap();
    }
    assert_eq!(coalescer.finish().len(), 3);
}

#[test]
fn a_barrier_stands_between_all_tables() {
    let (a, b) = (table("a", &[0], 2), table("bb", &[0], 2));
    let mut coalescer = Coalescer::new(Mode::Net);
    coalescer.push(&a, insert("1 x")).unwrap();
    coalescer.push(&b, insert("1 x")).unwrap();
    coalescer.barrier(Step::Truncate { tables: vec![Arc::clone(&a)], restart_identity: false });
    coalescer.push(&a, insert("1 y")).unwrap();
    let kinds: Vec<bool> = coalescer.finish().iter().map(|step| matches!(step, Step::Truncate { .. })).collect();
    assert_eq!(kinds, [false, false, true, false]);
}

#[test]
fn rows_that_do_not_fit_are_errors() {
    let t = table("t", &[0], 2);
    let mut coalescer = Coalescer::new(Mode::Net);
    assert!(matches!(coalescer.push(&t, insert("1 a b")), Err(Error::TupleLength { .. })));
    assert!(matches!(coalescer.push(&t, insert("- a")), Err(Error::KeyMissing { .. })));
    let binary = Change::Insert { new: vec![Value::Binary(Bytes::new()), Value::Null] };
    assert!(matches!(coalescer.push(&t, binary), Err(Error::Binary { .. })));
}
