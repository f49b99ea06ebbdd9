//! From a text to its [`Classified`].

use super::statement::{Classified, PinReasons, Statement};
use super::{ddl, hint, utility};
use pg_raw_parse::nodes::RawStmt;
use std::ops::Range;

/// A longer text is not parsed: the tree takes some hundred bytes for each byte of a hostile text.
pub(crate) const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Classifies the text of a Query or Parse message. Never fails: what cannot be understood is a write.
pub(crate) fn classify(sql: &str) -> Classified {
    let hint = hint::leading(sql);
    if sql.len() > TEXT_BYTES_MAX {
        return Classified::unparsed(hint, PinReasons::UNPARSED);
    }
    // What the grammar refuses the server refuses too, so it leaves nothing behind that would pin.
    let Ok(tree) = pg_raw_parse::parse(sql) else { return Classified::unparsed(hint, PinReasons::NONE) };
    let statements = tree.iter().map(|raw| statement(sql, raw)).collect();
    Classified::new(statements, hint)
}

/// As [`classify`], for a text whose encoding is not known to be UTF-8. Another encoding is a write, pinned: nothing is known of it.
pub(crate) fn classify_bytes(sql: &[u8]) -> Classified {
    match std::str::from_utf8(sql) {
        Ok(sql) => classify(sql),
        Err(_) => Classified::unparsed(None, PinReasons::UNPARSED),
    }
}

fn statement(sql: &str, raw: &RawStmt) -> Statement {
    let range = range(sql, raw);
    let (kind, mut pins) = utility::kind(raw.stmt());
    pins |= ddl::temporary_schema_pin(&kind, sql.get(range.clone()).unwrap_or(sql));
    Statement { kind, pins, range }
}

/// The parser counts bytes; a length of 0 means: to the end.
fn range(sql: &str, raw: &RawStmt) -> Range<usize> {
    let start = usize::try_from(raw.stmt_location).unwrap_or(0).min(sql.len());
    let len = usize::try_from(raw.stmt_len).ok().filter(|len| *len > 0).unwrap_or(sql.len());
    let end = start.saturating_add(len).min(sql.len());
    let Some(text) = sql.get(start..end) else { return 0..sql.len() };
    let leading = text.len() - text.trim_start().len();
    start + leading..start + leading + text.trim().len()
}
