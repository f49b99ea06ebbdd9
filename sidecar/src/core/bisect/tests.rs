//! Two tables in memory, compared only through the questions that are asked.

use super::*;
use std::ops::Bound;

/// Key -> content. Sorted by the number.
type Table = BTreeMap<u64, u64>;

fn key(number: u64) -> Key {
    vec![number.to_string()]
}

fn within<'a>(table: &'a Table, range: &Range) -> impl Iterator<Item = (&'a u64, &'a u64)> + Clone + use<'a> {
    let bound = |key: &Option<Key>| key.as_ref().map(|key| key[0].parse::<u64>().unwrap());
    let after = bound(&range.after).map_or(Bound::Unbounded, Bound::Excluded);
    table.range((after, bound(&range.upto).map_or(Bound::Unbounded, Bound::Included)))
}

fn digest(table: &Table, range: &Range) -> Digest {
    let rows = within(table, range);
    let sum = rows.clone().map(|(key, value)| u128::from(*key) * 1_000_003 + u128::from(*value)).sum::<u128>();
    Digest { rows: rows.count() as u64, sum: sum.to_string() }
}

fn rows(table: &Table, range: &Range) -> Vec<Row> {
    within(table, range).map(|(number, value)| Row { key: key(*number), hash: value.to_string(), count: 1 }).collect()
}

/// What was found, how many questions it took, and the most rows that were listed at once.
fn compare(reference: &Table, other: &Table, limits: Limits) -> (Found, usize, usize) {
    let whole = Range::default();
    let mut bisect = Bisect::new(limits, &digest(reference, &whole), &digest(other, &whole));
    let (mut asked, mut listed) = (0, 0);
    while let Some(ask) = bisect.ask() {
        asked += 1;
        assert!(asked < 10_000, "it does not end");
        match ask {
            Ask::Split { side, range, step } => {
                let table = if side == Side::Reference { reference } else { other };
                let numbers = within(table, &range).map(|(number, _)| number);
                let step = usize::try_from(step).unwrap();
                bisect.split(numbers.skip(step - 1).step_by(step).map(|number| key(*number)).collect());
            }
            Ask::Digests { ranges } => {
                assert!(ranges.len() as u64 <= limits.parts + 1);
                let of = |table| ranges.iter().map(|range| digest(table, range)).collect::<Vec<_>>();
                assert!(bisect.digests(&of(reference), &of(other)));
            }
            Ask::List { range } => {
                let (here, there) = (rows(reference, &range), rows(other, &range));
                listed = listed.max(here.len().max(there.len()));
                bisect.rows(here, there);
            }
        }
    }
    (bisect.finish(), asked, listed)
}

fn table(rows: u64) -> Table {
    (0..rows).map(|number| (number * 10, number)).collect()
}

#[test]
fn equal_tables_are_not_asked_about() {
    let (found, asked, _) = compare(&table(100), &table(100), Limits::rows(10));
    assert_eq!((found, asked), (Found::default(), 0));
}

#[test]
fn single_differences_in_a_large_table_are_found_with_few_questions() {
    let reference = table(100_000);
    let mut other = reference.clone();
    other.insert(500_000, 7);
    other.remove(&999_990);
    other.insert(5, 1);
    let (found, asked, listed) = compare(&reference, &other, Limits::rows(100));
    assert_eq!((found.changed, found.missing, found.surplus), (1, 1, 1));
    assert_eq!(found.keys, [key(5), key(500_000), key(999_990)]);
    assert_eq!(found.span(), (Some(key(5)), Some(key(999_990))));
    assert!(found.is_whole() && asked < 20 && listed <= 500, "{asked} questions, {listed} rows");
}

