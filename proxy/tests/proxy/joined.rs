//! A Query behind Parse, Bind, Execute that no Sync ended, as asyncpg sends its COPY.

use crate::support::postgres::{DATABASE, postgres};
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, field, message};
use crate::support::sidecar::Group;

/// Parse and Describe of the unnamed statement, and Flush.
fn described(sql: &str) -> Vec<u8> {
    [message(b'P', format!("\0{sql}\0\0\0").as_bytes()), message(b'D', b"S\0"), message(b'H', b"")].concat()
}

fn executed(sql: &str) -> Vec<u8> {
    [message(b'P', format!("\0{sql}\0\0\0").as_bytes()), message(b'B', &[0; 8]), message(b'E', &[0; 5])].concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

fn expect(raw: &mut Raw, kinds: &[u8]) {
    for kind in kinds {
        let (found, body) = raw.message();
        assert_eq!(char::from(found), char::from(*kind), "{}", String::from_utf8_lossy(&body));
    }
}

fn number(sql: &str) -> u64 {
    postgres().psql(DATABASE, sql).parse().expect("a number")
}

#[tokio::test]
async fn a_copy_and_a_select_end_the_pipeline_before_them() {
    let group = Group::new(2);
    let proxy = Proxy::start(&group);
    postgres().psql(DATABASE, "CREATE TABLE joined_copy (id bigint, name text); GRANT ALL ON joined_copy TO app");
    let mut raw = Raw::log_in_with(&proxy, &[("options", "-c howdah.consistency=eventual")]).await;
    for round in 1..=2 {
        raw.send(&described("SELECT * FROM joined_copy"));
        expect(&mut raw, b"1tT");
        raw.send(&query("COPY joined_copy FROM STDIN"));
        expect(&mut raw, b"G");
        raw.send(&[message(b'd', b"1\tone\n2\ttwo\n"), message(b'c', b"")].concat());
        assert_eq!(raw.kinds(), "CZ");
        assert_eq!(number("SELECT count(*) FROM joined_copy"), round * 2);
        raw.send(&described("SELECT 1"));
        expect(&mut raw, b"1tT");
        raw.send(&query("SELECT id FROM joined_copy LIMIT 1"));
        assert_eq!(raw.kinds(), "TDCZ");
    }
    // All at once, and a write behind a read.
    raw.send(&[executed("SELECT 1"), query("DELETE FROM joined_copy"), query("SELECT 1")].concat());
    assert_eq!((raw.kinds().as_str(), raw.kinds().as_str()), ("12DCCZ", "TDCZ"));
    assert_eq!(number("SELECT count(*) FROM joined_copy"), 0);
    raw.send(&query("SHOW howdah.pin"));
    assert_eq!(raw.kinds(), "TDCZ");
}

#[tokio::test]
async fn it_runs_in_the_transaction_of_what_came_before() {
    let proxy = Proxy::start(&Group::new(1));
    postgres().psql(DATABASE, "CREATE TABLE joined_transaction (id bigint PRIMARY KEY); GRANT ALL ON joined_transaction TO app");
    let mut raw = Raw::log_in(&proxy).await;
    let insert = executed("INSERT INTO joined_transaction VALUES (1)");
    let rows = || number("SELECT count(*) FROM joined_transaction");
    raw.send(&[insert.clone(), query("SELECT 1/0")].concat());
    assert_eq!(raw.kinds(), "12CEZ");
    assert_eq!(rows(), 0, "the error of the Query took it back");
    raw.send(&[insert.clone(), message(b'H', b"")].concat());
    expect(&mut raw, b"12C");
    raw.send(&query("SET synchronous_commit = off"));
    assert_eq!(raw.kinds(), "EZ");
    assert_eq!(rows(), 0, "and so does an error of the proxy's own");
    raw.send(&[insert.clone(), query("BEGIN")].concat());
    let messages = raw.until_ready();
    assert_eq!(messages.last().expect("ready").1, b"T");
    raw.send(&query("ROLLBACK"));
    assert_eq!(raw.kinds(), "CZ");
    assert_eq!(rows(), 0, "BEGIN made it part of a block");
    raw.send(&[insert, query("SHOW howdah.route")].concat());
    assert_eq!(raw.kinds(), "12CTDCZ");
    assert_eq!(rows(), 1, "what the proxy answers by itself ends the transaction, too");
    raw.send(&[message(b'B', &[0; 8]), message(b'S', b"")].concat());
    let error = raw.until_ready();
    assert_eq!(field(&error[0].1, b'C'), "26000", "a Query takes the unnamed statement away");
}

#[tokio::test]
async fn after_an_error_before_it_only_a_sync_counts() {
    let proxy = Proxy::start(&Group::new(1));
    postgres().psql(DATABASE, "CREATE TABLE joined_error (id bigint); GRANT ALL ON joined_error TO app");
    for (what, failing, before) in [
        ("the server's error", described("SELECT nothing FROM nowhere"), &b""[..]),
        ("an error while it is bound", executed("SELECT 1/0"), b"1"),
        ("the proxy's error", described("SET synchronous_commit = off"), b""),
    ] {
        for together in [true, false] {
            let mut raw = Raw::log_in(&proxy).await;
            let write = query("INSERT INTO joined_error VALUES (1)");
            if together {
                raw.send(&[failing.clone(), write].concat());
                expect(&mut raw, before);
                expect(&mut raw, b"E");
            } else {
                raw.send(&[failing.clone(), message(b'H', b"")].concat());
                expect(&mut raw, before);
                expect(&mut raw, b"E");
                raw.send(&write);
            }
            raw.send(&[query("SELECT 1"), message(b'S', b"")].concat());
            assert_eq!(raw.until_ready(), [(b'Z', b"I".to_vec())], "{what}, {together}: nothing but the Sync is answered");
            raw.send(&query("SELECT 1"));
            assert_eq!(raw.kinds(), "TDCZ", "{what}: the session goes on");
        }
    }
    assert_eq!(number("SELECT count(*) FROM joined_error"), 0);
}
