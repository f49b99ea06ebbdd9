//! What a statement is, as far as a pooling and routing proxy must know. The only user of the SQL parser.
//!
//! ```text
//!   text --> hint --> grammar --> one Statement per ';' --> kind, pins, route
//!                     (libpg_query)        |
//!                                          +-- effects: an iterative walk over expressions and sub-selects
//! ```
//!
//! Invariants:
//! - A statement is [`Route::Read`] only when that is proven. Unknown, unparseable, oversized and mixed texts are [`Route::Write`].
//! - Any text is answered: no panic, no recursion over the tree of a hostile text, memory bounded by [`TEXT_BYTES_MAX`].
//! - Classification is a pure function of the text. What only the catalog knows (a view over a volatile function, a user's operator,
//!   a cast, a domain's CHECK, a function called as a column) is taken for harmless here, so follower connections run with `default_transaction_read_only = on` and a 25006 is
//!   retried on the leader.
//! - The text is read with `standard_conforming_strings = on`, the server's default. A session that turns it off must not be routed by this.

mod cache;
mod classify;
mod ddl;
mod effects;
mod functions;
mod hint;
mod session;
mod statement;
mod utility;

pub(crate) use cache::Cache;
pub(crate) use classify::{TEXT_BYTES_MAX, classify, classify_bytes};
pub(crate) use statement::{Begin, Classified, Discard, Hint, Isolation, Kind, PinReasons, Refusal, Route, Scope, SetValue, Statement};

#[cfg(test)]
pub(crate) mod tests;
