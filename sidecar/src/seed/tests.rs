//! A filling's streams against a real server.

use super::keeper::{Keeper, Node, Position};
use super::plan::Form;
use super::session::{Chunk, Error, IDLE_MAX, SOURCE_NAME, Session};
use super::throttle::Throttle;
use crate::apply::tests::server::Server;
use crate::core::pace::Limits;
use crate::pg::installed::programs;
use howdah_protocol::{InstanceId, LogIndex, NodeId};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_secs(30);
const FAST: Limits = Limits { most: 1 << 30, floor: 1 << 30 };

async fn keeper(server: &Server) -> Keeper {
    let client = server.target().connect(SOURCE_NAME, "").await.unwrap();
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1").await.unwrap();
    let position = Position::Log { applied: LogIndex(1), state: "{}".to_owned() };
    let node = Node { instance: InstanceId(1), version: 15, roles: "{}".to_owned() };
    Keeper { client, position, node }
}

async fn open_with(server: &Server, keeper: Keeper) -> Result<Session, Error> {
    Session::open(&server.target(), NodeId(9), 2, Throttle::new(FAST), keeper).await
}

async fn open(server: &Server) -> Session {
    open_with(server, keeper(server).await).await.unwrap()
}

async fn received(mut receive: mpsc::Receiver<Chunk>) -> usize {
    let mut bytes = 0;
    while let Some(chunk) = receive.recv().await {
        bytes += chunk.unwrap().len();
    }
    bytes
}

async fn copied(session: &Session) -> (Result<(), Error>, usize) {
    let (send, receive) = mpsc::channel(64);
    tokio::join!(async move { session.copy(0, Form::Text, &send).await }, received(receive))
}

async fn dumped(session: &Session) -> (Result<(), Error>, usize) {
    let (send, receive) = mpsc::channel(64);
    tokio::join!(async move { session.schema(&programs(), &send).await }, received(receive))
}

async fn waiting(client: &Client, count: i64) {
    const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE relation = 'public.t'::regclass AND NOT granted";
    let deadline = Instant::now() + PATIENCE;
    while client.query_one(WAITING, &[]).await.unwrap().get::<_, i64>(0) != count {
        assert!(Instant::now() < deadline, "{count} sessions wait for the table");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_emptied_once_the_keeper_had_gone_is_not_taken_for_an_empty_one() {
    let server = Server::start("seed-source", "");
    let client = server.client().await;
    client.batch_execute("CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 1000)").await.unwrap();
    let session = open(&server).await;
    let (ended, bytes) = copied(&session).await;
    assert!(ended.is_ok() && bytes > 3000, "{ended:?}, {bytes} bytes");

    // As on a follower: apply waits for the keeper, a stream waits behind apply, and then apply's patience is at its end.
    let applier = server.client().await;
    let truncated = tokio::spawn(async move { applier.batch_execute("TRUNCATE t").await });
    waiting(&client, 1).await;
    let copying = tokio::spawn(async move { copied(&session).await });
    waiting(&client, 2).await;
    const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1 AND state <> 'active'";
    let killed: i64 = client.query_one(END, &[&SOURCE_NAME]).await.unwrap().get(0);
    assert_eq!(killed, 1);
    truncated.await.unwrap().unwrap();
    let (ended, bytes) = copying.await.unwrap();
    assert_eq!(bytes, 0, "the fault did not happen");
    assert!(matches!(ended, Err(Error::Unkept(_))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_took_the_name_of_another_before_the_locks_is_not_taken_for_it() {
    const SWAPS: [&str; 3] = [
        "ALTER TABLE t RENAME TO t_old; CREATE TABLE t (LIKE t_old); INSERT INTO t SELECT * FROM t_old",
        // The lock of the view is one of the table too.
        "ALTER TABLE t RENAME TO t_old; CREATE VIEW t AS SELECT * FROM t_old WHERE id < 5",
        "ALTER SEQUENCE counter RENAME TO counter_old; CREATE SEQUENCE counter",
    ];
    let server = Server::start("seed-swapped", "");
    let client = server.client().await;
    for swap in SWAPS {
        client
            .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE SEQUENCE counter")
            .await
            .unwrap();
        let keeper = keeper(&server).await;
        client.batch_execute(swap).await.unwrap();
        let opened = open_with(&server, keeper).await;
        assert!(matches!(opened, Err(Error::Rewritten)), "{swap}: {:?}", opened.map(|session| session.plan));
        let session = open(&server).await;
        assert!(
            session.plan.tables.iter().any(|table| table.name == "t_old") || session.plan.sequences.len() == 2,
            "{swap}: {:?}",
            session.plan
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_schema_that_took_the_name_of_another_is_not_taken_for_its_namesake() {
    let server = Server::start("seed-renamed", "");
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); INSERT INTO app.t SELECT generate_series(1, 100000);
             CREATE SCHEMA app_new; CREATE TABLE app_new.t (id int PRIMARY KEY); INSERT INTO app_new.t VALUES (7);
             CREATE SCHEMA views; CREATE VIEW views.t AS SELECT id FROM app.t WHERE id <= 7",
        )
        .await
        .unwrap();
    let session = open(&server).await;
    assert_eq!(session.plan.tables[session.plan.pieces[0].table].schema, "app");
    let (ended, all) = copied(&session).await;
    assert!(ended.is_ok() && all > 500_000, "{ended:?}, {all} bytes");
    let (ended, bytes) = dumped(&session).await;
    assert!(ended.is_ok() && bytes > 0, "{ended:?}, {bytes} bytes");

    // No lock keeps anybody from this.
    client
        .batch_execute("ALTER SCHEMA app RENAME TO app_old; ALTER SCHEMA app_new RENAME TO app; ALTER SCHEMA app_old RENAME TO app_new")
        .await
        .unwrap();
    let (ended, bytes) = copied(&session).await;
    assert_eq!(bytes, "7\n".len(), "the fault did not happen");
    assert!(matches!(ended, Err(Error::Rewritten)), "{ended:?}");
    let (ended, _) = dumped(&session).await;
    assert!(matches!(ended, Err(Error::Rewritten)), "{ended:?}");

    // Reading the view is reading the table, and not all of it.
    client.batch_execute("ALTER SCHEMA app RENAME TO app_old; ALTER SCHEMA views RENAME TO app").await.unwrap();
    let (ended, bytes) = copied(&session).await;
    assert!(ended.is_err() && bytes == 0, "{ended:?}, {bytes} bytes");

    // By its name it is found again, and it has been kept.
    client.batch_execute("ALTER SCHEMA app RENAME TO views; ALTER SCHEMA app_new RENAME TO app").await.unwrap();
    let (ended, bytes) = copied(&session).await;
    assert!(ended.is_ok() && bytes == all, "{ended:?}, {bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filling_that_is_kept_is_not_idle() {
    let server = Server::start("seed-kept", "");
    let client = server.client().await;
    let session = open(&server).await;
    let late = tokio::time::Instant::now() + IDLE_MAX + Duration::from_millis(1);
    assert!(session.is_idle(late), "nothing was heard of it");
    // So that the clock shows it.
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(session.keep() && !session.is_idle(late), "it was kept");
    assert!(session.is_idle(late + IDLE_MAX), "it was not kept since");

    const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
    assert_eq!(client.query_one(END, &[&SOURCE_NAME]).await.unwrap().get::<_, i64>(0), 1);
    let deadline = Instant::now() + PATIENCE;
    while session.keep() {
        assert!(Instant::now() < deadline, "what there was to keep has gone");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
