//! Dependencies between transactions, and the cycles among them.

use super::observe::Observed;
use super::{Kind, Op};
use crate::check::Findings;
use crate::check::graph::{Edge, Graph};
use std::collections::{HashMap, HashSet};

const WRITES: &[Edge] = &[Edge::WriteWrite];
const READS_TOO: &[Edge] = &[Edge::WriteWrite, Edge::WriteRead];
const ALL: &[Edge] = &[Edge::WriteWrite, Edge::WriteRead, Edge::ReadWrite];
/// A cycle search walks the whole graph in the worst case; a thoroughly broken history has many to walk.
const SEARCHES_MAX: usize = 2000;

pub(super) fn find(history: &[Op], observed: &Observed, findings: &mut Findings) {
    let graph = dependencies(history.len(), observed);
    let tell = |path: &[usize]| {
        let step = |node: &usize| format!("{node} {:?} -> {:?}", history[*node].call, history[*node].outcome);
        path.iter().map(step).collect::<Vec<_>>().join("; ")
    };
    // Each kind: a cycle through this edge whose way back needs these.
    for (kind, through, back, within) in [
        (Kind::G0, Edge::WriteWrite, WRITES, WRITES),
        (Kind::G1c, Edge::WriteRead, READS_TOO, READS_TOO),
        (Kind::GSingle, Edge::ReadWrite, READS_TOO, ALL),
        (Kind::G2, Edge::ReadWrite, ALL, ALL),
    ] {
        let components = graph.components(within);
        let suspects = graph.edges().filter(|(from, to, edge)| *edge == through && components[*from] == components[*to]);
        let mut told = HashSet::new();
        for (from, to, _) in suspects.take(SEARCHES_MAX) {
            // One example per component; and a cycle with one anti-dependency is not told again as one with several.
            if told.contains(&components[from]) || (kind == Kind::G2 && graph.path(to, from, READS_TOO).is_some()) {
                continue;
            }
            if let Some(path) = graph.path(to, from, back) {
                told.insert(components[from]);
                findings.add(kind, || tell(&path));
            }
        }
    }
}

fn dependencies(transactions: usize, observed: &Observed) -> Graph {
    let mut graph = Graph::new(transactions);
    let writer = |key: i32, value: i32| observed.writes.get(&(key, value)).map(|write| write.transaction);
    let mut places: HashMap<(i32, i32), usize> = HashMap::new();
    for (key, order) in &observed.orders {
        for (place, value) in order.iter().enumerate() {
            places.insert((*key, *value), place);
        }
        for pair in order.windows(2) {
            if let (Some(before), Some(after)) = (writer(*key, pair[0]), writer(*key, pair[1])) {
                graph.add(before, after, Edge::WriteWrite);
            }
        }
    }
    for read in &observed.reads {
        let order = &observed.orders[&read.key];
        let next = match read.list.last() {
            None => 0,
            Some(last) => {
                if let Some(wrote) = writer(read.key, *last) {
                    graph.add(wrote, read.transaction, Edge::WriteRead);
                }
                // A list that fits no order was reported; what follows it is not known.
                places.get(&(read.key, *last)).map_or(order.len(), |place| place + 1)
            }
        };
        // Where that is the reader's own, its write-write edge says the same.
        if let Some(wrote) = order.get(next).and_then(|value| writer(read.key, *value)) {
            graph.add(read.transaction, wrote, Edge::ReadWrite);
        }
    }
    graph
}
