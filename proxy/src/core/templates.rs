//! Classifications of texts that differ only in their numbers.
//!
//! Applications that put values into the text send a new text each time, and every one would be parsed. For the two plainest kinds of
//! statement the numbers in the text do not matter, so their classification is kept under the text with each number replaced.
//!
//! Two texts of one template have the same tokens apart from the values of numbers: only runs of digits that do not continue a word are
//! replaced, and a digit neither begins nor ends a string, comment, quoted name or dollar quote. So what is true of one is true of
//! the other where numbers do not count: a single statement that is [`Kind::Read`] or [`Kind::Write`]. Anything else is not kept.

use crate::sql::{Classified, Kind};
use std::collections::HashMap;
use std::sync::Arc;

/// A longer text is worth parsing.
const TEXT_BYTES_MAX: usize = 1024;
/// Of one generation; two are held.
const TEMPLATES_MAX: usize = 2048;

/// Bounded by two generations: when the young one is full, the old one is dropped.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    young: HashMap<Box<[u8]>, Arc<Classified>>,
    old: HashMap<Box<[u8]>, Arc<Classified>>,
    key: Vec<u8>,
}

impl Templates {
    /// The classification of a text of the same template, or what `classify` says, kept where it may be.
    pub(crate) fn get(&mut self, text: &[u8], classify: impl FnOnce() -> Arc<Classified>) -> Arc<Classified> {
        if text.len() > TEXT_BYTES_MAX || !template(text, &mut self.key) {
            return classify();
        }
        if let Some(known) = self.young.get(&*self.key) {
            return Arc::clone(known);
        }
        let class = match self.old.remove(&*self.key) {
            Some(known) => known,
            None => classify(),
        };
        if is_plain(&class) {
            if self.young.len() >= TEMPLATES_MAX {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(self.key.as_slice().into(), Arc::clone(&class));
        }
        class
    }
}

fn is_plain(class: &Classified) -> bool {
    class.only().is_some_and(|one| matches!(one.kind, Kind::Read | Kind::Write))
}

/// Writes the text with its numbers replaced; false where it has none, so that the cache of whole texts does as well.
fn template(text: &[u8], key: &mut Vec<u8>) -> bool {
    key.clear();
    let mut in_word = false;
    let mut in_number = false;
    let mut found = false;
    for byte in text {
        let digit = byte.is_ascii_digit();
        if digit && !in_word {
            if !in_number {
                key.push(b'0');
            }
            (in_number, found) = (true, true);
            continue;
        }
        in_number = false;
        in_word = digit || byte.is_ascii_alphabetic() || *byte == b'_' || *byte == b'$' || *byte >= 0x80;
        key.push(*byte);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Route, classify};

    fn key(text: &str) -> String {
        let mut key = Vec::new();
        template(text.as_bytes(), &mut key);
        String::from_utf8(key).expect("still text")
    }

    #[test]
    fn numbers_are_replaced_and_names_are_not() {
        assert_eq!(key("SELECT a1 FROM t2 WHERE x=-15.25 AND y IN (7,8)"), "SELECT a1 FROM t2 WHERE x=-0.0 AND y IN (0,0)");
        assert_ne!(key("SELECT int4(1)"), key("SELECT int8(1)"));
        assert_ne!(key("SELECT $a1$x$a1$"), key("SELECT $a2$x$a2$"));
        assert!(!template(b"SELECT a1", &mut Vec::new()));
    }

    #[test]
    fn only_the_plainest_statements_are_kept() {
        let mut templates = Templates::default();
        let mut parsed = 0;
        let mut ask = |sql: &str| {
            templates.get(sql.as_bytes(), || {
                parsed += 1;
                Arc::new(classify(sql))
            })
        };
        assert_eq!(ask("SELECT 1").route(), Route::Read);
        assert_eq!(ask("SELECT 22").route(), Route::Read);
        assert_eq!(ask("DELETE FROM t WHERE a = 1").route(), Route::Write);
        assert_eq!(ask("DELETE FROM t WHERE a = 99").route(), Route::Write);
        let one = ask("SET work_mem = 1");
        let two = ask("SET work_mem = 2");
        assert_ne!(one, two);
        ask("SELECT 1; SELECT 2");
        ask("SELECT 3; SELECT 4");
        assert_eq!(parsed, 6);
    }

    #[test]
    fn what_pins_still_pins() {
        let mut templates = Templates::default();
        for sql in ["SELECT pg_advisory_lock(1)", "SELECT pg_advisory_lock(2)"] {
            let class = templates.get(sql.as_bytes(), || Arc::new(classify(sql)));
            assert!(!class.pins.is_empty());
        }
    }

    #[test]
    fn the_number_of_templates_is_bounded() {
        let mut templates = Templates::default();
        for nth in 0..TEMPLATES_MAX * 3 {
            let sql = format!("SELECT a{nth} FROM t WHERE b = 1");
            templates.get(sql.as_bytes(), || Arc::new(classify(&sql)));
        }
        assert!(templates.young.len() <= TEMPLATES_MAX && templates.old.len() <= TEMPLATES_MAX);
    }
}
