//! The client's connection outlives the leader's.

use crate::support::eventually;
use crate::support::postgres::postgres;
use crate::support::proxy::{Proxy, sqlstate};
use crate::support::sidecar::Group;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

/// Ends the server side of a client's connection, as the death of the server would.
async fn kill_server_of(client: &Client, marker: &str) {
    let _ = client;
    eventually("the backend dies", async || {
        let sql = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '{marker}'");
        (postgres().psql("postgres", &sql) != "0").then_some(())
    })
    .await;
    eventually("the backend is gone", async || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{marker}'");
        (postgres().psql("postgres", &sql) == "0").then_some(())
    })
    .await;
}

pub async fn named(proxy: &Proxy, name: &str) -> Client {
    let mut settings = proxy.settings();
    settings.application_name(name);
    proxy.connect_with(&settings).await
}

async fn one(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    client.query_one(sql, &[]).await.map(|row| row.get(0))
}

#[tokio::test]
async fn statements_wait_for_the_next_leader() {
    let group = Group::new(2);
    let proxy = Proxy::start(&group);
    let client = proxy.connect().await;
    client.query("SELECT 1", &[]).await.expect("a leader");
    group.depose();
    leaderless(&proxy).await;
    let waiting = tokio::spawn(async move {
        client.execute("UPDATE items SET name = name WHERE id = 3", &[]).await.expect("ran");
        one(&client, "SHOW howdah.served_by").await.expect("shown")
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    group.promote(2);
    assert_eq!(waiting.await.expect("no panic"), "2");
}

async fn leaderless(proxy: &Proxy) {
    eventually("the proxy sees it", async || proxy.admin("/v1/routing").filter(|(_, text)| text.contains("\"leader\":null")).map(|_| ()))
        .await;
}

#[tokio::test]
async fn a_login_waits_for_a_server() {
    let group = Group::new(1);
    // A client has less time for its own part of the login than it waits here.
    let proxy = Proxy::start_with(&group, "handshake_ms = 1200");
    group.depose();
    leaderless(&proxy).await;
    let settings = proxy.settings();
    let logins: Vec<_> = (0..3).map(|_| settings.clone()).map(|one| tokio::spawn(async move { one.connect(NoTls).await })).collect();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(logins.iter().all(|login| !login.is_finished()));
    group.promote(1);
    for login in logins {
        let (client, connection) = login.await.expect("no panic").expect("logged in");
        tokio::spawn(connection);
        assert_eq!(one(&client, "SELECT 'served'").await.expect("ran"), "served");
    }
}

#[tokio::test]
async fn a_login_does_not_wait_for_ever() {
    let group = Group::new(2);
    let proxy = Proxy::start_with(&group, "queue_ms = 700");
    for node in [1, 2] {
        group.node(node, |status| (status.open, status.epoch) = (false, None));
    }
    leaderless(&proxy).await;
    let begun = Instant::now();
    let error = proxy.settings().connect(NoTls).await.err().expect("no server");
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    let report = error.as_db_error().expect("told");
    assert_eq!((report.code().code(), report.hint()), ("57P03", Some("Try again later.")));
    assert!(report.message().contains("no server is open"), "{}", report.message());
    // A follower is enough to look up a role.
    group.node(2, |status| (status.open, status.epoch) = (true, Some(howdah_protocol::Epoch(crate::support::postgres::EPOCH))));
    eventually("a login", async || proxy.settings().connect(NoTls).await.ok().map(drop)).await;
}

#[tokio::test]
async fn an_idle_session_notices_nothing() {
    let proxy = Proxy::start(&Group::new(1));
    let client = named(&proxy, "idle-session").await;
    client.query("SELECT 1", &[]).await.expect("runs");
    kill_server_of(&client, "idle-session").await;
    client.execute("UPDATE items SET name = name WHERE id = 4", &[]).await.expect("on another server connection");
}

#[tokio::test]
async fn an_open_transaction_gets_40001_and_the_session_lives_on() {
    let proxy = Proxy::start(&Group::new(1));
    let client = named(&proxy, "open-transaction").await;
    for extended in [false, true] {
        let run = async |sql: &str| {
            if extended { client.execute(sql, &[]).await.map(|_| ()) } else { client.batch_execute(sql).await }
        };
        run("BEGIN").await.expect("begun");
        run("UPDATE items SET name = name WHERE id = 5").await.expect("updated");
        kill_server_of(&client, "open-transaction").await;
        assert_eq!(sqlstate(&run("SELECT 1").await.expect_err("lost")), "40001");
        assert_eq!(sqlstate(&run("SELECT 1").await.expect_err("still failed")), "25P02");
        run("ROLLBACK").await.expect("rolled back");
        run("BEGIN").await.expect("begun again");
        kill_server_of(&client, "open-transaction").await;
        assert_eq!(sqlstate(&run("COMMIT").await.expect_err("lost")), "40001");
        run("BEGIN").await.expect("the failed COMMIT ended it");
        kill_server_of(&client, "open-transaction").await;
        run("ROLLBACK").await.expect("what it asks for has happened");
        assert_eq!(one(&client, "SELECT 'alive'").await.expect("alive"), "alive");
    }
}

#[tokio::test]
async fn a_statement_in_flight_is_answered_by_what_it_was() {
    let proxy = Proxy::start(&Group::new(1));
    for (name, begin, sql, code) in [
        ("flight-write", "", "DO 'BEGIN PERFORM pg_sleep(20); END'", Some("08007")),
        ("flight-transaction", "BEGIN", "SELECT 1 FROM pg_sleep(20)", Some("40001")),
    ] {
        let client = named(&proxy, name).await;
        client.batch_execute(begin).await.expect("begun");
        let running = tokio::spawn(async move {
            let result = client.batch_execute(sql).await;
            (client, result)
        });
        wait_until_asleep(name).await;
        postgres().psql("postgres", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'"));
        let (client, result) = running.await.expect("no panic");
        assert_eq!(result.err().map(|error| sqlstate(&error)).as_deref(), code, "{name}");
        let _ = client.batch_execute("ROLLBACK").await;
        client.batch_execute("SELECT 1").await.expect("the session lives on");
    }
}

#[tokio::test]
async fn a_read_in_flight_runs_again() {
    let proxy = Proxy::start(&Group::new(1));
    let client = named(&proxy, "flight-read").await;
    let running = tokio::spawn(async move { one(&client, "SELECT 'done' FROM pg_sleep(1)").await });
    wait_until_asleep("flight-read").await;
    postgres().psql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'flight-read'");
    assert_eq!(running.await.expect("no panic").expect("answered"), "done");
    assert_eq!(proxy.metric("howdah_proxy_retries_lost_total"), 1);
}

pub async fn wait_until_asleep(name: &str) {
    eventually("the statement runs", async || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event = 'PgSleep'");
        (postgres().psql("postgres", &sql) == "1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_runs_on_a_deposed_leader_is_cut() {
    let group = Group::new(2);
    let proxy = Proxy::start(&group);
    let client = named(&proxy, "deposed").await;
    client.batch_execute("BEGIN").await.expect("begun");
    let running = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(60)").await });
    wait_until_asleep("deposed").await;
    group.promote(2);
    let error = running.await.expect("no panic").expect_err("cut");
    assert_eq!(sqlstate(&error), "40001");
}

#[tokio::test]
async fn a_server_of_another_epoch_is_not_used() {
    let group = Group::new(1);
    let proxy = Proxy::start_with(&group, "queue_ms = 500");
    let client = proxy.connect().await;
    client.query("SELECT 1", &[]).await.expect("runs");
    group.node(1, |node| node.epoch = Some(howdah_protocol::Epoch(1)));
    let error = eventually("the proxy hears of the epoch", async || client.query("SELECT 1", &[]).await.err()).await;
    assert_eq!(sqlstate(&error), "57P03");
    assert!(proxy.metric("howdah_proxy_server_epoch_mismatches_total") > 0);
    group.node(1, |node| node.epoch = Some(howdah_protocol::Epoch(crate::support::postgres::EPOCH)));
    eventually("the right epoch", async || client.query("SELECT 1", &[]).await.ok()).await;
}

#[tokio::test]
async fn a_load_survives_changes_of_the_leader() {
    let group = Group::new(3);
    let proxy = Proxy::start(&group);
    let mover = {
        let group = group.clone();
        tokio::spawn(async move {
            for leader in [2, 3, 1, 2] {
                tokio::time::sleep(Duration::from_millis(300)).await;
                group.depose();
                tokio::time::sleep(Duration::from_millis(100)).await;
                group.promote(leader);
            }
        })
    };
    let client = proxy.connect().await;
    let mut done = 0_u32;
    while !mover.is_finished() {
        let result = client.execute("UPDATE items SET name = name WHERE id = 6", &[]).await;
        match result {
            Ok(_) => done += 1,
            Err(error) => assert_eq!(sqlstate(&error), "08007", "{error:?}"),
        }
    }
    assert!(done > 10, "{done}");
}
