//! What a comparison found, in words: the table of digests, the differences, and what to do.

use crate::core::table::{Align, render};
use howdah_protocol::NodeId;
use howdah_protocol::verify::{Difference, VerifiedTable, VerifyReport};
use std::collections::BTreeSet;

/// Everything that a person should see, without a line feed at the end.
#[must_use]
pub fn in_words(report: &VerifyReport) -> String {
    let mut parts = vec![tables(report)];
    let mut lines: Vec<String> =
        report.tables.iter().flat_map(|table| table.differences.iter().map(|found| difference(table, found))).collect();
    let unsettled = |table: &VerifiedTable| Some(format!("{} was not compared: {}; try again", table.table, table.unsettled.as_ref()?));
    lines.extend(report.tables.iter().filter_map(unsettled));
    lines.extend(report.absent.iter().map(|(node, why)| format!("the node at {node} was not compared: {why}")));
    for (node, repair) in &report.repairs {
        lines.push(match &repair.refused {
            Some(why) => format!("node {node} was not repaired: {why}"),
            None => format!("node {node}: the rows of {} keys were set to the leader's", repair.keys),
        });
    }
    if !lines.is_empty() {
        parts.push(lines.join("\n"));
    }
    let verdict = if report.identical { "identical" } else { "DIFFERENT" };
    let differs = report.tables.iter().any(|table| !table.differences.is_empty());
    let verdict = if differs || report.identical { verdict } else { "NOT ALL COMPARED" };
    let mut last = format!("at log index {}: {verdict}", report.index);
    if differs {
        last += &hints(report);
    }
    parts.push(last);
    parts.join("\n\n")
}

/// A node with a table that is unlike the leader's is replaced: a repair refuses it whole.
fn hints(report: &VerifyReport) -> String {
    let found = || report.tables.iter().flat_map(|table| &table.differences);
    let unlike: BTreeSet<NodeId> = found().filter(|found| found.structure.is_some()).map(|found| found.node).collect();
    let rows = found().any(|found| !unlike.contains(&found.node));
    let mut hints = String::new();
    if rows && report.repairs.is_empty() {
        hints += "\nhint: `howdahctl verify --repair` brings these rows back to those of the leader, node ";
        hints += &report.leader.to_string();
    }
    for node in unlike {
        hints += &format!("\nhint: rows cannot mend node {node}, a table itself differs; `howdahctl node replace {node}` does");
    }
    hints
}

fn tables(report: &VerifyReport) -> String {
    if report.tables.is_empty() {
        return "no tables".to_owned();
    }
    let mut nodes: Vec<_> = report.tables.iter().flat_map(|table| table.nodes.keys().copied()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let names: Vec<String> = nodes.iter().map(|node| format!("node {node}: rows / sum")).collect();
    let mut columns = vec![("table", Align::Left), ("", Align::Left)];
    columns.extend(names.iter().map(|name| (name.as_str(), Align::Left)));
    let rows = report.tables.iter().map(|table| {
        let mark = match (table.identical, &table.unsettled) {
            (true, _) => "same",
            (false, Some(_)) => "?",
            (false, None) => "DIFFERENT",
        };
        let cell = |node| match table.nodes.get(node) {
            Some(Some(digest)) => format!("{} / {}", digest.rows, digest.sum),
            Some(None) => "missing".to_owned(),
            None => "-".to_owned(),
        };
        [table.table.clone(), mark.to_owned()].into_iter().chain(nodes.iter().map(cell)).collect()
    });
    render(&columns, &rows.collect::<Vec<_>>())
}

/// One line: which table, which node, which rows, which range of the key.
#[must_use]
pub fn difference(table: &VerifiedTable, found: &Difference) -> String {
    let begin = format!("node {}, {}: ", found.node, table.table);
    if let Some(why) = &found.structure {
        return begin + why;
    }
    let kinds = [(found.changed, "changed"), (found.missing, "missing"), (found.surplus, "surplus")];
    let kinds: Vec<_> = kinds.iter().filter(|(rows, _)| *rows > 0).map(|(rows, kind)| format!("{rows} {kind}")).collect();
    let least = if found.complete { "" } else { "at least " };
    let rows = if kinds.is_empty() { "rows differ".to_owned() } else { format!("{least}{} rows", kinds.join(", ")) };
    let key = |key: &Option<Vec<String>>, open: &str| key.as_ref().map_or(open.to_owned(), |key| key.join(", "));
    let place = if table.key.is_empty() {
        "no key to say where".to_owned()
    } else {
        let columns = table.key.join(", ");
        format!("({columns}) from ({}) to ({})", key(&found.from, "the beginning"), key(&found.to, "the end"))
    };
    format!("{begin}{rows}; {place}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use howdah_protocol::LogIndex;
    use howdah_protocol::admin::TableDigest;
    use std::collections::BTreeMap;

    fn report(differences: Vec<Difference>) -> VerifyReport {
        let digest = |rows| Some(TableDigest { rows, sum: "7".to_owned() });
        let table = VerifiedTable {
            table: "public.t".to_owned(),
            identical: differences.is_empty(),
            nodes: BTreeMap::from([(NodeId(1), digest(3)), (NodeId(2), digest(4))]),
            unsettled: None,
            key: vec!["a".to_owned(), "b".to_owned()],
            differences,
        };
        let identical = table.identical;
        VerifyReport {
            leader: NodeId(1),
            index: LogIndex(9),
            identical,
            tables: vec![table],
            absent: BTreeMap::new(),
            repairs: BTreeMap::new(),
        }
    }

    fn key(a: &str, b: &str) -> Option<Vec<String>> {
        Some(vec![a.to_owned(), b.to_owned()])
    }

    #[test]
    fn a_difference_says_table_range_and_node_and_what_to_do() {
        let (from, to, keys) = (key("x", "1"), key("y", "2"), vec![]);
        let found = Difference { node: NodeId(2), changed: 1, missing: 0, surplus: 2, complete: true, from, to, keys, structure: None };
        let said = in_words(&report(vec![found]));
        assert!(said.contains("node 2, public.t: 1 changed, 2 surplus rows; (a, b) from (x, 1) to (y, 2)"), "{said}");
        assert!(said.contains("at log index 9: DIFFERENT") && said.contains("verify --repair"), "{said}");
    }

    #[test]
    fn a_missing_table_is_no_matter_of_rows() {
        let structure = Some("the table is missing".to_owned());
        let of = |node, structure| {
            let (from, to, keys) = (None, None, vec![]);
            Difference { node: NodeId(node), changed: 0, missing: 0, surplus: 0, complete: false, from, to, keys, structure }
        };
        let said = in_words(&report(vec![of(2, structure.clone())]));
        assert!(said.contains("node 2, public.t: the table is missing") && said.contains("`howdahctl node replace 2`"), "{said}");
        assert!(!said.contains("--repair"), "{said}");
        let said = in_words(&report(vec![of(2, structure), of(3, None)]));
        assert!(said.contains("node replace 2") && said.contains("--repair") && !said.contains("node replace 3"), "{said}");
    }

    #[test]
    fn nothing_is_called_identical_that_was_not_compared() {
        assert!(in_words(&report(vec![])).ends_with("at log index 9: identical"));
        let mut lonely = report(vec![]);
        lonely.identical = false;
        lonely.absent.insert("h:1".to_owned(), "refused".to_owned());
        let said = in_words(&lonely);
        assert!(said.contains("the node at h:1 was not compared: refused") && said.ends_with("NOT ALL COMPARED"), "{said}");
    }
}
