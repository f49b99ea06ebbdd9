//! A COMMIT waits for its decision, whatever it consists of.

use super::fixture::{DEADLINE, Postgres, until, waiting};
use super::log::{Log, Mode};
use crate::admin::outcome::Asker;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

type Outcome = JoinHandle<Result<(), tokio_postgres::Error>>;

/// Runs the statements in a session of their own.
async fn spawn(postgres: &Postgres, sql: &'static str) -> Outcome {
    let client = postgres.client().await;
    tokio::spawn(async move { client.batch_execute(sql).await })
}

async fn done(outcome: Outcome) {
    let ended = tokio::time::timeout(DEADLINE, outcome).await.expect("released in time");
    ended.expect("no panic").expect("no error");
}

async fn run(client: &Client, sql: &str) {
    tokio::time::timeout(DEADLINE, client.batch_execute(sql)).await.expect("released in time").expect("no error");
}

async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_commit_waits_for_its_decision_and_is_invisible_until_then() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let observer = postgres.local().await;
    log.mode(Mode::Hold);
    let write = spawn(&postgres, "INSERT INTO t VALUES (1, 'one')").await;
    until("the entry is proposed", async || log.held() == 1).await;
    until("the commit waits", async || waiting(&observer).await == 1).await;
    assert_eq!(count(&observer).await, 0);
    assert!(!write.is_finished());
    log.release(1);
    done(write).await;
    assert_eq!(count(&observer).await, 1);
    assert_eq!(log.texts(), ["1"]);
    let state = gate.stop().await;
    assert!(state.error.is_none() && state.stopped && !state.attached);
    assert!(state.confirmed >= log.watermark());
}

#[tokio::test]
async fn a_look_up_waits_until_the_rows_are_visible() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let _gate = postgres.gate(&log).await;
    let (observer, client) = (postgres.local().await, postgres.client().await);
    let asker = Asker::new(postgres.target());
    log.mode(Mode::Hold);
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1, 'one')").await.unwrap();
    let xid: String = client.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap().get(0);
    let xid: u64 = xid.parse().unwrap();
    let write = tokio::spawn(async move { client.batch_execute("COMMIT").await });
    until("the commit waits", async || log.held() == 1 && waiting(&observer).await == 1).await;
    assert!(!asker.released(xid).await, "it waits, and does not say so");
    let asked = tokio::spawn(async move { asker.released(xid).await });
    log.release(1);
    assert!(asked.await.unwrap(), "it was released, and does not say so");
    assert_eq!(count(&observer).await, 1);
    done(write).await;
}

#[tokio::test]
async fn commits_are_released_in_order_as_they_are_decided() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let observer = postgres.local().await;
    log.mode(Mode::Hold);
    let mut writes = Vec::new();
    for (nth, sql) in ["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)"].into_iter().enumerate() {
        writes.push(spawn(&postgres, sql).await);
        until("the entry is proposed", async || log.held() == nth + 1).await;
    }
    for (nth, write) in writes.into_iter().enumerate() {
        assert!(!write.is_finished(), "commit {nth} before its decision");
        log.release(1);
        done(write).await;
        let still = i64::try_from(2 - nth).unwrap();
        until("the later ones still wait", async || waiting(&observer).await == still).await;
    }
    assert_eq!(log.texts(), ["1", "2", "3"]);
    assert_eq!(gate.metrics().snapshot().transactions, 3);
}

#[tokio::test]
async fn what_arrives_while_the_line_is_full_goes_into_one_entry() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let _gate = postgres.gate(&log).await;
    let observer = postgres.local().await;
    let in_flight = postgres.options().limits.proposals_in_flight_max;
    log.mode(Mode::Hold);
    let mut writes = Vec::new();
    for _ in 0..in_flight {
        let before = log.held();
        writes.push(spawn(&postgres, "INSERT INTO t SELECT coalesce(max(id), 0) + 1 + pg_backend_pid() FROM t").await);
        until("the entry is proposed", async || log.held() == before + 1).await;
    }
    for _ in 0..10 {
        writes.push(spawn(&postgres, "INSERT INTO t SELECT coalesce(max(id), 0) + 1 + pg_backend_pid() FROM t").await);
    }
    let all = i64::try_from(writes.len()).unwrap();
    until("all wait", async || waiting(&observer).await == all).await;
    // A commit waits before it is decoded.
    let end: String = observer.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap().get(0);
    let sent = format!("SELECT coalesce(bool_and(sent_lsn >= '{end}'), false) FROM pg_stat_replication");
    until("all are sent", async || observer.query_one(&sent, &[]).await.unwrap().get(0)).await;
    assert_eq!(log.held(), in_flight);
    log.release(1);
    until("the rest is proposed", async || log.held() == in_flight).await;
    log.release(in_flight);
    for write in writes {
        done(write).await;
    }
    assert_eq!(log.proposals(), in_flight + 1);
    assert_eq!(log.commits().len(), in_flight + 10);
}

