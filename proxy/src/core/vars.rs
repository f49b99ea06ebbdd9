//! What `SET` changed in a session, including what a rollback takes back.
//!
//! A session in transaction pooling meets many server connections, so its settings must follow it. They are kept as a map from name to
//! value; a server connection remembers the map that it was brought to last, and before another session uses it the difference is
//! applied. Maps are shared and compared by pointer first, so the usual case (nothing set) costs one comparison.
//!
//! PostgreSQL undoes a SET with its transaction or savepoint. So does this: the values before the transaction and at each savepoint are
//! kept until it ends.

use howdah_protocol::{Consistency, Replication};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A session may set at most this many different settings before its server connection is pinned instead.
pub(crate) const SETTINGS_MAX: usize = 128;
/// Savepoints that are remembered; deeper ones restore what the outermost forgotten one had.
const SAVEPOINTS_MAX: usize = 256;

/// Settings by lower-case name, with the value as `set_config` takes it.
pub(crate) type Settings = Arc<BTreeMap<Box<str>, Box<str>>>;

/// Settings at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Values {
    /// Of the server: applied to each server connection that the session gets.
    pub(crate) settings: Settings,
    pub(crate) consistency: Consistency,
    pub(crate) replication: Replication,
    /// SET LOCAL, until the end of the transaction.
    pub(crate) local_consistency: Option<Consistency>,
    pub(crate) local_replication: Option<Replication>,
}

/// The setting that carries [`Replication`] to the server.
pub(crate) const SYNCHRONOUS_COMMIT: &str = "synchronous_commit";

#[derive(Debug, Default)]
pub(crate) struct Vars {
    now: Values,
    /// As the client started: what RESET ALL goes back to.
    initial: Values,
    /// Before the transaction, once something was set in it.
    before: Option<Values>,
    savepoints: Vec<(Box<str>, Values)>,
}

impl Vars {
    pub(crate) fn new(consistency: Consistency, replication: Replication) -> Self {
        let mut values = Values { consistency, ..Values::default() };
        values.set_replication(replication);
        Self { now: values.clone(), initial: values, before: None, savepoints: Vec::new() }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.now.settings
    }

    pub(crate) fn consistency(&self) -> Consistency {
        self.now.local_consistency.unwrap_or(self.now.consistency)
    }

    pub(crate) fn replication(&self) -> Replication {
        self.now.local_replication.unwrap_or(self.now.replication)
    }

    pub(crate) fn initial_consistency(&self) -> Consistency {
        self.initial.consistency
    }

    pub(crate) fn initial_replication(&self) -> Replication {
        self.initial.replication
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.now.settings.get(name).map(|value| &**value)
    }

    /// Changes the values so that the end of the transaction can take it back.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Values)) {
        if self.before.is_none() {
            self.before = Some(self.now.clone());
        }
        change(&mut self.now);
    }

    pub(crate) fn reset_all(&mut self) {
        let initial = self.initial.clone();
        self.change(|now| *now = initial);
    }

    pub(crate) fn savepoint(&mut self, name: &str) {
        if self.savepoints.len() < SAVEPOINTS_MAX {
            self.savepoints.push((name.into(), self.now.clone()));
        }
    }

    pub(crate) fn release_savepoint(&mut self, name: &str) {
        if let Some(at) = self.find_savepoint(name) {
            self.savepoints.truncate(at);
        }
    }

    pub(crate) fn rollback_to(&mut self, name: &str) {
        if let Some(at) = self.find_savepoint(name) {
            self.savepoints.truncate(at + 1);
            self.now = self.savepoints[at].1.clone();
        }
    }

    fn find_savepoint(&self, name: &str) -> Option<usize> {
        self.savepoints.iter().rposition(|(known, _)| &**known == name)
    }

    /// The transaction was committed: what was set stays, apart from SET LOCAL.
    pub(crate) fn commit(&mut self) {
        self.before = None;
        self.savepoints.clear();
        self.now.local_consistency = None;
        self.now.local_replication = None;
    }

    /// The transaction was rolled back.
    pub(crate) fn rollback(&mut self) {
        if let Some(before) = self.before.take() {
            self.now = before;
        }
        self.commit();
    }
}

impl Values {
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        Arc::make_mut(&mut self.settings).insert(name.into(), value.into());
    }

    pub(crate) fn reset(&mut self, name: &str) {
        if self.settings.contains_key(name) {
            Arc::make_mut(&mut self.settings).remove(name);
        }
    }

    pub(crate) fn set_replication(&mut self, replication: Replication) {
        self.replication = replication;
        match replication {
            Replication::Sync => self.reset(SYNCHRONOUS_COMMIT),
            Replication::Async => self.set(SYNCHRONOUS_COMMIT, replication.synchronous_commit()),
        }
    }
}

