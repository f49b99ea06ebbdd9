//! Tables of statements by what they must be.

mod definitions;
mod hostile;
mod live;
mod reads;
pub(crate) mod server;
mod session;

use super::*;

fn kind(sql: &str) -> Kind {
    only(sql).kind
}

fn pins(sql: &str) -> PinReasons {
    only(sql).pins
}

#[track_caller]
fn only(sql: &str) -> Statement {
    let classified = classify(sql);
    assert!(!classified.parse_error, "does not parse: {sql}");
    classified.only().unwrap_or_else(|| panic!("not one statement: {sql}")).clone()
}

#[track_caller]
fn assert_route(route: Route, statements: &[&str]) {
    for sql in statements {
        let classified = classify(sql);
        assert_eq!(classified.route(), route, "{sql}\n{classified:?}");
    }
}
