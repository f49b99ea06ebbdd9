//! What goes wrong, and what must not happen then.

use super::fixture::{DEADLINE, Postgres, until, waiting};
use super::log::{Log, Mode};
use crate::capture::{Error, ProposeError, drain_tail, read_tail, start};
use crate::core::divergence::Limits;
use crate::pg::replication::{self, Connection};
use howdah_protocol::settings;
use std::time::Duration;

#[tokio::test]
async fn a_refused_proposal_stops_the_line() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let (client, observer) = (postgres.client().await, postgres.local().await);
    log.mode(Mode::Refuse);
    let refused = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
    let mut state = gate.state();
    let stopped = tokio::time::timeout(DEADLINE, state.wait_for(|state| state.stopped)).await.unwrap().unwrap().clone();
    assert!(matches!(stopped.error.as_deref(), Some(Error::Proposal(ProposeError::Refused(_)))), "{stopped:?}");
    log.mode(Mode::Accept);
    let later = postgres.client().await;
    let later = tokio::spawn(async move { later.batch_execute("INSERT INTO t VALUES (2)").await });
    until("both wait, with nobody to release them", async || waiting(&observer).await == 2).await;
    assert_eq!(log.proposals(), 1);
    assert!(!refused.is_finished() && !later.is_finished());
    let sync = observer.query("SELECT FROM pg_stat_replication", &[]).await.unwrap();
    assert!(sync.is_empty(), "no gate is attached");
}

#[tokio::test]
async fn a_lost_proposal_releases_nothing_and_keepalives_are_answered_meanwhile() {
    let postgres = Postgres::start_with(&["wal_sender_timeout='400ms'"]).await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let (client, observer) = (postgres.client().await, postgres.local().await);
    let told = gate.metrics().snapshot().confirmations;
    log.mode(Mode::Lose);
    let lost = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
    until("it is proposed", async || log.proposals() == 1).await;
    // Each answer is to a server that would have given us up otherwise.
    until("many keepalives are answered", async || gate.metrics().snapshot().confirmations > told + 10).await;
    assert!(gate.state().borrow().attached);
    assert!(!lost.is_finished());
    assert_eq!(waiting(&observer).await, 1);
}

#[tokio::test]
async fn a_new_gate_skips_what_the_log_holds_and_releases_its_commit() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let client = postgres.client().await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    log.mode(Mode::Hold);
    let write = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    until("it is proposed", async || log.held() == 1).await;
    gate.stop().await;
    log.release(1);
    assert!(!write.is_finished());
    log.mode(Mode::Accept);
    let mut options = postgres.options();
    options.start_after = log.watermark();
    let again = start(options, log.clone());
    again.attached().await.unwrap();
    tokio::time::timeout(DEADLINE, write).await.expect("released").unwrap().unwrap();
    postgres.client().await.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(log.texts(), ["1", "2", "3"]);
}

#[tokio::test]
async fn after_a_crash_the_tail_is_what_was_not_decided() {
    let mut postgres = Postgres::start().await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    postgres.client().await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    log.mode(Mode::Hold);
    let observer = postgres.local().await;
    let mut writes = Vec::new();
    for id in 2..=6 {
        let client = postgres.client().await;
        writes.push(tokio::spawn(async move { client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await }));
        until("it waits", async || waiting(&observer).await == id - 1).await;
    }
    until("as many as may be are proposed", async || log.held() == postgres.options().limits.proposals_in_flight_max).await;
    log.release(2);
    until("the first two are released", async || writes.iter().filter(|write| write.is_finished()).count() == 2).await;
    postgres.crash();
    let mut state = gate.state();
    let stopped = tokio::time::timeout(DEADLINE, state.wait_for(|state| state.stopped)).await.unwrap().unwrap().clone();
    assert!(matches!(stopped.error.as_deref(), Some(Error::Replication(_))), "{stopped:?}");
    postgres.restart().await;
    let mut options = postgres.options();
    options.start_after = log.watermark();
    let tail = drain_tail(&options).await.unwrap();
    assert_eq!(tail.count, 3);
    // Nothing was confirmed: it reads the same again.
    let divergence = read_tail(&options, Limits::rows(10)).await.unwrap();
    let commits = &divergence.commits;
    assert_eq!((divergence.count, divergence.last_commit, commits.len(), divergence.changes.len()), (3, tail.last_commit, 3, 3));
    assert!(commits.iter().all(|commit| commit.end_lsn > options.start_after));
    assert!(commits.is_sorted_by_key(|commit| commit.end_lsn));
    options.start_after = commits[2].end_lsn;
    assert_eq!(drain_tail(&options).await.unwrap().count, 0);
}

