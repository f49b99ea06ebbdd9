//! Do the nodes hold the same data? Compares the order-independent digests that every node made of its tables.

use howdah_protocol::admin::{Checksums, TableDigest};
use howdah_protocol::{LogIndex, NodeId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What the digests of several nodes say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every digest was taken at this index, so they can be compared.
    Comparable(Comparison),
    /// A node moved on while it was read, or stands elsewhere than another: ask again.
    Moving,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub index: LogIndex,
    pub identical: bool,
    pub tables: Vec<TableRow>,
}

/// One table on every node; `None` where a node does not have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableRow {
    pub table: String,
    pub identical: bool,
    pub nodes: BTreeMap<NodeId, Option<TableDigest>>,
}

#[must_use]
pub fn compare(checksums: &[Checksums]) -> Verdict {
    let Some(first) = checksums.first() else { return Verdict::Moving };
    let index = first.index_before;
    if checksums.iter().any(|node| node.index_before != index || node.index_after != index) {
        return Verdict::Moving;
    }
    let names: BTreeSet<&String> = checksums.iter().flat_map(|node| node.tables.keys()).collect();
    let tables: Vec<TableRow> = names
        .into_iter()
        .map(|name| {
            let nodes: BTreeMap<_, _> = checksums.iter().map(|node| (node.node, node.tables.get(name).cloned())).collect();
            let reference = first.tables.get(name);
            let identical = nodes.values().all(|digest| digest.as_ref() == reference);
            TableRow { table: name.clone(), identical, nodes }
        })
        .collect();
    Verdict::Comparable(Comparison { index, identical: tables.iter().all(|row| row.identical), tables })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, before: u64, after: u64, tables: &[(&str, u64, &str)]) -> Checksums {
        Checksums {
            node: NodeId(id),
            index_before: LogIndex(before),
            index_after: LogIndex(after),
            tables: tables
                .iter()
                .map(|(name, rows, sum)| ((*name).to_owned(), TableDigest { rows: *rows, sum: (*sum).to_owned() }))
                .collect(),
        }
    }

    fn comparison(checksums: &[Checksums]) -> Comparison {
        match compare(checksums) {
            Verdict::Comparable(comparison) => comparison,
            Verdict::Moving => panic!("not comparable"),
        }
    }

    #[test]
    fn equal_digests_at_one_index_are_identical() {
        let found = comparison(&[node(1, 7, 7, &[("public.a", 2, "9")]), node(2, 7, 7, &[("public.a", 2, "9")])]);
        assert!(found.identical);
        assert_eq!(found.index, LogIndex(7));
    }

    #[test]
    fn another_sum_another_count_and_a_missing_table_are_differences() {
        let reference = node(1, 7, 7, &[("public.a", 2, "9")]);
        for other in [&[("public.a", 2, "8")][..], &[("public.a", 3, "9")], &[], &[("public.a", 2, "9"), ("public.b", 0, "0")]] {
            let found = comparison(&[reference.clone(), node(2, 7, 7, other)]);
            assert!(!found.identical, "{other:?}");
            assert_eq!(found.tables.iter().filter(|row| !row.identical).count(), 1);
        }
    }

    #[test]
    fn digests_of_different_moments_are_not_compared() {
        let still = node(1, 7, 7, &[]);
        assert_eq!(compare(&[still.clone(), node(2, 7, 8, &[])]), Verdict::Moving);
        assert_eq!(compare(&[still, node(2, 8, 8, &[])]), Verdict::Moving);
        assert_eq!(compare(&[]), Verdict::Moving);
    }
}
