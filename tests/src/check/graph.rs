//! A directed graph with kinds of edges, as far as finding cycles needs one: strong components (Tarjan 1972) and shortest paths.

use std::collections::{HashSet, VecDeque};

/// Why one transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Edge {
    /// It wrote the version before the other's.
    WriteWrite,
    /// The other read what it wrote.
    WriteRead,
    /// It read the version that the other replaced.
    ReadWrite,
}

#[derive(Debug)]
pub(crate) struct Graph {
    next: Vec<Vec<(usize, Edge)>>,
    known: HashSet<(usize, usize, Edge)>,
}

impl Graph {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { next: vec![Vec::new(); nodes], known: HashSet::new() }
    }

    /// A transaction does not depend on itself.
    pub(crate) fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to && self.known.insert((from, to, edge)) {
            self.next[from].push((to, edge));
        }
    }

    pub(crate) fn edges(&self) -> impl Iterator<Item = (usize, usize, Edge)> + '_ {
        self.next.iter().enumerate().flat_map(|(from, next)| next.iter().map(move |(to, edge)| (from, *to, *edge)))
    }

    /// For each node the number of its strong component, over the edges that are `allowed`. Two nodes in one component lie on a cycle.
    pub(crate) fn components(&self, allowed: &[Edge]) -> Vec<usize> {
        let mut search = Search {
            graph: self,
            allowed,
            order: vec![None; self.next.len()],
            low: vec![0; self.next.len()],
            component: vec![None; self.next.len()],
            stack: Vec::new(),
            visited: 0,
            components: 0,
        };
        for node in 0..self.next.len() {
            if search.order[node].is_none() {
                search.from(node);
            }
        }
        search.component.into_iter().map(|component| component.expect("every node was visited")).collect()
    }

    /// A shortest path, both ends included.
    pub(crate) fn path(&self, from: usize, to: usize, allowed: &[Edge]) -> Option<Vec<usize>> {
        let mut came_from = vec![None; self.next.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            if node == to {
                let mut path = vec![to];
                while let Some(before) =
                    came_from[*path.last().expect("it holds its end")].filter(|_| *path.last().expect("as above") != from)
                {
                    path.push(before);
                }
                path.reverse();
                return Some(path);
            }
            for (next, edge) in &self.next[node] {
                if allowed.contains(edge) && came_from[*next].is_none() && *next != from {
                    came_from[*next] = Some(node);
                    queue.push_back(*next);
                }
            }
        }
        None
    }
}

/// Tarjan's search. Without recursion: a history has more transactions than a stack has frames.
struct Search<'a> {
    graph: &'a Graph,
    allowed: &'a [Edge],
    order: Vec<Option<usize>>,
    low: Vec<usize>,
    component: Vec<Option<usize>>,
    stack: Vec<usize>,
    visited: usize,
    components: usize,
}

impl Search<'_> {
    fn from(&mut self, root: usize) {
        self.enter(root);
        let mut work = vec![(root, 0)];
        while let Some((node, nth)) = work.last_mut() {
            let node = *node;
            let Some((next, edge)) = self.graph.next[node].get(*nth).copied() else {
                work.pop();
                self.leave(node);
                if let Some((parent, _)) = work.last() {
                    self.low[*parent] = self.low[*parent].min(self.low[node]);
                }
                continue;
            };
            *nth += 1;
            if !self.allowed.contains(&edge) {
                continue;
            }
            match self.order[next] {
                None => {
                    self.enter(next);
                    work.push((next, 0));
                }
                Some(order) if self.component[next].is_none() => self.low[node] = self.low[node].min(order),
                Some(_) => {}
            }
        }
    }

    fn enter(&mut self, node: usize) {
        self.order[node] = Some(self.visited);
        self.low[node] = self.visited;
        self.visited += 1;
        self.stack.push(node);
    }

    /// All below it was visited: where nothing reaches above it, it is the root of a component.
    fn leave(&mut self, node: usize) {
        if Some(self.low[node]) != self.order[node] {
            return;
        }
        while let Some(member) = self.stack.pop() {
            self.component[member] = Some(self.components);
            if member == node {
                break;
            }
        }
        self.components += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Edge::{ReadWrite, WriteRead, WriteWrite};

    #[test]
    fn components_follow_the_allowed_edges_only() {
        let mut graph = Graph::new(5);
        for (from, to, edge) in
            [(0, 1, WriteWrite), (1, 2, WriteRead), (2, 0, ReadWrite), (2, 3, WriteWrite), (3, 4, WriteWrite), (4, 4, WriteWrite)]
        {
            graph.add(from, to, edge);
        }
        let all = graph.components(&[WriteWrite, WriteRead, ReadWrite]);
        assert!(all[0] == all[1] && all[1] == all[2] && all[2] != all[3] && all[3] != all[4]);
        let some = graph.components(&[WriteWrite, WriteRead]);
        assert_eq!(some.iter().collect::<HashSet<_>>().len(), 5);
        assert_eq!(graph.path(1, 0, &[WriteRead, ReadWrite]), Some(vec![1, 2, 0]));
        assert_eq!(graph.path(1, 0, &[WriteRead]), None);
        assert_eq!(graph.edges().count(), 5, "an edge to itself is none");
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let mut graph = Graph::new(200_000);
        for node in 1..200_000 {
            graph.add(node - 1, node, WriteWrite);
        }
        graph.add(199_999, 0, WriteWrite);
        assert!(graph.components(&[WriteWrite]).iter().all(|component| *component == 0));
    }
}