#[tokio::test]
async fn what_changes_no_row_is_released_without_an_entry() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let _gate = postgres.gate(&log).await;
    let client = postgres.client().await;
    for sql in [
        "CREATE TABLE empty (id int PRIMARY KEY)",
        "SELECT * FROM t",
        "BEGIN; SELECT txid_current(); COMMIT",
        "CREATE TEMPORARY TABLE mine (id int); INSERT INTO mine SELECT generate_series(1, 1000)",
        "BEGIN; INSERT INTO t VALUES (1); ROLLBACK",
        "INSERT INTO howdah.progress VALUES (1)",
        "SELECT pg_logical_emit_message(false, 'outside', 'x'); CREATE SEQUENCE s; SELECT nextval('s')",
        "VACUUM t",
    ] {
        run(&client, sql).await;
    }
    assert_eq!(log.proposals(), 0);
    run(&client, "INSERT INTO t VALUES (2)").await;
    assert_eq!(log.texts(), ["2"]);
}

#[tokio::test]
async fn an_empty_transaction_waits_for_those_before_it() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let _gate = postgres.gate(&log).await;
    let observer = postgres.local().await;
    log.mode(Mode::Hold);
    let write = spawn(&postgres, "INSERT INTO t VALUES (1)").await;
    until("the entry is proposed", async || log.held() == 1).await;
    let empty = spawn(&postgres, "CREATE TABLE empty (id int)").await;
    until("both wait", async || waiting(&observer).await == 2).await;
    log.release(1);
    done(write).await;
    done(empty).await;
    assert_eq!(log.proposals(), 1);
}

#[tokio::test]
async fn every_kind_of_change_in_order() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let _gate = postgres.gate(&log).await;
    let client = postgres.client().await;
    run(
        &client,
        "BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'howdah', 'said'); INSERT INTO t VALUES (2); COMMIT",
    )
    .await;
    run(&client, "UPDATE t SET note = 'new' WHERE id = 1; DELETE FROM t WHERE id = 2").await;
    run(&client, "BEGIN; INSERT INTO t VALUES (3); ALTER TABLE t ADD COLUMN more int; INSERT INTO t VALUES (4, '', 5); COMMIT").await;
    run(&client, "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (5); ROLLBACK TO s; INSERT INTO t VALUES (6); COMMIT").await;
    run(&client, "BEGIN; INSERT INTO t VALUES (7); PREPARE TRANSACTION 'p'").await;
    assert_eq!(log.texts(), ["1", "said", "2", "1", "2", "3", "4", "6"]);
    run(&client, "COMMIT PREPARED 'p'").await;
    run(&client, "TRUNCATE t, howdah.progress").await;
    let commits = log.commits();
    let columns: Vec<_> = commits.iter().flat_map(|commit| commit.changes.iter().map(|change| change.columns.len())).collect();
    assert_eq!(columns, [2, 0, 2, 2, 2, 2, 3, 3, 3, 3]);
}

#[tokio::test]
async fn what_this_node_applied_is_not_captured_again() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let (client, applier) = (postgres.client().await, postgres.client().await);
    run(&client, "SELECT pg_replication_origin_create('howdah')").await;
    run(&applier, "SELECT pg_replication_origin_session_setup('howdah')").await;
    run(&applier, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)").await;
    run(&client, "INSERT INTO t VALUES (3)").await;
    assert_eq!(log.texts(), ["3"]);
    // Two statements in one message are one transaction.
    assert_eq!(gate.metrics().snapshot().own, 1);
}
