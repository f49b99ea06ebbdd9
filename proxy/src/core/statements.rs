//! Prepared statements of the extended protocol.
//!
//! Names belong to the client; server connections are shared. So a client's named statement gets a name that the whole worker agrees
//! on, one per (text, parameter types), and each server connection learns it when it is needed there first. The unnamed statement stays
//! unnamed, and is parsed again on a server connection that has another one.

use crate::sql::Classified;
use std::collections::HashMap;
use std::sync::Arc;

/// Named statements of one client.
pub(crate) const CLIENT_STATEMENTS_MAX: usize = 65_536;
/// Names that a worker remembers for sharing. A statement that was forgotten still works for those who have it.
pub(crate) const SHARED_STATEMENTS_MAX: usize = 16_384;
/// Names of this prefix are the proxy's.
pub(crate) const NAME_PREFIX: &str = "_howdah_";

/// What a Parse message said.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Unique in the worker.
    pub(crate) id: u64,
    /// On servers; empty for an unnamed statement.
    pub(crate) name: Box<str>,
    /// The Parse message after the name: text, zero byte, parameter types.
    pub(crate) body: Box<[u8]>,
    pub(crate) class: Arc<Classified>,
}

impl Statement {
    /// Appends the Parse message for a server.
    pub(crate) fn write_parse(&self, out: &mut Vec<u8>) {
        crate::wire::build::message(out, b'P', |out| {
            crate::wire::build::cstr(out, &self.name);
            out.extend_from_slice(&self.body);
        });
    }
}

/// One worker's statements by what they say.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    shared: HashMap<Box<[u8]>, Arc<Statement>>,
    last_id: u64,
}

impl Interner {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The shared statement of this body.
    pub(crate) fn named(&mut self, body: &[u8], classify: impl FnOnce() -> Arc<Classified>) -> Arc<Statement> {
        if let Some(known) = self.shared.get(body) {
            return Arc::clone(known);
        }
        if self.shared.len() >= SHARED_STATEMENTS_MAX {
            self.shared.retain(|_, statement| Arc::strong_count(statement) > 1);
        }
        let id = self.next_id();
        let name = format!("{NAME_PREFIX}{id}").into_boxed_str();
        let statement = Arc::new(Statement { id, name, body: body.into(), class: classify() });
        if self.shared.len() < SHARED_STATEMENTS_MAX {
            self.shared.insert(body.into(), Arc::clone(&statement));
        }
        statement
    }

    /// A statement of its own.
    pub(crate) fn unnamed(&mut self, body: &[u8], class: Arc<Classified>) -> Arc<Statement> {
        Arc::new(Statement { id: self.next_id(), name: Box::default(), body: body.into(), class })
    }

    /// Others who prepare this text get a new name: plans under the old one may be stale.
    pub(crate) fn retire(&mut self, statement: &Statement) {
        self.shared.remove(&statement.body);
    }
}

/// One client's statements by its names.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    named: HashMap<Box<[u8]>, Arc<Statement>>,
    unnamed: Option<Arc<Statement>>,
    /// What the unit in flight did to the names, so that it can be run again.
    journal: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Added(Box<[u8]>),
    Removed(Box<[u8]>, Arc<Statement>),
}

impl Statements {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.named.len() >= CLIENT_STATEMENTS_MAX
    }

    pub(crate) fn add(&mut self, name: &[u8], statement: Arc<Statement>) {
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else {
            self.journal.push(Undo::Added(name.into()));
            self.named.insert(name.into(), statement);
        }
    }

    /// True when there was one.
    pub(crate) fn remove(&mut self, name: &[u8]) -> bool {
        if name.is_empty() {
            return self.unnamed.take().is_some();
        }
        let Some((name, statement)) = self.named.remove_entry(name) else { return false };
        self.journal.push(Undo::Removed(name, statement));
        true
    }

    /// The server did not take this statement.
    pub(crate) fn refused(&mut self, statement: &Arc<Statement>) {
        if statement.name.is_empty() {
            self.unnamed.take_if(|known| Arc::ptr_eq(known, statement));
        }
        // Only what this unit added: another name of the same text was accepted earlier.
        for undo in &self.journal {
            if let Undo::Added(name) = undo
                && self.named.get(name).is_some_and(|known| Arc::ptr_eq(known, statement))
            {
                self.named.remove(name);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.named.clear();
        self.unnamed = None;
    }

    /// The unit is over: what it did stays.
    pub(crate) fn settle(&mut self) {
        self.journal.clear();
    }

    /// The unit is to be run again.
    pub(crate) fn rewind(&mut self) {
        while let Some(undo) = self.journal.pop() {
            match undo {
                Undo::Added(name) => drop(self.named.remove(&name)),
                Undo::Removed(name, statement) => drop(self.named.insert(name, statement)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::classify;

    fn class() -> Arc<Classified> {
        Arc::new(classify("SELECT 1"))
    }

    #[test]
    fn the_same_text_and_types_share_a_name() {
        let mut interner = Interner::default();
        let one = interner.named(b"SELECT 1\0\0\0", class);
        assert!(Arc::ptr_eq(&one, &interner.named(b"SELECT 1\0\0\0", class)));
        let typed = interner.named(b"SELECT 1\0\0\x01\0\0\0\x17", class);
        assert_ne!(one.name, typed.name);
        interner.retire(&one);
        assert_ne!(one.name, interner.named(b"SELECT 1\0\0\0", class).name);
    }

    #[test]
    fn forgotten_names_are_those_that_nobody_holds() {
        let mut interner = Interner::default();
        let held = interner.named(b"held", class);
        for nth in 0..SHARED_STATEMENTS_MAX + 10 {
            interner.named(nth.to_string().as_bytes(), class);
        }
        assert!(interner.shared.len() <= SHARED_STATEMENTS_MAX);
        assert!(Arc::ptr_eq(&held, &interner.named(b"held", class)));
    }

    #[test]
    fn a_unit_that_runs_again_finds_the_names_as_they_were() {
        let mut interner = Interner::default();
        let mut statements = Statements::default();
        let old = interner.named(b"old", class);
        statements.add(b"s", Arc::clone(&old));
        statements.settle();
        assert!(statements.remove(b"s"));
        statements.add(b"s", interner.named(b"new", class));
        statements.add(b"t", Arc::clone(&old));
        statements.rewind();
        assert!(Arc::ptr_eq(statements.get(b"s").expect("restored"), &old));
        assert!(statements.get(b"t").is_none());
    }

    #[test]
    fn a_refused_statement_leaves_older_names_of_the_same_text() {
        let mut interner = Interner::default();
        let mut statements = Statements::default();
        let statement = interner.named(b"text", class);
        statements.add(b"a", Arc::clone(&statement));
        statements.settle();
        statements.add(b"b", Arc::clone(&statement));
        statements.refused(&statement);
        assert!(statements.get(b"a").is_some());
        assert!(statements.get(b"b").is_none());
    }
}