#[test]
fn rows_outside_of_the_references_keys_are_found_however_many() {
    let (found, _, listed) = compare(&table(0), &table(5_000), Limits::rows(100_000));
    assert_eq!((found.surplus, found.keys.len()), (5_000, 5_000));
    assert!(listed <= 500);
    let mut other = table(100);
    other.extend((2_000..9_000).map(|number| (number, 0)));
    let (found, _, listed) = compare(&table(100), &other, Limits::rows(100_000));
    assert_eq!((found.surplus, listed <= 500), (7_000, true));
    let (found, ..) = compare(&other, &table(100), Limits::rows(100_000));
    assert_eq!((found.missing, found.surplus), (7_000, 0));
}

#[test]
fn what_is_kept_is_bounded_and_the_rest_is_told_as_ranges() {
    let reference = table(50_000);
    let other = reference.iter().map(|(key, value)| (*key, value + 1)).collect();
    let limits = Limits::rows(1_000);
    let (found, ..) = compare(&reference, &other, limits);
    assert!(!found.is_whole() && found.keys.len() < limits.rows + limits.listed as usize);
    let rest: u64 = found.unlisted.iter().map(|(_, rows)| rows).sum();
    assert_eq!(found.rows() + rest, 50_000);
    assert_eq!(found.span(), (Some(key(0)), None));
}

#[test]
fn a_row_that_two_servers_sort_differently_is_none() {
    let row = |name: &str, hash: &str| Row { key: vec![name.into()], hash: hash.into(), count: 1 };
    let one = |rows| Digest { rows, sum: "1".into() };
    let mut bisect = Bisect::new(Limits { rows: 10, listed: 1, parts: 2 }, &one(2), &one(3));
    assert!(matches!(bisect.ask(), Some(Ask::Split { side: Side::Other, step: 2, .. })));
    bisect.split(vec![vec!["m".into()]]);
    assert!(bisect.digests(&[one(1), one(0)], &[one(0), one(1)]));
    assert!(matches!(bisect.ask(), Some(Ask::List { .. })));
    bisect.rows(vec![row("a", "1"), row("b", "1")], vec![]);
    bisect.rows(vec![], vec![row("a", "1"), row("b", "2")]);
    assert_eq!(bisect.ask(), None);
    let found = bisect.finish();
    assert_eq!((found.changed, found.missing, found.surplus, found.keys), (1, 0, 0, vec![vec!["b".to_owned()]]));
}

#[test]
fn equal_rows_without_a_key_are_counted() {
    let row = |hash: &str, count| Row { key: vec![hash.into()], hash: hash.into(), count };
    let mut bisect = Bisect::new(Limits::rows(10), &Digest { rows: 5, sum: "1".into() }, &Digest { rows: 4, sum: "2".into() });
    assert!(matches!(bisect.ask(), Some(Ask::List { .. })));
    bisect.rows(vec![row("-7", 3), row("8", 1), row("9", 1)], vec![row("-7", 1), row("8", 2), row("10", 1)]);
    assert_eq!(bisect.ask(), None);
    let found = bisect.finish();
    assert_eq!((found.changed, found.missing, found.surplus), (0, 3, 2));
    assert_eq!(found.keys, [["-7"], ["8"], ["9"], ["10"]]);
}

#[test]
fn a_range_that_cannot_be_split_is_told_and_does_not_go_on_for_ever() {
    let mut bisect = Bisect::new(Limits::rows(10), &Digest { rows: 9_000, sum: "1".into() }, &Digest { rows: 4, sum: "2".into() });
    assert!(matches!(bisect.ask(), Some(Ask::Split { .. })));
    bisect.split(vec![]);
    assert_eq!(bisect.ask(), Some(Ask::List { range: Range::default() }));
    bisect.give_up();
    assert_eq!(bisect.ask(), None);
    assert_eq!(bisect.finish().unlisted, [(Range::default(), 9_000)]);
    // An answer that does not fit the question.
    let mut bisect = Bisect::new(Limits::rows(10), &Digest { rows: 9_000, sum: "1".into() }, &Digest { rows: 4, sum: "2".into() });
    bisect.split(vec![key(1)]);
    assert!(!bisect.digests(&[], &[]));
}
