//! The proxy's last words reach a client that is still sending.

use crate::support::eventually;
use crate::support::proxy::{Proxy, sqlstate};
use crate::support::raw::{Raw, field, message};
use crate::support::sidecar::Group;
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

/// More than `message_bytes_max` of the default configuration, and more than any socket holds.
const OVERSIZED_BYTES: usize = 70_000_000;

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_in_words() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    let long = "x".repeat(OVERSIZED_BYTES);
    let error = client.query("SELECT length($1::text)", &[&long]).await.expect_err("too large");
    let report = error.as_db_error().unwrap_or_else(|| panic!("not told: {error:?}"));
    assert_eq!((report.severity(), report.code().code()), ("FATAL", "54000"));
    assert!(report.hint().is_some_and(|hint| hint.contains("message_bytes_max")), "{report:?}");

    // One that reads only when everything is written.
    let mut raw = Raw::log_in(&proxy).await;
    let mut query = message(b'Q', format!("SELECT '{long}'").as_bytes());
    query.push(0);
    raw.send(&query);
    let (kind, body) = raw.message();
    assert_eq!((char::from(kind), field(&body, b'C').as_str()), ('E', "54000"));
    assert!(raw.rest().is_empty());
}

/// A client that was told to go, and stays.
async fn lingering(proxy: &Proxy) -> Raw {
    let mut raw = Raw::log_in(proxy).await;
    raw.send(&message(b'z', b""));
    assert_eq!(raw.message().0, b'E');
    raw
}

#[tokio::test]
async fn who_stays_after_the_last_words_counts_among_the_clients_and_not_for_ever() {
    let proxy = Proxy::start_with(&Group::new(1), "clients_max = 1");
    let stays = lingering(&proxy).await;
    let error = proxy.settings().connect(NoTls).await.err().expect("refused");
    assert_eq!(sqlstate(&error), "53300");
    // It never closes: the proxy does.
    eventually("the place is free", async || proxy.settings().connect(NoTls).await.ok().map(drop)).await;
    drop(stays);
}

#[tokio::test]
async fn who_stays_after_the_last_words_does_not_hold_up_the_end_of_the_proxy() {
    let mut proxy = Proxy::start(&Group::new(1));
    let stays = lingering(&proxy).await;
    let begun = Instant::now();
    proxy.signal("-TERM");
    assert!(proxy.wait_for_exit());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(stays);
}