/// The SQL that brings a server connection from `from` to `to`; `None` when it is there.
pub(crate) fn difference(from: &Settings, to: &Settings) -> Option<String> {
    if Arc::ptr_eq(from, to) || from == to {
        return None;
    }
    let mut sql = String::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        sql.push_str("RESET ");
        quote(&mut sql, name, '"');
        sql.push(';');
    }
    for (name, value) in to.iter().filter(|(name, value)| from.get(*name) != Some(value)) {
        sql.push_str("SELECT pg_catalog.set_config(");
        literal(&mut sql, name);
        sql.push(',');
        literal(&mut sql, value);
        sql.push_str(",false);");
    }
    Some(sql)
}

/// A string constant that reads the same whatever `standard_conforming_strings` is.
pub(crate) fn literal(sql: &mut String, text: &str) {
    if text.contains('\\') {
        sql.push_str(" E");
        quote(sql, &text.replace('\\', "\\\\"), '\'');
    } else {
        quote(sql, text, '\'');
    }
}

/// A custom setting has a dot in its name, and each part is an identifier of its own.
fn quote(sql: &mut String, text: &str, mark: char) {
    sql.push(mark);
    for letter in text.chars() {
        if letter == mark {
            sql.push(mark);
        }
        if letter == '.' && mark == '"' {
            sql.push_str("\".\"");
        } else {
            sql.push(letter);
        }
    }
    sql.push(mark);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars() -> Vars {
        Vars::new(Consistency::default(), Replication::default())
    }

    #[test]
    fn rollback_takes_back_and_commit_keeps() {
        let mut vars = vars();
        vars.change(|now| now.set("work_mem", "1MB"));
        vars.commit();
        vars.change(|now| now.set("work_mem", "2MB"));
        vars.change(|now| now.consistency = Consistency::Eventual);
        vars.rollback();
        assert_eq!(vars.get("work_mem"), Some("1MB"));
        assert_eq!(vars.consistency(), Consistency::Linearizable);
        vars.rollback();
        assert_eq!(vars.get("work_mem"), Some("1MB"), "nothing to take back");
    }

    #[test]
    fn savepoints_restore_their_values_and_can_be_used_again() {
        let mut vars = vars();
        vars.change(|now| now.set("a", "1"));
        vars.savepoint("s");
        vars.change(|now| now.set("a", "2"));
        vars.savepoint("t");
        vars.change(|now| now.set("a", "3"));
        vars.rollback_to("s");
        assert_eq!(vars.get("a"), Some("1"));
        vars.change(|now| now.set("a", "4"));
        vars.rollback_to("s");
        assert_eq!(vars.get("a"), Some("1"));
        vars.release_savepoint("s");
        vars.change(|now| now.set("a", "5"));
        vars.rollback_to("s");
        assert_eq!(vars.get("a"), Some("5"), "released");
    }

    #[test]
    fn local_values_end_with_the_transaction() {
        let mut vars = vars();
        vars.change(|now| now.local_consistency = Some(Consistency::Eventual));
        assert_eq!(vars.consistency(), Consistency::Eventual);
        vars.commit();
        assert_eq!(vars.consistency(), Consistency::Linearizable);
    }

    #[test]
    fn differences_are_sql_that_survives_odd_names_and_values() {
        let mut one = Values::default();
        one.set("myapp.user", "o'neil\\");
        one.set("work_mem", "1MB");
        let none = Settings::default();
        assert_eq!(difference(&none, &none.clone()), None);
        assert_eq!(
            difference(&none, &one.settings).as_deref(),
            Some(
                "SELECT pg_catalog.set_config('myapp.user', E'o''neil\\\\',false);\
                 SELECT pg_catalog.set_config('work_mem','1MB',false);"
            )
        );
        assert_eq!(difference(&one.settings, &none).as_deref(), Some("RESET \"myapp\".\"user\";RESET \"work_mem\";"));
        let mut other = one.clone();
        other.set("work_mem", "2MB");
        assert_eq!(difference(&one.settings, &other.settings).as_deref(), Some("SELECT pg_catalog.set_config('work_mem','2MB',false);"));
    }

    #[test]
    fn async_replication_travels_as_synchronous_commit() {
        let mut vars = vars();
        vars.change(|now| now.set_replication(Replication::Async));
        assert_eq!(vars.get(SYNCHRONOUS_COMMIT), Some("local"));
        vars.change(|now| now.set_replication(Replication::Sync));
        assert_eq!(vars.get(SYNCHRONOUS_COMMIT), None);
    }
}
