//! Sessions that must keep their server connection, and cancel requests.

use crate::failover::{named, wait_until_asleep};
use crate::support::eventually;
use crate::support::postgres::postgres;
use crate::support::proxy::{Proxy, sqlstate};
use crate::support::raw::{Raw, message};
use crate::support::sidecar::Group;
use futures::StreamExt;
use std::time::Duration;
use tokio_postgres::{AsyncMessage, Client, NoTls};

async fn pin(client: &Client) -> String {
    client.query_one("SHOW howdah.pin", &[]).await.expect("shown").get(0)
}

async fn backend(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.expect("a pid").get(0)
}

#[tokio::test]
async fn what_cannot_follow_the_session_pins_it() {
    let proxy = Proxy::start(&Group::new(1));
    for (sql, reason) in [
        ("CREATE TEMP TABLE scratch (id int)", "temp_table"),
        ("SELECT pg_advisory_lock(42)", "session_lock"),
        ("LISTEN news", "listen"),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "hold_cursor"),
        ("PREPARE p AS SELECT 1", "prepared"),
        ("SET ROLE postgres", "setting"),
    ] {
        let client = proxy.connect().await;
        let other = proxy.connect().await;
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(pin(&client).await, reason, "{sql}");
        let pid = backend(&client).await;
        for _ in 0..3 {
            assert_ne!(backend(&other).await, pid, "{sql}: nobody else is given the connection");
            assert_eq!(backend(&client).await, pid, "{sql}");
        }
        client.batch_execute("DISCARD ALL").await.expect("discarded");
        assert_eq!(pin(&client).await, "", "{sql}");
        drop(client);
    }
}

#[tokio::test]
async fn a_pinned_connection_is_closed_with_its_client() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    client.batch_execute("CREATE TEMP TABLE scratch (id int); INSERT INTO scratch VALUES (1)").await.expect("created");
    client.query_one("SELECT id FROM scratch", &[]).await.expect("there");
    let pid = backend(&client).await;
    drop(client);
    eventually("the backend ends", async || {
        (postgres().psql("postgres", &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) == "0").then_some(())
    })
    .await;
    let next = proxy.connect().await;
    next.query("SELECT id FROM scratch", &[]).await.expect_err("not left behind");
}

#[tokio::test]
async fn a_pinned_session_whose_server_dies_is_told_and_ends() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    client.batch_execute("CREATE TEMP TABLE scratch (id int)").await.expect("created");
    let pid = backend(&client).await;
    postgres().psql("postgres", &format!("SELECT pg_terminate_backend({pid})"));
    let error = eventually("the end", async || client.query("SELECT 1", &[]).await.err()).await;
    assert!(error.is_closed() || sqlstate(&error) == "57P01", "{error:?}");
}

#[tokio::test]
async fn a_listener_is_notified_while_it_is_idle() {
    let proxy = Proxy::start(&Group::new(1));
    let (client, mut connection) = proxy.settings().connect(NoTls).await.expect("connected");
    let (sender, mut receiver) = futures::channel::mpsc::unbounded();
    tokio::spawn(async move {
        let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.unbounded_send(notification.payload().to_owned());
            }
        }
    });
    client.batch_execute("LISTEN greetings").await.expect("listening");
    let other = proxy.connect().await;
    other.batch_execute("NOTIFY greetings, 'hello'").await.expect("sent");
    let payload = tokio::time::timeout(Duration::from_secs(10), receiver.next()).await.expect("in time");
    assert_eq!(payload.as_deref(), Some("hello"));
}

#[tokio::test]
async fn a_read_is_cancelled_and_a_write_is_not() {
    let proxy = Proxy::start(&Group::new(1));
    let client = named(&proxy, "cancelled").await;
    let token = client.cancel_token();
    let running = tokio::spawn(async move {
        let result = client.batch_execute("SELECT pg_sleep(30)").await;
        (client, result)
    });
    wait_until_asleep("cancelled").await;
    token.cancel_query(NoTls).await.expect("sent");
    let (client, result) = running.await.expect("no panic");
    assert_eq!(sqlstate(&result.expect_err("cancelled")), "57014");
    // The cancel request's own connection is counted when it ends, which nobody waits for.
    eventually("counted", async || (proxy.metric("howdah_proxy_cancels_forwarded_total") == 1).then_some(())).await;

    let write = "DO $$ BEGIN PERFORM pg_sleep(1.25); END $$";
    let running = tokio::spawn(async move {
        let result = client.batch_execute(write).await;
        (client, result)
    });
    wait_until_asleep("cancelled").await;
    token.cancel_query(NoTls).await.expect("sent");
    let (client, result) = running.await.expect("no panic");
    result.expect("a commit is never cancelled");
    eventually("counted", async || (proxy.metric("howdah_proxy_cancels_dropped_total") == 1).then_some(())).await;
    client.batch_execute("SELECT 1").await.expect("alive");
}

#[tokio::test]
async fn a_cancel_in_a_transaction_fails_the_statement_only() {
    let proxy = Proxy::start(&Group::new(1));
    let mut client = named(&proxy, "cancelled-transaction").await;
    let token = client.cancel_token();
    let transaction = client.transaction().await.expect("begun");
    let cancel = async {
        wait_until_asleep("cancelled-transaction").await;
        token.cancel_query(NoTls).await
    };
    let (sent, result) = tokio::join!(cancel, transaction.batch_execute("SELECT pg_sleep(30)"));
    sent.expect("sent");
    assert_eq!(sqlstate(&result.expect_err("cancelled")), "57014");
    transaction.rollback().await.expect("rolled back");
    client.batch_execute("SELECT 1").await.expect("alive");
}

#[tokio::test]
async fn a_transaction_is_not_pinned_beyond_its_end() {
    let proxy = Proxy::start_with(&Group::new(1), "pool_size = 1\nworkers = 1");
    let one = proxy.connect().await;
    let other = proxy.connect().await;
    one.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT").await.expect("runs");
    other.batch_execute("SELECT 1").await.expect("the one connection is free");
    let mut raw = Raw::log_in(&proxy).await;
    raw.send(&message(b'Q', b"SELECT pg_try_advisory_xact_lock(7)\0"));
    assert_eq!(raw.kinds(), "TDCZ");
    other.batch_execute("SELECT 1").await.expect("the one connection is free");
}
