//! A leader is read from only while nobody else can lead.

use crate::support::eventually;
use crate::support::postgres::postgres;
use crate::support::proxy::{Proxy, sqlstate};
use crate::support::raw::{Raw, field, message};
use crate::support::sidecar::{Group, LEASE_MS};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

async fn read(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.query("SELECT count(*) FROM items", &[]).await.map(|_| ())
}

#[tokio::test]
async fn without_a_lease_nothing_current_is_read_and_weaker_modes_go_on() {
    let group = Group::new(2);
    let proxy = Proxy::start_with(&group, "queue_ms = 700");
    let client = proxy.connect().await;
    read(&client).await.expect("under a lease");
    let (open, idle) = (proxy.connect().await, proxy.connect().await);
    open.batch_execute("BEGIN").await.expect("begun");
    read(&open).await.expect("under a lease");
    idle.batch_execute("BEGIN").await.expect("begun");

    group.lease_ms(0);
    tokio::time::sleep(Duration::from_millis(LEASE_MS)).await;
    let error = read(&client).await.expect_err("refused in time");
    assert_eq!(sqlstate(&error), "57P03");
    assert!(error.as_db_error().is_some_and(|said| said.message().contains("majority")), "{error:?}");
    let error = client.execute("UPDATE items SET name = name WHERE id = 9", &[]).await.expect_err("refused in time");
    assert_eq!(sqlstate(&error), "57P03");
    assert_eq!(sqlstate(&read(&open).await.expect_err("refused in a transaction, too")), "40001");
    open.batch_execute("ROLLBACK").await.expect("the session lives on");
    client.query("/* howdah: eventual */ SELECT count(*) FROM items", &[]).await.expect("a follower's");
    client.batch_execute("SET howdah.replication = async").await.expect("set");
    client.execute("UPDATE items SET name = name WHERE id = 9", &[]).await.expect("waits for nobody");
    assert!(proxy.metric("howdah_proxy_lease_waits_total") >= 3);

    let waiting = tokio::spawn(async move { read(&idle).await.map(|()| idle) });
    group.lease_ms(LEASE_MS);
    let idle = waiting.await.expect("no panic").expect("waited for the lease");
    idle.batch_execute("COMMIT").await.expect("committed");
    eventually("a lease again", async || read(&client).await.ok()).await;
}

#[tokio::test]
async fn a_read_that_is_not_known_to_end_needs_a_lease_in_async_mode_too() {
    let group = Group::new(1);
    let proxy = Proxy::start_with(&group, "queue_ms = 1000");
    let mut raw = Raw::log_in(&proxy).await;
    raw.send(&message(b'Q', b"SET howdah.replication = async\0"));
    assert_eq!(raw.kinds(), "CZ");
    group.lease_ms(0);
    tokio::time::sleep(Duration::from_millis(LEASE_MS)).await;
    let parse = message(b'P', b"\0SELECT count(*) FROM items\0\0\0");
    raw.send(&[parse, message(b'B', &[0; 8]), message(b'E', &[0; 5]), message(b'H', b"")].concat());
    let (kind, body) = raw.message();
    assert_eq!((kind, field(&body, b'C')), (b'E', "57P03".to_owned()));
}

#[tokio::test]
async fn a_pipeline_that_never_ends_needs_a_lease_all_along() {
    let group = Group::new(1);
    let proxy = Proxy::start_with(&group, "queue_ms = 1000");
    let mut raw = Raw::log_in(&proxy).await;
    let parse = message(b'P', b"count\0SELECT count(*) FROM items\0\0\0");
    let flushed = [message(b'B', b"\0count\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'H', b"")].concat();
    raw.send(&[parse, flushed.clone()].concat());
    assert_eq!([raw.message().0, raw.message().0, raw.message().0, raw.message().0], *b"12DC");
    raw.send(&flushed);
    assert_eq!([raw.message().0, raw.message().0, raw.message().0], *b"2DC");

    group.lease_ms(0);
    tokio::time::sleep(Duration::from_millis(LEASE_MS)).await;
    raw.send(&flushed);
    let (kind, body) = raw.message();
    assert_eq!((kind, field(&body, b'C')), (b'E', "40001".to_owned()));
    raw.send(&message(b'S', b""));
    assert_eq!(raw.message(), (b'Z', b"I".to_vec()));

    group.lease_ms(LEASE_MS);
    raw.send(&[flushed, message(b'S', b"")].concat());
    assert_eq!(raw.kinds(), "2DCZ");
}

#[tokio::test]
async fn a_leader_whose_sidecar_falls_silent_is_not_read_from() {
    let group = Group::new(1);
    let proxy = Proxy::start_with(&group, "queue_ms = 300");
    let client = proxy.connect().await;
    read(&client).await.expect("under a lease");
    group.silence(1);
    let silent = Instant::now();
    let mut last = silent;
    loop {
        let began = Instant::now();
        match read(&client).await {
            Ok(()) => last = began,
            Err(error) => {
                assert_eq!(sqlstate(&error), "57P03");
                break;
            }
        }
    }
    assert!(last.duration_since(silent) < Duration::from_millis(LEASE_MS), "a read began {:?} later", last.duration_since(silent));
}

#[tokio::test]
async fn a_read_that_waited_for_a_connection_needs_a_lease_when_it_gets_one() {
    let group = Group::new(1);
    let proxy = Proxy::start_with(&group, "queue_ms = 4000\npool_size = 1\nworkers = 1");
    let (holder, waiter) = (proxy.connect().await, proxy.connect().await);
    read(&waiter).await.expect("under a lease");
    let holds = tokio::spawn(async move { holder.query("SELECT pg_sleep(2)", &[]).await.map(|_| ()) });
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(2)' AND state = 'active'";
    eventually("the only connection is taken", async || (postgres().psql("postgres", sleeps).trim() == "1").then_some(())).await;
    // As one unit: of two, the second would be looked at in any case.
    let waits = tokio::spawn(async move { waiter.simple_query("SELECT count(*) FROM items").await });
    eventually("the other waits for it", async || (proxy.metric("howdah_proxy_pool_waits_total") >= 1).then_some(())).await;
    // Its lease was looked at; now another node may lead.
    group.lease_ms(0);
    holds.await.expect("no panic").expect("it began under a lease");
    let error = waits.await.expect("no panic").expect_err("refused");
    assert_eq!(sqlstate(&error), "57P03");
    assert!(error.as_db_error().is_some_and(|said| said.message().contains("majority")), "{error:?}");
}