#[tokio::test]
async fn a_server_that_decodes_no_more_is_noticed() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    replication::create_slot(&postgres.target(), settings::SLOT).await.unwrap();
    let mut options = postgres.options();
    options.limits.ping_after = Duration::from_millis(100);
    options.limits.stall_timeout = Duration::from_millis(500);
    let gate = start(options, log.clone());
    gate.attached().await.unwrap();
    let client = postgres.client().await;
    // The commit keeps its lock on a catalog that decoding needs.
    let locked = "CREATE TABLE fresh (id int PRIMARY KEY); BEGIN; LOCK TABLE pg_class; INSERT INTO fresh VALUES (1); COMMIT";
    let stuck = tokio::spawn(async move { client.batch_execute(locked).await });
    let mut state = gate.state();
    let stopped = tokio::time::timeout(DEADLINE, state.wait_for(|state| state.stopped)).await.unwrap().unwrap().clone();
    assert!(matches!(stopped.error.as_deref(), Some(Error::Stalled(_))), "{stopped:?}");
    assert!(!stuck.is_finished());
}

#[tokio::test]
async fn memory_is_bounded_while_the_log_stands_still() {
    let postgres = Postgres::start_with(&["logical_decoding_work_mem='64kB'"]).await;
    let log = Log::default();
    replication::create_slot(&postgres.target(), settings::SLOT).await.unwrap();
    let mut options = postgres.options();
    options.limits.bytes_in_flight_max = 100_000;
    let gate = start(options, log.clone());
    gate.attached().await.unwrap();
    log.mode(Mode::Hold);
    let client = postgres.client().await;
    let load = "INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 50000) n";
    let write = tokio::spawn(async move { client.batch_execute(load).await });
    let observer = postgres.local().await;
    let blocked = "SELECT FROM pg_stat_activity WHERE wait_event = 'WalSenderWriteData'";
    until("Postgres can send no more", async || !observer.query(blocked, &[]).await.unwrap().is_empty()).await;
    let received = gate.metrics().snapshot().received_bytes;
    assert!(received < 1_000_000, "{received} bytes were taken in");
    log.mode(Mode::Accept);
    log.release(log.held());
    tokio::time::timeout(DEADLINE, write).await.expect("released").unwrap().unwrap();
    assert_eq!(log.texts().len(), 50_000);
}

#[tokio::test]
async fn slots_are_made_once_found_missing_and_dropped_twice() {
    let postgres = Postgres::start().await;
    let target = postgres.target();
    let gate = start(postgres.options(), Log::default());
    let error = gate.attached().await.unwrap_err();
    assert!(matches!(&*error, Error::NoSlot(slot) if slot == "howdah"), "{error}");
    let exported = replication::export_slot(&target, settings::SLOT).await.unwrap();
    let reader = postgres.local().await;
    reader.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{}'", exported.snapshot);
    reader.batch_execute(&begin).await.unwrap();
    assert!(reader.query("SELECT FROM t", &[]).await.unwrap().is_empty(), "the row is in the slot, not in the snapshot");
    let twice = replication::create_slot(&target, settings::SLOT).await.unwrap_err();
    assert_eq!(twice.code(), Some("42710"), "{twice}");
    drop(exported);
    for _ in 0..2 {
        replication::drop_slot(&target, settings::SLOT).await.unwrap();
    }
}

#[tokio::test]
async fn passwords_are_proved_and_refusals_say_why() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut postgres = Postgres::start_with(&["listen_addresses='127.0.0.1'", &format!("port={port}")]).await;
    let local = postgres.local().await;
    let users = "SET password_encryption='scram-sha-256'; CREATE ROLE scram LOGIN REPLICATION PASSWORD 'secret';
                 SET password_encryption='md5'; CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'secret'";
    local.batch_execute(users).await.unwrap();
    let rules = "local all all trust\nhost all scram 127.0.0.1/32 scram-sha-256\nhost all md5 127.0.0.1/32 md5\n\
                 host all clear 127.0.0.1/32 password\n";
    std::fs::write(postgres.data().join("pg_hba.conf"), rules).unwrap();
    postgres.crash();
    postgres.restart().await;
    let target = |user: &str, password: Option<&str>| crate::pg::connect::Target {
        host: "127.0.0.1".into(),
        user: user.to_owned(),
        password: password.map(str::to_owned),
        ..postgres.target()
    };
    for user in ["scram", "md5"] {
        let mut connection = Connection::open(&target(user, Some("secret")), "test").await.unwrap();
        let rows = connection.command("IDENTIFY_SYSTEM", "its identity", DEADLINE).await.unwrap();
        assert_eq!(rows[0].len(), 4);
        let wrong = Connection::open(&target(user, Some("wrong")), "test").await.unwrap_err();
        assert_eq!(wrong.code(), Some("28P01"), "{wrong}");
        let none = Connection::open(&target(user, None), "test").await.unwrap_err();
        assert!(matches!(none, replication::Error::NoPassword), "{none}");
    }
    let clear = Connection::open(&target("clear", Some("secret")), "test").await.unwrap_err();
    assert!(matches!(clear, replication::Error::Authentication(_)), "{clear}");
    let mut nowhere = target("scram", None);
    nowhere.port = 1;
    assert!(matches!(Connection::open(&nowhere, "test").await, Err(replication::Error::Connect { .. })));
}
